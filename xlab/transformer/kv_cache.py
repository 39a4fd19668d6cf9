"""The KV cache: keys and values of tokens already seen, and where the next ones stand and what they may see.

Letters: B batch, T new tokens of a row, S keys, H key-value heads, Dh width of a head.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xlab.errors import ConfigError, GenerationError
from xlab.transformer.kernels import FusedAttention
from xlab.transformer.key_ranges import QUERIES_AT_ONCE, window_ranges
from xlab.transformer.positions import Position

FUSED = FusedAttention()
_ALL = slice(None)
SLACK = 512  # tokens that may be fed at once, or taken back, where a layer keeps no more than its window


def places(capacity: int, window: int | None, *, hands_on: bool = False) -> int:
    """How many places a layer of that window has in a cache of that capacity."""
    if window is not None and window + SLACK < capacity:
        return window + SLACK
    return capacity + hands_on


def in_sight(queries: Tensor, ends: Tensor | int, n_slots: int, window: int) -> Tensor:
    """Which slots of a layer that keeps its window the queries may see, (..., T, S).

    Token p stands in slot p modulo the layer's places, in that of a token that nobody needs any more.

    Args:
        queries: their places (..., T).
        ends: how many tokens each row has been fed, (..., 1), or all rows.
        n_slots: S, the first slots; all, or no fewer than the tokens fed.
        window: of the layer.
    """
    slots = torch.arange(n_slots, device=queries.device)
    last = ends - 1
    held = (last - (last - slots) % (window + SLACK)).unsqueeze(-2)  # the token in each slot, (..., 1, S)
    queries = queries.unsqueeze(-1)
    return (held >= 0) & (held <= queries) & (held > queries - window)


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


class KVCache:
    """Keys and values of every layer, preallocated; rows may hold different numbers of tokens.

    Rows of equal length, the common case, are stored into and read as plain slices, without a mask; lengths are Python
    numbers, so that no step waits for the device. To fill rows with prompts of different lengths, pad them on the
    right, run them at once, and ``rewind`` to the true lengths: causal attention never saw the padding.

    A layer with a window keeps that many tokens and ``SLACK`` more, in a ring, however long the rows grow.

    Args:
        batch_size: number of rows B.
        capacity: the most tokens that a row can hold.
        shapes: number of key-value heads H and width of a head Dh, for each layer.
        device: where to keep it.
        dtype: of keys and values.
        windows: of each layer; None sees everything, and without the list all do.
        hands_on: whether keys hand numbers on to those of the next tokens: a row's last token, too, has a place for it.

    Attributes:
        rings: the windows whose layers keep no more than that, and how many places they have.

    Raises:
        ConfigError: for a batch size or capacity below 1.
    """

    def __init__(
        self,
        batch_size: int,
        capacity: int,
        shapes: Sequence[tuple[int, int]],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        windows: Sequence[int | None] | None = None,
        hands_on: bool = False,
    ) -> None:
        if batch_size < 1 or capacity < 1:
            raise ConfigError(f"a KV cache needs at least one row and one place, got {batch_size} × {capacity}")

        def allocate(n_layers: int, heads: int, n_places: int, head_dim: int) -> Tensor:
            # zeros: a place that is masked may be one that was never written, and 0 × NaN is NaN
            return torch.zeros(n_layers, batch_size, heads, n_places, head_dim, device=device, dtype=dtype)

        self.capacity = capacity
        self.windows = [None] * len(shapes) if windows is None else list(windows)
        self.hands_on = hands_on
        kept = [
            (heads, places(capacity, window, hands_on=hands_on), head_dim)
            for (heads, head_dim), window in zip(shapes, self.windows, strict=True)
        ]
        # layers of one shape are one tensor, so that rows are copied in one operation
        n_layers = {shape: 2 * kept.count(shape) for shape in dict.fromkeys(kept)}
        self._blocks = [allocate(n, *shape) for shape, n in n_layers.items()]
        layers = {shape: iter(block) for shape, block in zip(n_layers, self._blocks, strict=True)}
        # detached: to autograd, which is no use here but may be on, each layer is a tensor of its own
        self.keys = [next(layers[shape]).detach() for shape in kept]
        self.values = [next(layers[shape]).detach() for shape in kept]
        self._lengths = [0] * batch_size
        reach = {window: places(capacity, window) for window in self.windows if window is not None}
        self.rings = {window: n_places for window, n_places in reach.items() if n_places < capacity}

    @property
    def batch_size(self) -> int:
        return len(self._lengths)

    @property
    def lengths(self) -> Tensor:
        """Tokens held by each row, (B,), int64, on the cache's device."""
        return torch.tensor(self._lengths, device=self.keys[0].device)

    @property
    def longest(self) -> int:
        """Tokens held by the longest row."""
        return max(self._lengths)

    @property
    def shortest(self) -> int:
        """Tokens held by the shortest row."""
        return min(self._lengths)

    @property
    def empty_rows(self) -> list[int]:
        """Rows without a token."""
        return [row for row, length in enumerate(self._lengths) if not length]

    @property
    def is_uniform(self) -> bool:
        """Whether all rows hold equally many tokens."""
        return self.longest == self.shortest

    @property
    def n_bytes(self) -> int:
        """Memory of keys and values; known on the meta device too."""
        return sum(x.numel() * x.element_size() for x in (*self.keys, *self.values))

    @property
    def most_at_once(self) -> int | None:
        """The most tokens that rows which hold some can be fed at once, or can be taken back; None is no limit."""
        return SLACK if self.rings else None

    def place(self, n_tokens: int) -> Placement:
        """Where each row's next tokens go; ``advance`` counts them once all layers have stored theirs.

        Raises:
            GenerationError: when a row has not that many places left.
        """
        if self.longest + n_tokens > self.capacity:
            raise GenerationError(
                f"the KV cache is full: a row holds {self.longest} of {self.capacity} tokens, and {n_tokens} more "
                "do not fit; make it longer, or rewind it"
            )
        if self.is_uniform:
            return _UniformPlacement(self, self.longest, n_tokens)
        return _RaggedPlacement(self, n_tokens)

    def advance(self, n_tokens: int) -> None:
        """Count ``n_tokens`` more in every row."""
        self._lengths = [length + n_tokens for length in self._lengths]

    def rewind(self, lengths: int | Sequence[int] | Tensor) -> None:
        """Forget all but the first ``lengths`` tokens, of every row or of each.

        Raises:
            GenerationError: when a row holds fewer than it should keep, or rows and lengths differ in number.
        """
        if isinstance(lengths, Tensor):
            lengths = lengths.tolist()
        kept = [lengths] * self.batch_size if isinstance(lengths, int) else list(lengths)
        if len(kept) != self.batch_size or not all(0 <= k <= n for k, n in zip(kept, self._lengths, strict=True)):
            raise GenerationError(f"a KV cache of rows with {self._lengths} tokens cannot be rewound to {kept}")
        if self.rings:
            for n, k in zip(self._lengths, kept, strict=True):
                if k and n > min(self.rings.values()) and n - k > SLACK:
                    raise GenerationError(
                        f"a KV cache whose layers keep their windows can be rewound by {SLACK} tokens, not by {n - k}"
                    )
        self._lengths = kept

    def reorder(self, rows: Tensor) -> None:
        """Make row i what row ``rows[i]`` was: select, drop or duplicate rows, for beams and for n samples of a prompt.

        Args:
            rows: (B',), int64; as many as before are copied in place, another number gets memory of its own.
        """
        used = self._reach(self.longest)
        chosen = [block[:, :, :, :used].index_select(1, rows) for block in self._blocks]  # copies: rows may swap
        if len(rows) != self.batch_size:
            shapes = [(layer.size(1), layer.size(3)) for layer in self.keys]
            other = KVCache(
                len(rows),
                self.capacity,
                shapes,
                device=rows.device,
                dtype=self.keys[0].dtype,
                windows=self.windows,
                hands_on=self.hands_on,
            )
            self.keys, self.values, self._blocks = other.keys, other.values, other._blocks
        for block, held in zip(self._blocks, chosen, strict=True):
            block[:, :, :, :used] = held
        # rows of equal length stay so, whichever they are: no need to wait for the device to say
        longest = self.longest
        self._lengths = [longest] * len(rows) if self.is_uniform else [self._lengths[row] for row in rows.tolist()]

    def rows(self, start: int, stop: int) -> "KVCache":
        """The rows ``start`` to ``stop`` as a cache over the same memory, which counts its own tokens from now on."""
        view = copy.copy(self)
        view.keys = [layer[start:stop] for layer in self.keys]
        view.values = [layer[start:stop] for layer in self.values]
        view._blocks = [block[:, start:stop] for block in self._blocks]
        view._lengths = self._lengths[start:stop]
        return view

    def hold(self, lengths: Sequence[int]) -> None:
        """Say how many tokens each row holds, where someone else has kept count."""
        self._lengths = list(lengths)

    def wipe(self, lengths: Sequence[int]) -> None:
        """Zero all but the first ``lengths`` tokens of each row: a NaN left there would reach its next text."""
        for block in self._blocks:
            for row, length in enumerate(lengths):
                block[:, row, :, self._reach(length) :] = 0

    def _reach(self, length: int) -> int:
        """How many places so many tokens have written to."""
        return length + 1 if self.hands_on and length else length

    def copy_rows(self, sources: Sequence[int], targets: Sequence[int], *, length: int) -> None:
        """Give each row ``targets[i]`` the first ``length`` tokens of row ``sources[i]``, as they were before."""
        length = self._reach(length)
        if set(sources) & set(targets):  # all are read before one is written
            device = self.keys[0].device
            read, written = torch.tensor(sources, device=device), torch.tensor(targets, device=device)
            for block in self._blocks:
                block[:, written, :, :length] = block[:, read, :, :length]
            return
        for block in self._blocks:
            for source, target in zip(sources, targets, strict=True):
                block[:, target, :, :length] = block[:, source, :, :length]


class _UniformPlacement(Placement):
    """All rows hold ``start`` tokens."""

    def __init__(self, cache: KVCache, start: int, n_tokens: int) -> None:
        self.cache = cache
        self.start, self.end = start, start + n_tokens
        self.positions = torch.arange(self.start, self.end, device=cache.keys[0].device)

    @property
    def key_positions(self) -> Tensor:
        return torch.arange(self.end, device=self.positions.device)

    def is_plain(self, window: int | None = None) -> bool:
        if self.start == 0:
            return True
        sees_all = window is None or self.end <= window or window not in self.cache.rings
        return self.end == self.start + 1 and sees_all

    def first_key(self, window: int | None) -> int:
        if window is None or self.start == 0 or window in self.cache.rings:
            return 0
        return max(0, self.start - window + 1)

    def visible(self, window: int | None = None) -> Tensor:
        if window is None or self.start == 0 or window not in self.cache.rings:
            return super().visible(window)
        return in_sight(self.positions, self.end, min(self.end, window + SLACK), window)

    def store(
        self, layer: int, keys: Tensor, values: Tensor, window: int | None = None, handed_on: int = 0
    ) -> tuple[Tensor, Tensor]:
        all_keys, all_values = self.cache.keys[layer], self.cache.values[layer]
        if handed_on and self.start == 0:
            all_keys[:, :, 0, -handed_on:] = 0
        if window not in self.cache.rings:
            here, after = slice(self.start, self.end), slice(self.start + 1, self.end + 1)
            put(all_keys, keys, handed_on, (_ALL, _ALL, here), (_ALL, _ALL, after))
            all_values[:, :, here] = values
            first = self.first_key(window)
            return all_keys[:, :, first : self.end], all_values[:, :, first : self.end]
        n_places = self.cache.rings[window]
        slots = self.positions[-n_places:] % n_places
        kept = keys[:, :, -n_places:].to(all_keys.dtype)
        put(all_keys, kept, handed_on, (_ALL, _ALL, slots), (_ALL, _ALL, (slots + 1) % n_places))
        all_values[:, :, slots] = values[:, :, -n_places:].to(all_values.dtype)
        if self.start == 0:  # the first tokens may have no place any more
            return super().store(layer, keys, values, window, handed_on)
        return all_keys[:, :, : self.end], all_values[:, :, : self.end]


class _RaggedPlacement(Placement):
    """Each row goes on where it ended."""

    def __init__(self, cache: KVCache, n_tokens: int) -> None:
        self.cache = cache
        self.end = cache.longest + n_tokens
        self.shortest = cache.shortest
        self.fresh = cache.empty_rows
        device = cache.keys[0].device
        self.rows = torch.arange(cache.batch_size, device=device).unsqueeze(-1)  # (B, 1)
        self.positions = cache.lengths.unsqueeze(-1) + torch.arange(n_tokens, device=device)  # (B, T)
        self._slots: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def key_positions(self) -> Tensor:
        return torch.arange(self.end, device=self.positions.device)

    def is_plain(self, window: int | None = None) -> bool:
        return False

    def first_key(self, window: int | None) -> int:
        return 0 if window is None or window in self.cache.rings else max(0, self.shortest - window + 1)

    def visible(self, window: int | None = None) -> Tensor:
        if window is None or window not in self.cache.rings:
            return super().visible(window)
        ends = self.positions[:, -1:] + 1
        return in_sight(self.positions, ends, min(self.end, window + SLACK), window).unsqueeze(1)

    def store(
        self, layer: int, keys: Tensor, values: Tensor, window: int | None = None, handed_on: int = 0
    ) -> tuple[Tensor, Tensor]:
        all_keys, all_values = self.cache.keys[layer], self.cache.values[layer]
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
