"""How one tensor of XLab's lies in a published model: as it is, transposed, in pieces, or with its rows interleaved.

Letters: H query heads, G key-value heads, Dh width of a head, D width of the model.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


class Layout(ABC):
    """A way of laying a tensor out, and the way back."""

    @abstractmethod
    def join(self, theirs: Sequence[Tensor]) -> Tensor:
        """Make XLab's tensor of the published ones."""

    @abstractmethod
    def split(self, ours: Tensor) -> list[Tensor]:
        """Make the published tensors of XLab's."""


class AsItIs(Layout):
    """The same tensor."""

    def join(self, theirs: Sequence[Tensor]) -> Tensor:
        (tensor,) = theirs
        return tensor

    def split(self, ours: Tensor) -> list[Tensor]:
        return [ours]


class Transposed(Layout):
    """A matrix as GPT-2 writes it: inputs in rows, outputs in columns."""

    def join(self, theirs: Sequence[Tensor]) -> Tensor:
        (tensor,) = theirs
        return tensor.t().contiguous()

    def split(self, ours: Tensor) -> list[Tensor]:
        return [ours.t().contiguous()]


@dataclass(frozen=True)
class Pieces(Layout):
    """Tensors that XLab keeps as one, their rows one after the other.

    Args:
        n_rows: of each piece.
    """

    n_rows: tuple[int, ...]

    def join(self, theirs: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(theirs))

    def split(self, ours: Tensor) -> list[Tensor]:
        return [piece.contiguous() for piece in torch.split(ours, list(self.n_rows))]


@dataclass(frozen=True)
class HeadByHead(Layout):
    """GPT-NeoX's rows: query, key and value of the first head, then of the second (XLab: all queries first).

    Args:
        n_heads: number of heads H; each has keys and values of its own.
    """

    n_heads: int

    def join(self, theirs: Sequence[Tensor]) -> Tensor:
        (tensor,) = theirs  # (H · 3 · Dh, D), or (H · 3 · Dh) of a bias
        return torch.unflatten(tensor, 0, (self.n_heads, 3, -1)).transpose(0, 1).flatten(0, 2)

    def split(self, ours: Tensor) -> list[Tensor]:
        return [torch.unflatten(ours, 0, (3, self.n_heads, -1)).transpose(0, 1).flatten(0, 2)]


@dataclass(frozen=True)
class TensorRule:
    """One tensor of a decoder's, and where it lies in a published model.

    Attributes:
        ours: its name in ``Decoder.state_dict()``.
        theirs: the names of the published tensors, in the order of the layout's pieces.
        layout: how they lie.
    """

    ours: str
    theirs: tuple[str, ...]
    layout: Layout = field(default_factory=AsItIs)

    def join(self, theirs: Sequence[Tensor]) -> Tensor:
        """Make XLab's tensor of the published ones, given in the order of ``theirs``."""
        return self.layout.join(theirs)

    def split(self, ours: Tensor) -> list[Tensor]:
        """Make the published tensors, in the order of ``theirs``; also on the meta device, for their shapes."""
        return self.layout.split(ours)


def both(ours: str, theirs: str, *, bias: bool, layout: Layout | None = None) -> list[TensorRule]:
    """Give the rules of a projection's weight, and of its bias if it has one; a bias is never transposed."""
    rules = [TensorRule(f"{ours}.weight", (f"{theirs}.weight",), layout or AsItIs())]
    if bias:
        flat = AsItIs() if layout is None or isinstance(layout, Transposed) else layout
        rules.append(TensorRule(f"{ours}.bias", (f"{theirs}.bias",), flat))
    return rules


def joined(ours: str, theirs: Sequence[str], n_rows: Sequence[int], *, bias: bool) -> list[TensorRule]:
    """Give the rules of projections that XLab keeps as one, and of their biases if they have them."""
    ends = ("weight", "bias") if bias else ("weight",)
    layout = Pieces(tuple(n_rows))
    return [TensorRule(f"{ours}.{end}", tuple(f"{name}.{end}" for name in theirs), layout) for end in ends]
