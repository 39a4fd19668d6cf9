"""The KV cache: keys and values of tokens already seen, in memory that is taken once.

Letters: B batch, H key-value heads, Dh width of a head.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from xlab.errors import ConfigError, GenerationError
from xlab.transformer.placements import Placement, RaggedPlacement, UniformPlacement

SLACK = 512  # tokens that may be fed at once, or taken back, where a layer keeps no more than its window


def places(capacity: int, window: int | None, *, hands_on: bool = False) -> int:
    """How many places a layer of that window has in a cache of that capacity."""
    if window is not None and window + SLACK < capacity:
        return window + SLACK
    return capacity + hands_on


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
            return UniformPlacement(self.keys, self.values, self.rings, self.longest, n_tokens)
        return RaggedPlacement(self.keys, self.values, self.rings, self._lengths, n_tokens)

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
