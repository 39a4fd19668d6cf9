"""Rows of XLab's decoder: slots of one preallocated KV cache, fed together whatever their lengths.

Letters: R rows, T positions, D width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from itertools import count, takewhile

import torch
from torch import Tensor

from xlab.errors import GenerationError
from xlab.inference.rows import Model, Row, check_context, check_logits
from xlab.transformer.decoder import Decoder
from xlab.transformer.kv_cache import KVCache

Project = Callable[[Tensor], Tensor]


class Slots:
    """Rows that join and leave at any step; those that grow by one token are fed in one call.

    The rows that decode are kept in the first slots, so that the cache's memory is read as it lies. A prompt is fed in
    chunks, so that the others wait for no more than one; several short prompts are fed together, padded on the right.

    Args:
        model: a decoder, or a module that is called as one: ``model(ids, cache)``.
        cache: of the model, empty; its rows are the slots.
        project: gives logits for a decoder's hidden states; None calls the model for them.
        chunk: tokens of prompts that one step may feed.
        decode: a step of decoding in a way of its own, such as a compiled one: it takes the ids of the rows that
            decode, and the lengths of all rows, and gives logits (R, V).
    """

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        *,
        project: Project | None = None,
        chunk: int = 512,
        decode: Callable[[list[int], list[int]], Tensor] | None = None,
    ) -> None:
        self.model, self.cache, self.chunk = model, cache, chunk
        if project is None and isinstance(model, Decoder) and type(model).forward is Decoder.forward:
            project = model.logits
        self.project = project
        self.max_rows: int | None = cache.batch_size
        self.device = cache.keys[0].device
        self.rows: list[Row] = []
        self.decode_calls = 0
        self.prefill_calls = 0
        self._decode_step = decode or self._decode_eagerly
        self._ages = count()
        self._age: dict[Row, int] = {}
        self._views: dict[tuple[int, int], KVCache] = {}

    def room(self, row: Row) -> int:
        if not _decodes(row):
            return 0
        longest = min(self.cache.capacity, row.window or self.cache.capacity)
        most = self.cache.most_at_once or longest  # wrong guesses are taken back
        return max(0, min(longest - len(row.ids), most - 1))

    def open(self, ids: Sequence[int], window: int | None) -> Row:
        return self._add(Row(list(ids), window))

    def fork(self, rows: Sequence[Row], instead_of: Sequence[Row] = ()) -> list[Row]:
        twins = [*instead_of, *(self._add(Row([])) for _ in rows[len(instead_of) :])]
        for row, twin in zip(rows, twins, strict=True):
            twin.become(row)
        moves = [(row.place, twin.place) for row, twin in zip(rows, twins, strict=True)]
        self._move(moves, max(row.held for row in rows))
        return twins

    def close(self, row: Row) -> None:
        last = self.rows.pop()
        del self._age[row]
        if last is not row:
            self._move([(last.place, row.place)], last.held)
            last.place = row.place
            self.rows[row.place] = last

    def clear(self) -> None:
        self.rows = []
        self._age.clear()
        self.wipe()

    def wipe(self) -> None:
        free = self.cache.batch_size - len(self.rows)
        self.cache.wipe([row.held for row in self.rows] + [0] * free)

    def feed(self) -> tuple[list[Row], Tensor | None]:
        for row in self.rows:
            if row.rolls:
                row.held = 0
        self._arrange()
        decoding = list(takewhile(_decodes, self.rows))
        ready, parts = list(decoding), []
        guessed = [row for row in decoding if row.guesses]
        if guessed:
            parts += [self._verify(row) for row in decoding]
        elif decoding:
            parts.append(self._decode(decoding))
        start = len(decoding)
        while start < len(self.rows) and self.rows[start].rolls:  # all of them: each would decode if it could
            together = self._alike(start)
            parts.append(self._prefill(together))
            ready += together
            start += len(together)
        if start < len(self.rows):
            together = self._alike(start)
            logits = self._prefill(together)
            if not together[0].held < len(together[0].context):
                ready += together
                parts.append(logits)
        for row in ready:
            row.has_logits = True
        if not parts:
            return ready, None
        return ready, parts[0] if len(parts) == 1 else torch.cat(parts)

    def _add(self, row: Row) -> Row:
        if len(self.rows) == self.cache.batch_size:
            raise GenerationError(f"all {self.cache.batch_size} rows of the engine are taken")
        row.place = len(self.rows)
        self._age[row] = next(self._ages)
        self.rows.append(row)
        return row

    def _arrange(self) -> None:
        """Put the rows that decode first, then those that roll, then prompts: one begun, the others as they came."""

        def rank(row: Row) -> tuple[int, int]:
            if _decodes(row):
                return 0, row.place
            return (1, 0) if row.rolls else (2 if row.held else 3, self._age[row])

        order = sorted(self.rows, key=rank)
        if order != self.rows:
            moves = [(row.place, place) for place, row in enumerate(order) if row.held and row.place != place]
            self._move(moves, max(row.held for row in order))
            self.rows = order
            for place, row in enumerate(order):
                row.place = place

    def _alike(self, start: int) -> list[Row]:
        """The rows from ``start`` that are fed together: one long prompt, or several that fit into a chunk."""
        first = self.rows[start]
        together, longest = [first], len(first.context)
        shortest, most_padding = longest, self.cache.most_at_once or self.chunk
        if first.held or longest > self.chunk:
            return together
        for row in self.rows[start + 1 :]:
            longest, shortest = max(longest, len(row.context)), min(shortest, len(row.context))
            if row.rolls != first.rolls or longest * (len(together) + 1) > self.chunk:
                break
            if longest - shortest > most_padding:
                break
            together.append(row)
        return together

    def _decode(self, rows: list[Row]) -> Tensor:
        for row in rows:
            self._check(row)
        self.decode_calls += 1
        logits = self._decode_step([row.ids[-1] for row in rows], [row.held for row in self.rows])
        for row in rows:
            row.held += 1
        return logits

    def _verify(self, row: Row) -> Tensor:
        """The logits (1 + guesses, V) after a row's last token and after each guess, which the cache does not count."""
        self._check(row)
        self.decode_calls += 1
        ids = torch.tensor([[row.ids[-1], *row.guesses]], device=self.device)
        hidden = self._hidden(ids, self._view(row.place, [row.held]))
        row.held += 1
        return self._project(hidden[0])

    def _decode_eagerly(self, ids: list[int], lengths: list[int]) -> Tensor:
        cache = self._view(0, lengths[: len(ids)])
        return self._last(torch.tensor(ids, device=self.device).unsqueeze(1), cache, None)

    def _prefill(self, rows: list[Row]) -> Tensor:
        """Feed what fits into a chunk; the logits (R, V) after the last token fed of each row."""
        self.prefill_calls += 1
        new = []
        for row in rows:
            self._check(row)
            limit = self.cache.capacity if row.rolls else row.held + self.chunk
            new.append(row.context[row.held : limit])
        longest = max(map(len, new))
        ids = torch.tensor([part + [0] * (longest - len(part)) for part in new], device=self.device)
        cache = self._view(rows[0].place, [row.held for row in rows])
        last = None if longest == min(map(len, new)) else torch.tensor([len(part) - 1 for part in new])
        listeners = [None if row.has_logits else row.on_prompt for row in rows]
        logits = self._last(ids, cache, last, [(f, len(part)) for f, part in zip(listeners, new, strict=True)])
        for row, part in zip(rows, new, strict=True):
            row.held += len(part)
        return logits

    def _last(
        self,
        ids: Tensor,
        cache: KVCache,
        last: Tensor | None,
        listeners: Sequence[tuple[Callable[[Tensor], None] | None, int]] = (),
    ) -> Tensor:
        """The logits (R, V) after the last token of each row, or after the one that ``last`` (R,) says."""
        hidden = self._hidden(ids, cache)
        for (listener, length), states in zip(listeners, hidden, strict=False):
            if listener is not None:
                listener(self._project(states[:length]))
        if last is None:
            return self._project(hidden[:, -1])
        return self._project(hidden[torch.arange(len(ids), device=self.device), last.to(self.device)])

    def _hidden(self, ids: Tensor, cache: KVCache) -> Tensor:
        """What ``_project`` makes logits of: hidden states (R, T, D), or the logits themselves."""
        if self.project is not None:
            hidden: Tensor = self.model.hidden(ids, cache)  # type: ignore[attr-defined]
            return hidden
        return check_logits(self.model(ids, cache), n_rows=len(ids))

    def _project(self, hidden: Tensor) -> Tensor:
        return hidden if self.project is None else self.project(hidden)

    def _view(self, start: int, lengths: list[int]) -> KVCache:
        key = (start, len(lengths))
        if key not in self._views:
            if len(self._views) > 64:
                self._views.clear()
            self._views[key] = self.cache.rows(start, start + len(lengths))
        view = self._views[key]
        view.hold(lengths)
        return view

    def _move(self, moves: Sequence[tuple[int, int]], length: int) -> None:
        if length and moves:
            self.cache.copy_rows(*zip(*moves, strict=True), length=length)

    def _check(self, row: Row) -> None:
        check_context(row, self.model)
        if len(row.context) > self.cache.capacity:
            raise GenerationError(
                f"a context of {len(row.context)} tokens is longer than the cache's rows, {self.cache.capacity}"
            )


def _decodes(row: Row) -> bool:
    return not row.rolls and row.held > 0 and row.has_logits and row.held == len(row.ids) - 1
