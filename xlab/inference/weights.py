"""A decoder's weights as decoding wants them: prepared once, in the type they have, in fp32, bf16 or int8.

Letters: N outputs and K inputs of a projection, M rows of inputs.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xlab.errors import GenerationError
from xlab.inference.lean_parts import lean
from xlab.inference.packed_linear import PackedLinear, can_pack
from xlab.transformer.decoder import Decoder

_INT8_BLOCK = 16  # inputs that PyTorch's kernel takes at a time; a rest it would read beyond the weights' end
Precision = Literal["keep", "fp32", "bf16", "int8"]


@dataclass(frozen=True)
class Prepared:
    """A decoder to decode with.

    Attributes:
        decoder: gives hidden states; it shares what did not change with the one it was made of.
        project: gives logits for them.
        dtype: of hidden states and cache.
    """

    decoder: Decoder
    project: Callable[[Tensor], Tensor]
    dtype: torch.dtype


def prepare(decoder: Decoder, precision: Precision = "keep", *, leaner: bool = True) -> Prepared:
    """Prepare a decoder's weights; the decoder itself stays as it is.

    Args:
        decoder: in training or not.
        precision: "keep" leaves the numbers as they are; "int8" rounds every matrix, by output, and computes in bf16.
        leaner: whether to replace parts by those of fewer operations; a compiler does that by itself.

    Raises:
        GenerationError: for a precision that there is not.
    """
    weight = decoder.embedding.weight.detach()
    dtypes = {"keep": weight.dtype, "fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.bfloat16}
    if precision not in dtypes:
        raise GenerationError(f'precision must be "keep", "fp32", "bf16" or "int8", got {precision!r}')
    dtype = dtypes[precision]
    # the tensors are shared: only what has another type afterwards is copied
    shared = {id(tensor): tensor for tensor in chain(decoder.parameters(), decoder.buffers())}
    twin = copy.deepcopy(decoder, shared).eval()
    make: type[Int8Linear | PackedLinear | PlainLinear] = Int8Linear if precision == "int8" else PlainLinear
    if make is PlainLinear and can_pack(weight.device, dtype):
        make = PackedLinear
    # a tied table that is packed is held a second time, for looking up: oneDNN's order cannot be indexed
    projection = make(twin.unembedding.detach(), None, dtype)
    if precision != "int8":
        twin.embedding = _Embedding(weight.to(dtype))  # type: ignore[assignment]
    elif twin.output is None:
        twin.embedding = Int8Embedding(projection)  # type: ignore[assignment, arg-type]
    else:
        twin.embedding = Int8Embedding(Int8Linear(weight, None, dtype))  # type: ignore[assignment]
    twin.output = None
    _replace(twin, make, dtype, is_lean=leaner and weight.device.type == "cpu")
    head = decoder.head
    is_bare = head.scale == 1 and head.cap is None

    def project(hidden: Tensor) -> Tensor:
        return head.bounded(projection(head.scaled(hidden)))

    return Prepared(twin, projection if is_bare else project, dtype)


def _replace(
    module: nn.Module,
    make: Callable[[Tensor, Tensor | None, torch.dtype], nn.Module],
    dtype: torch.dtype,
    *,
    is_lean: bool,
) -> None:
    """Give each projection below ``module`` its prepared form, and every other number its type."""
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            bias = None if child.bias is None else child.bias.detach()
            setattr(module, name, make(child.weight.detach(), bias, dtype))
        elif type(child) is nn.Embedding and make is Int8Linear:
            setattr(module, name, Int8Embedding(Int8Linear(child.weight.detach(), None, dtype)))
        elif not isinstance(child, Int8Linear | Int8Embedding | _Embedding):
            if is_lean and (leaner := lean(child, dtype)) is not None:
                child = leaner
                setattr(module, name, child)
            _replace(child, make, dtype, is_lean=is_lean)
    for name, parameter in module.named_parameters(recurse=False):
        # no assignment to .data: the original shares this tensor
        setattr(module, name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.is_floating_point() and not isinstance(module, Int8Linear | _Embedding):
            setattr(module, name, buffer.to(dtype))


class Int8Linear(nn.Module):
    """A projection whose weights are int8, with a scale for each output; inputs stay as they are.

    Args:
        weight: (N, K).
        bias: (N,), or None.
        dtype: of inputs and outputs.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        scale = weight.float().abs().amax(dim=1).clamp(min=1e-12) / 127
        self.register_buffer("weight", (weight / scale.unsqueeze(1)).round().to(torch.int8))
        self.register_buffer("scale", scale.to(dtype))
        self.register_buffer("bias", None if bias is None else bias.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.size(-1))  # (M, K)
        if x.is_cpu and x.dtype == torch.bfloat16 and rows.size(1) % _INT8_BLOCK == 0:
            y = torch._weight_int8pack_mm(rows, self.weight, self.scale)
        else:
            y = F.linear(rows, self.weight.to(x.dtype)) * self.scale
        if self.bias is not None:
            y = y + self.bias
        return y.view(*x.shape[:-1], -1)


class Int8Embedding(nn.Module):
    """Rows of an int8 table, which may be the vocabulary projection's own."""

    def __init__(self, table: Int8Linear) -> None:
        super().__init__()
        self.table = table

    @property
    def weight(self) -> Tensor:
        return self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.table.weight[ids].to(self.table.scale.dtype) * self.table.scale[ids].unsqueeze(-1)


class _Embedding(nn.Module):
    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)


class PlainLinear(nn.Module):
    """A projection as PyTorch computes it."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("weight", weight.to(dtype))
        self.register_buffer("bias", None if bias is None else bias.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)
