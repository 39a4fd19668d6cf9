"""Several documents in a row: none sees another, and each counts its places from its own beginning.

Letters: B batch, T positions, S keys, H query heads, Dh width of a head.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xlab.transformer.kv_cache import Placement
from xlab.transformer.positions import Position

_QUERIES_AT_ONCE = 256
_SMALLEST_HEAD = 16  # that flex_attention's kernels take


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
    """A pass without a cache over rows that hold several documents.

    The mask is never made as a whole. On a CPU, and wherever flex_attention does not reach, queries attend block by
    block, to the keys from the earliest beginning of a document that the block is in: memory grows with T, and where
    documents are short so does the work.

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

    @property
    def key_positions(self) -> Tensor:
        """Of the keys in their rows, (T,)."""
        return self._places

    @property
    def is_plain(self) -> bool:
        return False

    def visible(self) -> Tensor:
        """Which keys each token may see, (B, 1, T, T): as a whole, for small T only."""
        return self._visible(0, 0, self._places.numel())

    def masking(self, position: Position) -> tuple[Tensor | None, bool]:
        """Leave the mask to ``mix``, which makes it piece by piece."""
        some = self._places[:2]
        self._position = position if position.bias(some, some) is not None else None
        return None, True

    def mix(self, queries: Tensor, keys: Tensor, values: Tensor, **settings: Any) -> Tensor:
        dropout_p, is_grouped = settings.get("dropout_p", 0.0), settings.get("enable_gqa", False)
        if queries.is_cuda and self._position is None and not dropout_p and queries.size(-1) >= _SMALLEST_HEAD:
            return self._flex(queries, keys, values, is_grouped)
        return self._by_blocks(queries, keys, values, dropout_p, is_grouped)

    def _by_blocks(self, queries: Tensor, keys: Tensor, values: Tensor, dropout_p: float, is_grouped: bool) -> Tensor:
        mixed = []
        for start, first in self._blocks:
            end = min(start + _QUERIES_AT_ONCE, queries.size(2))
            mixed.append(
                F.scaled_dot_product_attention(
                    queries[:, :, start:end],
                    keys[:, :, first:end],
                    values[:, :, first:end],
                    attn_mask=self._mask(start, first, end),
                    dropout_p=dropout_p,
                    enable_gqa=is_grouped,
                )
            )
        return torch.cat(mixed, dim=2)

    @functools.cached_property
    def _blocks(self) -> list[tuple[int, int]]:
        """Where each block of queries begins, and the first key that any row's queries in it may see."""
        starts = range(0, self._places.numel(), _QUERIES_AT_ONCE)
        earliest = self.starts[:, ::_QUERIES_AT_ONCE].amin(dim=0)  # a row's documents begin ever later
        return list(zip(starts, earliest.tolist(), strict=True))

    def _visible(self, start: int, first: int, end: int) -> Tensor:
        """Which of the keys ``first`` … ``end`` the queries ``start`` … ``end`` may see, (B, 1, T, S)."""
        keys = self._places[first:end]
        seen = (keys <= self._places[start:end, None]) & (keys >= self.starts[:, start:end, None])
        return seen.unsqueeze(1)

    def _mask(self, start: int, first: int, end: int) -> Tensor:
        visible = self._visible(start, first, end)
        if self._position is None:
            return visible
        biases = []
        # rows stand at different places, and a position takes keys that are the same for all
        for row in self.positions:
            bias = self._position.bias(row[start:end], row[first:end])  # (1, H, T, S)
            assert bias is not None
            biases.append(bias)
        return torch.cat(biases).masked_fill(~visible, float("-inf"))

    def _flex(self, queries: Tensor, keys: Tensor, values: Tensor, is_grouped: bool) -> Tensor:
        flex_attention, _ = _compiled()
        mixed: Tensor = flex_attention(queries, keys, values, block_mask=self._block_mask, enable_gqa=is_grouped)
        return mixed

    @functools.cached_property
    def _block_mask(self) -> Any:
        starts = self.starts
        n_rows, n_tokens = starts.shape

        def is_visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (key <= query) & (key >= starts[row, query])

        _, create_block_mask = _compiled()
        return create_block_mask(is_visible, n_rows, None, n_tokens, n_tokens, device=starts.device)


@functools.cache
def _compiled() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """flex_attention and what makes its mask; uncompiled they would make all T × T scores."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    return torch.compile(flex_attention), torch.compile(create_block_mask)
