"""Where one forward pass's tokens stand, which keys they may see, and where their own keys and values are stored.

Letters: B batch, T new tokens of a row, S keys, H key-value heads, Dh width of a head.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xlab.transformer.kernels import FusedAttention
from xlab.transformer.key_ranges import QUERIES_AT_ONCE, window_ranges
from xlab.transformer.positions import Position

FUSED = FusedAttention()
_ALL = slice(None)


class Placement:
    """Where one forward pass's tokens stand, which keys they may see, and where their own keys and values go.

    The base class is a pass without a cache: the keys are the tokens' own. A way to store that is not here yet (such as
    ``index_copy_`` at a tensor's place under a mask over all the capacity, for a compiled step of one shape) is a new
    subclass.

    Args:
        n_tokens: T.
        device: where the tokens are.

    Attributes:
        positions: of the tokens in their rows, (T,), or (B, T) when rows stand at different places.
    """

    positions: Tensor

    def __init__(self, n_tokens: int, device: torch.device) -> None:
        self.positions = torch.arange(n_tokens, device=device)

    @property
    def key_positions(self) -> Tensor:
        """Of the keys that ``store`` gives back, (S,)."""
        return self.positions

    def is_plain(self, window: int | None = None) -> bool:
        """Whether "causal", where keys and queries are the same tokens, or "everything" says who may be seen.

        Of keys from ``first_key`` on, that is; what a window hides of the queries' own tokens ``mix`` knows.
        """
        return True

    def first_key(self, window: int | None) -> int:
        """The first key that any query may see in layers of that window: those before it need not be read."""
        return 0

    def visible(self, window: int | None = None) -> Tensor:
        """Which keys each token may see: its own and those before it, (T, S) or (B, 1, T, S), from ``first_key`` on."""
        queries, keys = self.positions.unsqueeze(-1), self.key_positions[self.first_key(window) :]
        seen = keys <= queries
        if window is not None:
            seen &= keys > queries - window
        return seen.unsqueeze(1) if seen.dim() == 3 else seen

    def masking(self, position: Position, window: int | None = None) -> tuple[Tensor | None, bool]:
        """What ``mix`` is to be given as ``attn_mask``, and as ``is_causal``, in layers of that window."""
        bias = position.bias(self.positions, self.key_positions[self.first_key(window) :])
        if bias is not None:
            return bias.masked_fill(~self.visible(window), float("-inf")), False
        if not self.is_plain(window):
            return self.visible(window), False
        if self.positions.size(-1) > 1:  # a branch: under a compiler the comparison itself would be a symbol
            return None, True
        return None, False

    def store(
        self, layer: int, keys: Tensor, values: Tensor, window: int | None = None, handed_on: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Keep what the tokens offer, (B, H, T, Dh); give back all that there is to see, (B, H, S, Dh).

        That is from ``first_key`` on; where a layer keeps no more than its window, in an order that ``masking`` knows.

        Args:
            layer: from 0.
            keys: (B, H, T, Dh).
            values: (B, H, T, Dh).
            window: of the layer.
            handed_on: how many numbers of a key, its last, are part of the next token's instead. A cache keeps them
                there from the beginning: whoever goes on behind a token, now or after a rewind, finds them.
        """
        return (hand_on(keys, handed_on, self.positions) if handed_on else keys), values

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
        """Attend, (B, H, T, Dh); ``settings`` are those of ``scaled_dot_product_attention``."""
        n_tokens = queries.size(2)
        hides = window is not None and n_tokens > window
        if settings.get("is_causal") and (hides or (n_tokens > QUERIES_AT_ONCE and not kernel.is_fused)):
            del settings["is_causal"], settings["attn_mask"]
            return window_ranges(n_tokens, window, queries.device).attend(queries, keys, values, kernel, **settings)
        if n_tokens == 1 and queries.dtype == torch.bfloat16 and queries.is_cpu and kernel.is_fused:
            # a query alone takes a slow way through the kernel: two of it take half the time
            twice: Tensor = kernel(queries.expand(-1, -1, 2, -1), keys, values, **settings)
            return twice[:, :, :1]
        mixed: Tensor = kernel(queries, keys, values, **settings)
        return mixed


class UniformPlacement(Placement):
    """Rows of equal length go on in a cache: stored into and read as plain slices.

    Args:
        keys: the cache's, of each layer, (B, H, places, Dh).
        values: the same.
        rings: of the cache: the windows whose layers keep no more than that, and how many places they have.
        start: tokens that each row holds.
        n_tokens: T.
    """

    def __init__(
        self, keys: list[Tensor], values: list[Tensor], rings: dict[int, int], start: int, n_tokens: int
    ) -> None:
        self.keys, self.values, self.rings = keys, values, rings
        self.start, self.end = start, start + n_tokens
        self.positions = torch.arange(self.start, self.end, device=keys[0].device)

    @property
    def key_positions(self) -> Tensor:
        return torch.arange(self.end, device=self.positions.device)

    def is_plain(self, window: int | None = None) -> bool:
        if self.start == 0:
            return True
        sees_all = window is None or self.end <= window or window not in self.rings
        return self.end == self.start + 1 and sees_all

    def first_key(self, window: int | None) -> int:
        if window is None or self.start == 0 or window in self.rings:
            return 0
        return max(0, self.start - window + 1)

    def visible(self, window: int | None = None) -> Tensor:
        if window is None or self.start == 0 or window not in self.rings:
            return super().visible(window)
        n_places = self.rings[window]
        return in_sight(self.positions, self.end, min(self.end, n_places), window=window, n_places=n_places)

    def store(
        self, layer: int, keys: Tensor, values: Tensor, window: int | None = None, handed_on: int = 0
    ) -> tuple[Tensor, Tensor]:
        all_keys, all_values = self.keys[layer], self.values[layer]
        if handed_on and self.start == 0:
            all_keys[:, :, 0, -handed_on:] = 0
        if window not in self.rings:
            here, after = slice(self.start, self.end), slice(self.start + 1, self.end + 1)
            put(all_keys, keys, handed_on, (_ALL, _ALL, here), (_ALL, _ALL, after))
            all_values[:, :, here] = values
            first = self.first_key(window)
            return all_keys[:, :, first : self.end], all_values[:, :, first : self.end]
        n_places = self.rings[window]
        slots = self.positions[-n_places:] % n_places
        kept = keys[:, :, -n_places:].to(all_keys.dtype)
        put(all_keys, kept, handed_on, (_ALL, _ALL, slots), (_ALL, _ALL, (slots + 1) % n_places))
        all_values[:, :, slots] = values[:, :, -n_places:].to(all_values.dtype)
        if self.start == 0:  # the first tokens may have no place any more
            return super().store(layer, keys, values, window, handed_on)
        return all_keys[:, :, : self.end], all_values[:, :, : self.end]


class RaggedPlacement(Placement):
    """Each row of a cache goes on where it ended.

    Args:
        keys: as of a ``UniformPlacement``.
        values: the same.
        rings: the same.
        lengths: tokens that each row holds.
        n_tokens: T.
    """

    def __init__(
        self,
        keys: list[Tensor],
        values: list[Tensor],
        rings: dict[int, int],
        lengths: Sequence[int],
        n_tokens: int,
    ) -> None:
        self.keys, self.values, self.rings = keys, values, rings
        self.end, self.shortest = max(lengths) + n_tokens, min(lengths)
        self.fresh = [row for row, length in enumerate(lengths) if not length]
        device = keys[0].device
        self.rows = torch.arange(len(lengths), device=device).unsqueeze(-1)  # (B, 1)
        starts = torch.tensor(lengths, device=device)
        self.positions = starts.unsqueeze(-1) + torch.arange(n_tokens, device=device)  # (B, T)
        self._slots: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def key_positions(self) -> Tensor:
        return torch.arange(self.end, device=self.positions.device)

    def is_plain(self, window: int | None = None) -> bool:
        return False

    def first_key(self, window: int | None) -> int:
        return 0 if window is None or window in self.rings else max(0, self.shortest - window + 1)

    def visible(self, window: int | None = None) -> Tensor:
        if window is None or window not in self.rings:
            return super().visible(window)
        ends, n_places = self.positions[:, -1:] + 1, self.rings[window]
        seen = in_sight(self.positions, ends, min(self.end, n_places), window=window, n_places=n_places)
        return seen.unsqueeze(1)

    def store(
        self, layer: int, keys: Tensor, values: Tensor, window: int | None = None, handed_on: int = 0
    ) -> tuple[Tensor, Tensor]:
        all_keys, all_values = self.keys[layer], self.values[layer]
        if handed_on and self.fresh:
            all_keys[self.fresh, :, 0, -handed_on:] = 0
        if (n_places := all_keys.size(2)) not in self._slots:
            self._slots[n_places] = self.positions % n_places, (self.positions + 1) % n_places
        slots, next_slots = self._slots[n_places]
        # places by row are advanced indices around a slice, so that heads come after them: (B, T, H, Dh)
        offered = keys.transpose(1, 2).to(all_keys.dtype)
        put(all_keys, offered, handed_on, (self.rows, _ALL, slots), (self.rows, _ALL, next_slots))
        all_values[self.rows, :, slots] = values.transpose(1, 2).to(all_values.dtype)
        first = self.first_key(window)
        return all_keys[:, :, first : self.end], all_values[:, :, first : self.end]


def hand_on(keys: Tensor, width: int, positions: Tensor) -> Tensor:
    """Keys whose last numbers are those of the token before, (B, H, T, Dh); a text's first token has zeros there.

    Args:
        keys: (B, H, T, Dh).
        width: how many numbers of each are handed on.
        positions: of the tokens in their texts, (T,) or (B, T).
    """
    own, last = keys.split_with_sizes((keys.size(-1) - width, width), dim=-1)
    before = F.pad(last[:, :, :-1], (0, 0, 1, 0))
    if positions.dim() == 2:
        before = before * (positions > 0)[:, None, :, None]
    return torch.cat((own, before), dim=-1)


def put(held: Tensor, keys: Tensor, width: int, places: tuple[Any, ...], next_places: tuple[Any, ...]) -> None:
    """Store keys at their places, and what they hand on, their last ``width`` numbers, at those of the next tokens."""
    if not width:
        held[places] = keys
        return
    sizes = (keys.size(-1) - width, width)
    own, last = held.split_with_sizes(sizes, dim=-1)
    own[places], last[next_places] = keys.split_with_sizes(sizes, dim=-1)


def in_sight(queries: Tensor, ends: Tensor | int, n_slots: int, *, window: int, n_places: int) -> Tensor:
    """Which slots of a layer that keeps its window the queries may see, (..., T, S).

    Token p stands in slot p modulo the layer's places, in that of a token that nobody needs any more.

    Args:
        queries: their places (..., T).
        ends: how many tokens each row has been fed, (..., 1), or all rows.
        n_slots: S, the first slots; all, or no fewer than the tokens fed.
        window: of the layer.
        n_places: that the layer has.
    """
    slots = torch.arange(n_slots, device=queries.device)
    last = ends - 1
    held = (last - (last - slots) % n_places).unsqueeze(-2)  # the token in each slot, (..., 1, S)
    queries = queries.unsqueeze(-1)
    return (held >= 0) & (held <= queries) & (held > queries - window)
