"""A projection whose weights lie in the order in which the CPU's matrix products read them.

Letters: N outputs and K inputs of a projection.
"""

from functools import cache
from itertools import count
from weakref import finalize

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """A projection over weights in oneDNN's own order: at few rows twice as fast, or more, as ``F.linear``.

    Args:
        weight: (N, K).
        bias: (N,), or None.
        dtype: of weights, inputs and outputs.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        # the order depends on the rows expected; that for 8 serves 1 as well
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype).contiguous(), 8)
        self.bias = None if bias is None else bias.to(dtype)
        self.n_outputs = weight.size(0)
        self.number = next(_numbers)
        _packed[self.number] = self.weight, self.bias
        finalize(self, _packed.pop, self.number)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            y: Tensor = torch.ops.xlab.packed_linear(x, self.number, self.n_outputs)
            return y
        return _multiply(x, self.weight, self.bias)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = _product(x, weight, bias, "none", [], "")
    return y


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there is such an order for weights of this type."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


_product = torch.ops.mkldnn._linear_pointwise.default
_numbers = count()
_packed: dict[int, tuple[Tensor, Tensor | None]] = {}


@cache  # the import behind it takes seconds, which only compiling needs
def register() -> None:
    """Make the products an operation that the compiler leaves alone.

    The compiler can trace no tensor in oneDNN's order, so it sees a number instead. Its own way, freezing, packs the
    weights once more for every number of rows, and keeps nothing from one run to the next.
    """
    # not torch.library.custom_op, whose calls take five times as long
    library = torch.library.Library("xlab", "DEF")  # type: ignore[no-untyped-call]
    library.define("packed_linear(Tensor x, int number, int n_outputs) -> Tensor")  # type: ignore[no-untyped-call]
    library.impl(  # type: ignore[no-untyped-call]
        "packed_linear", lambda x, number, n_outputs: _multiply(x, *_packed[number]), "CPU"
    )
    torch.library.register_fake(
        "xlab::packed_linear", lambda x, number, n_outputs: x.new_empty(*x.shape[:-1], n_outputs), lib=library
    )
    _kept.append(library)  # the operation ends with it


_kept: list[torch.library.Library] = []
