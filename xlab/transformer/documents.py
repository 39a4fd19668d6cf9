"""Several documents in a row: none sees another, and each counts its places from its own beginning.

Letters: B batch, T positions, S keys, H query heads, Dh width of a head.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xlab.transformer.kernels import FusedAttention
from xlab.transformer.key_ranges import KeyRanges
from xlab.transformer.placements import FUSED, Placement
from xlab.transformer.positions import Position


def place_documents(documents: Tensor) -> Placement:
    """Where the tokens of a batch of packed documents stand, and what they may see.

    Args:
        documents: (B, T) numbers that differ where one document ends and the next begins.
    """
    begins = documents[:, 1:] != documents[:, :-1]
    if not begins.any():  # one document a row: what is causal says it all
        return Placement(documents.size(1), documents.device)
    return DocumentPlacement(documents)


class DocumentPlacement(Placement):
    """A pass without a cache over rows that hold several documents; see ``KeyRanges`` for how it attends.

    Args:
        documents: (B, T) numbers that differ where one document ends and the next begins.

    Attributes:
        starts: (B, T) the place in its row where each token's document begins.
    """

    def __init__(self, documents: Tensor) -> None:
        places = torch.arange(documents.size(1), device=documents.device)
        begins = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True)
        self.starts: Tensor = torch.where(begins, places, 0).cummax(dim=1).values
        self.positions = places - self.starts
        self._places = places
        self._position: Position | None = None
        self._ranges: dict[int | None, KeyRanges] = {}

    @property
    def key_positions(self) -> Tensor:
        """Of the keys in their rows, (T,)."""
        return self._places

    def visible(self, window: int | None = None) -> Tensor:
        """Which keys each token may see, (B, 1, T, T): as a whole, for small T only."""
        return self.ranges(window).visible(0, 0, self._places.numel())

    def masking(self, position: Position, window: int | None = None) -> tuple[Tensor | None, bool]:
        """Leave the mask to ``mix``, which makes it piece by piece."""
        some = self._places[:2]
        self._position = position if position.bias(some, some) is not None else None
        return None, True

    def mix(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        kernel: FusedAttention = FUSED,
        window: int | None = None,
        **settings: Any,
    ) -> Tensor:
        known = {key: settings[key] for key in ("dropout_p", "enable_gqa") if key in settings}  # the mask is our own
        return self.ranges(window).attend(queries, keys, values, kernel, **known)

    def ranges(self, window: int | None = None) -> KeyRanges:
        """Which keys the tokens may see, in layers of that window."""
        if window not in self._ranges:
            earliest = self.starts
            if window is not None:
                earliest = torch.maximum(earliest, self._places - window + 1)
            self._ranges[window] = KeyRanges(earliest, bias=None if self._position is None else self._bias)
        return self._ranges[window]

    def _bias(self, start: int, first: int, end: int) -> Tensor:
        biases = []
        assert self._position is not None
        # rows stand at different places, and a position takes keys that are the same for all
        for row in self.positions:
            bias = self._position.bias(row[start:end], row[first:end])  # (1, H, T, S)
            assert bias is not None
            biases.append(bias)
        return torch.cat(biases)
