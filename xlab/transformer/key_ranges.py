"""Causal attention in which each query sees the keys from some place on: a sliding window, or its own document.

The mask is never made as a whole. On a CPU, and wherever flex_attention does not reach, queries attend block by block,
to the keys from the earliest that any of them may see: memory grows with T, and where ranges are short so does the
work.

Letters: B batch, T positions, S keys, H query heads, Dh width of a head.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from xlab.transformer.kernels import FusedAttention

QUERIES_AT_ONCE = 256
_SMALLEST_HEAD = 16  # that flex_attention's kernels take


class KeyRanges:
    """Which keys the queries of one pass may see: each those from its own range's beginning to itself.

    Args:
        earliest: (B or 1, T) the place of the first key that each query may see.
        firsts: the least of them in each block of ``QUERIES_AT_ONCE`` queries; to find them out waits for the device.
        bias: gives what to add to the scores of queries ``start`` … ``end`` and keys ``first`` … ``end``, (B or 1, H,
            T, S).
    """

    def __init__(
        self,
        earliest: Tensor,
        firsts: Sequence[int] | None = None,
        bias: Callable[[int, int, int], Tensor] | None = None,
    ) -> None:
        self.earliest, self._bias = earliest, bias
        self._places = torch.arange(earliest.size(1), device=earliest.device)
        self._firsts: list[int] | None = None if firsts is None else list(firsts)

    def _first_keys(self) -> list[int]:
        if torch.compiler.is_compiling():  # which cannot look at data: the mask alone says who is seen
            return [0] * -(-self.earliest.size(1) // QUERIES_AT_ONCE)
        if self._firsts is None:
            padded = torch.split(self.earliest, QUERIES_AT_ONCE, dim=1)
            self._firsts = torch.stack([block.amin() for block in padded]).tolist()
        return self._firsts

    def visible(self, start: int, first: int, end: int) -> Tensor:
        """Which of the keys ``first`` … ``end`` the queries ``start`` … ``end`` may see, (B or 1, 1, T, S)."""
        keys = self._places[first:end]
        seen = (keys <= self._places[start:end, None]) & (keys >= self.earliest[:, start:end, None])
        return seen.unsqueeze(1)

    def attend(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        kernel: FusedAttention,
        *,
        dropout_p: float = 0.0,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Mix values, (B, H, T, Dh)."""
        is_simple = kernel.is_fused and self._bias is None and not dropout_p
        if queries.is_cuda and is_simple and queries.size(-1) >= _SMALLEST_HEAD:
            return self.by_flex(queries, keys, values, kernel, enable_gqa=enable_gqa)
        mixed = []
        for start, first in zip(range(0, queries.size(2), QUERIES_AT_ONCE), self._first_keys(), strict=True):
            end = min(start + QUERIES_AT_ONCE, queries.size(2))
            mask = self.visible(start, first, end)
            if self._bias is not None:
                mask = self._bias(start, first, end).masked_fill(~mask, float("-inf"))
            mixed.append(
                kernel(
                    queries[:, :, start:end],
                    keys[:, :, first:end],
                    values[:, :, first:end],
                    attn_mask=mask,
                    dropout_p=dropout_p,
                    enable_gqa=enable_gqa,
                )
            )
        return torch.cat(mixed, dim=2)

    def by_flex(
        self, queries: Tensor, keys: Tensor, values: Tensor, kernel: FusedAttention, *, enable_gqa: bool
    ) -> Tensor:
        """What ``attend`` gives, by flex_attention, which skips the blocks that nobody sees."""
        flex_attention, _ = _compiled()
        mixed: Tensor = flex_attention(
            queries, keys, values, block_mask=self._block_mask, enable_gqa=enable_gqa, scale=kernel.scale
        )
        return mixed

    @functools.cached_property
    def _block_mask(self) -> Any:
        earliest = self.earliest
        n_rows, n_tokens = earliest.shape

        def is_visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (key <= query) & (key >= earliest[row if n_rows > 1 else 0, query])

        _, create_block_mask = _compiled()
        rows = n_rows if n_rows > 1 else None
        return create_block_mask(is_visible, rows, None, n_tokens, n_tokens, device=earliest.device)


def window_ranges(n_tokens: int, window: int | None, device: torch.device) -> KeyRanges:
    """Ranges of one text: each query's own token and the ``window`` - 1 before it, or with None all before it."""
    reach = n_tokens if window is None else window
    places = torch.arange(n_tokens, device=device)
    firsts = [max(0, start - reach + 1) for start in range(0, n_tokens, QUERIES_AT_ONCE)]
    return KeyRanges((places - reach + 1).clamp(min=0).unsqueeze(0), firsts)


@functools.cache
def _compiled() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """flex_attention and what makes its mask; uncompiled they would make all T × T scores."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    return torch.compile(flex_attention), torch.compile(create_block_mask)
