"""Rows of tokens that a model is fed with: each is opened, grows, branches and is closed on its own.

Letters: R rows, T positions, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from xlab.errors import GenerationError

# a torch module, or anything else that maps (B, T) token ids to (B, T, V) logits
Model = Callable[..., Any]


class Cache(Protocol):
    """What a model remembers of the positions it has seen, a row for each text."""

    def reorder(self, rows: Tensor, /) -> object:
        """Make row i what row ``rows[i]`` was; rows may repeat or be left out, so their number may change."""


@runtime_checkable
class CachedModel(Protocol):
    """A model that need not see a position twice: ``model(ids, cache)`` appends ids and returns their logits."""

    def make_cache(self, batch_size: int, max_len: int | None = None) -> Cache:
        """An empty cache for ``batch_size`` rows of up to ``max_len`` positions."""


@dataclass(eq=False)
class Row:
    """One text as the model is shown it.

    Attributes:
        ids: prompt and what was chosen since; who appends to it has the model fed with it.
        window: the model sees the last ``window`` tokens; None is no limit.
        held: how many tokens of the window a cache holds.
        place: which row of a cache holds them.
        has_logits: whether the model has been fed to the end once.
        guesses: tokens that may follow; the model is fed with them too, and gives logits after each.
        on_prompt: takes the logits (T, V) of the prompt's positions as they come, first to last.
    """

    ids: list[int]
    window: int | None = None
    held: int = 0
    place: int = 0
    has_logits: bool = False
    guesses: list[int] = field(default_factory=list)
    on_prompt: Callable[[Tensor], None] | None = None

    def become(self, other: "Row") -> None:
        """Hold what another row holds, but for its place."""
        self.ids, self.window, self.held, self.has_logits = list(other.ids), other.window, other.held, other.has_logits

    @property
    def context(self) -> list[int]:
        """The tokens that the model sees."""
        return self.ids if self.window is None else self.ids[-self.window :]

    @property
    def rolls(self) -> bool:
        """Whether the first tokens have left the window.

        A cached position was computed from tokens before it, so dropping the oldest would not give what a forward pass
        over the window gives: from here on each step computes the whole window anew.
        """
        return self.window is not None and len(self.ids) > self.window


class Rows(Protocol):
    """Keeps rows and feeds them to a model."""

    max_rows: int | None
    """How many rows fit; None is no limit."""

    def room(self, row: Row) -> int:
        """How many guesses a row can be given now: none while it is not about to grow by one token."""

    def open(self, ids: Sequence[int], window: int | None) -> Row:
        """Start a row."""

    def fork(self, rows: Sequence[Row], instead_of: Sequence[Row] = ()) -> list[Row]:
        """Start a row for each of ``rows``, so far the same as it; the model has been fed with them.

        The first of them take the places of the rows ``instead_of``, which end.
        """

    def close(self, row: Row) -> None:
        """Forget a row."""

    def clear(self) -> None:
        """Forget all rows."""

    def wipe(self) -> None:
        """Zero what closed rows have left in memory: a mask keeps numbers from the next ones, but no NaN."""

    def feed(self) -> tuple[list[Row], Tensor | None]:
        """Run the model; return the rows that it has seen to their ends, and the logits that follow them.

        The logits are (R, V), with as many more behind a row's own as it has guesses: those that follow each.

        Raises:
            GenerationError: when a context outgrows the model, or the model returns something other than logits.
        """


@dataclass
class PlainRows:
    """Rows of any model: all are computed anew at every step, unless the model offers a cache.

    A foreign cache can only be appended to and reordered as a whole, so it serves a single text and what branches off.

    Args:
        model: maps (B, T) ids to (B, T, V) logits.
        device: of the ids that the model is given.
        max_len: the length at which rows stop growing; a cache is no longer than that.
    """

    model: Model
    device: torch.device
    max_len: int
    max_rows: int | None = None
    rows: list[Row] = field(default_factory=list)
    cache: Cache | None = None
    n_places: int = 1
    """How many rows the cache has."""

    def room(self, row: Row) -> int:
        return 0

    def open(self, ids: Sequence[int], window: int | None) -> Row:
        row = Row(list(ids), window)
        is_first = not self.rows
        self.rows.append(row)
        self.cache = None
        if is_first and isinstance(self.model, CachedModel) and not row.rolls:
            capacity = self.max_len if window is None else min(self.max_len, window)
            longest = longest_context(self.model)
            self.cache = self.model.make_cache(1, capacity if longest is None else min(capacity, longest))
            self.n_places = 1
        return row

    def fork(self, rows: Sequence[Row], instead_of: Sequence[Row] = ()) -> list[Row]:
        twins = [*instead_of, *(Row([]) for _ in rows[len(instead_of) :])]
        for row, twin in zip(rows, twins, strict=True):
            twin.become(row)
            twin.place = row.place
        self.rows += twins[len(instead_of) :]
        return twins

    def close(self, row: Row) -> None:
        self.rows.remove(row)

    def clear(self) -> None:
        self.rows, self.cache = [], None

    def wipe(self) -> None:
        """Nothing: a foreign cache serves no second text."""

    def feed(self) -> tuple[list[Row], Tensor | None]:
        if not self.rows:
            return [], None
        for row in self.rows:
            check_context(row, self.model)
        if any(row.rolls for row in self.rows):
            self.cache = None
        logits = self._recomputed() if self.cache is None else self._cached(self.cache)
        return list(self.rows), logits

    def _recomputed(self) -> Tensor:
        by_length: dict[int, list[int]] = {}
        for i, row in enumerate(self.rows):
            by_length.setdefault(len(row.context), []).append(i)
        parts = [self._last_logits([self.rows[i] for i in chosen]) for chosen in by_length.values()]
        if len(parts) == 1:
            return parts[0]
        order = torch.tensor([i for chosen in by_length.values() for i in chosen], device=parts[0].device)
        return torch.cat(parts)[order.argsort()]

    def _cached(self, cache: Cache) -> Tensor:
        places = [row.place for row in self.rows]
        if places != list(range(len(places))) or len(places) != self.n_places:
            cache.reorder(torch.tensor(places, device=self.device))
        logits = self._last_logits(self.rows, cache)
        self.n_places = len(self.rows)
        for place, row in enumerate(self.rows):
            row.place, row.held = place, len(row.context)
        return logits

    def _last_logits(self, rows: list[Row], *cache: Cache) -> Tensor:
        ids = [row.context[row.held :] if cache else row.context for row in rows]
        logits = check_logits(self.model(torch.tensor(ids, device=self.device), *cache), n_rows=len(ids))
        for row, prompt in zip(rows, logits, strict=True):
            if not row.has_logits and row.on_prompt is not None:
                row.on_prompt(prompt)
            row.has_logits = True  # here: where other rows fail, this one is fed again
        return logits[:, -1]


def longest_context(model: Model) -> int | None:
    """The most tokens that a model takes, where it says so."""
    max_len = getattr(model, "max_len", None)
    return max_len if isinstance(max_len, int) else None


def check_context(row: Row, model: Model) -> None:
    """Raise GenerationError when what the model would see of a row is longer than it takes."""
    longest = longest_context(model)
    if longest is not None and min(len(row.ids), row.window or len(row.ids)) > longest:
        raise GenerationError(
            f"a context of {len(row.ids)} tokens is longer than the model's max_len, {longest}; "
            f"block_size={longest} lets it see the last {longest}"
        )


def check_logits(logits: Any, *, n_rows: int) -> Tensor:
    """Return what a model gave, or raise GenerationError when it is not (B, T, V)."""
    if not isinstance(logits, Tensor) or logits.dim() != 3 or logits.size(0) != n_rows:
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise GenerationError(f"the model must return logits of shape (B, T, V) for ids (B, T), got {got}")
    return logits


def device_of(model: Model, x: Tensor | None = None) -> torch.device:
    """Where the model's parameters are; where ``x`` is when there are none."""
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    if parameter is not None:
        return parameter.device
    return torch.device("cpu") if x is None else x.device
