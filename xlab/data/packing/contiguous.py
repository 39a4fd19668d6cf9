"""Windows one after the other over the whole stream, through document ends.

Letters: B windows, T positions, N tokens in the stream.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xlab.data.packing.packing import Packing
from xlab.data.packing.windows import Batch, Layout, Windows
from xlab.data.token_reader import TokenReader
from xlab.errors import ConfigError, DataError


class ContiguousWindows(Packing):
    """Windows of T tokens one after the other, through document ends: nothing is cut off.

    Every token is a target once but the documents' sos, which are given, not predicted. The last window is filled
    up with padding. Where windows overlap, a token is a target of each that it lies in; an evaluation counts it once,
    in the first.

    Args:
        step_size: tokens from the beginning of a window to that of the next, from 1 to T; T if not given.
    """

    def __init__(self, step_size: int | None = None) -> None:
        if step_size is not None and step_size < 1:
            raise ConfigError(f"data.packing.step_size must be at least 1, got {step_size}.")
        self.step_size = step_size

    def windows(self, store: TokenReader, layout: Layout) -> "StreamWindows":
        seq_len = layout.seq_len
        step_size = seq_len if self.step_size is None else self.step_size
        if step_size > seq_len:
            raise ConfigError(
                f"data.packing.step_size is {step_size}, and would leave out what lies between windows of "
                f"{seq_len} tokens; set it to at most data.seq_len."
            )
        if store.n_tokens < seq_len + 1:
            raise DataError(
                f"The {layout.split} split has {store.n_tokens} tokens, too few for one window of {seq_len} + 1. "
                f"Give it a larger share or more text, or set data.seq_len to at most {max(store.n_tokens - 1, 1)}."
            )
        return StreamWindows(store, layout, step_size)


class StreamWindows(Windows):
    """Window i begins at token i · step_size; see ``ContiguousWindows``.

    Args:
        store: the documents, of more than T tokens.
        layout: what the run's windows have in common.
        step_size: tokens from one window to the next, at most T.
    """

    def __init__(self, store: TokenReader, layout: Layout, step_size: int) -> None:
        super().__init__(store, layout)
        self._step_size = step_size

    def __len__(self) -> int:
        beyond_first = self.store.n_tokens - 1 - self.layout.seq_len
        return 1 - (-beyond_first // self._step_size)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        numbers = np.asarray(indices, dtype=np.int64)[:, None]  # (B, 1)
        positions = numbers * self._step_size + np.arange(self.layout.seq_len + 1)  # (B, T + 1)
        inside = (positions < self.store.n_tokens) & (numbers >= 0)
        tokens = self.store.gather(np.where(inside, positions, 0))
        seq_len = self.layout.seq_len
        given = self.given(positions[:, 1], np.full(len(numbers), seq_len)).reshape(-1, seq_len)
        candidates = inside[:, 1:] & ~given
        if self.layout.is_evaluation:
            is_new = np.arange(self.layout.seq_len) >= self.layout.seq_len - self._step_size
            candidates = candidates & (is_new | (numbers == 0))
        documents = self._documents(positions[:, :-1], inside[:, :-1]) if self.layout.with_documents else None
        inputs = np.where(inside[:, :-1], tokens[:, :-1], self.layout.pad_id)
        return self.make_batch(inputs, tokens[:, 1:], candidates, documents)

    def report(self) -> dict[str, int | float]:
        n_tokens, seq_len, step_size = self.store.n_tokens, self.layout.seq_len, self._step_size
        begins = np.arange(len(self) - 1, len(self)) * step_size  # all windows but the last are full
        positions = len(self) * seq_len
        padding = max(0, int(begins[0]) + seq_len - n_tokens)
        counted = n_tokens - 1 if self.layout.is_evaluation else positions - (int(begins[0]) + seq_len - n_tokens + 1)
        cut = starts_seen = 0
        for starts, lengths in self.store.blocks():
            last = np.minimum(starts // step_size, len(self) - 1)  # the window that reaches furthest behind the start
            cut += int(((lengths > 1) & (starts + lengths - 2 >= last * step_size + seq_len)).sum())
            sos = starts[(lengths > 0) & (starts > 0)]
            sos = sos[self.store.gather(sos) == self.layout.sos_id]
            starts_seen += len(sos) if self.layout.is_evaluation else int(self._times_seen(sos).sum())
        return {
            "samples": len(self),
            "positions": positions,
            "targets": counted - starts_seen if self.layout.given is None else self.count_targets(),
            "padding": padding,
            "waste": padding / positions,
            "cut_documents": cut,
            "dropped_documents": 0,
            "dropped_tokens": 0,
        }

    def _times_seen(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """In how many windows the tokens at these places of the stream stand as what follows an input."""
        first = -(-(places - self.layout.seq_len) // self._step_size)
        last = (places - 1) // self._step_size
        seen: NDArray[np.int64] = np.minimum(last, len(self) - 1) - np.maximum(first, 0) + 1
        return seen

    def _documents(self, positions: NDArray[np.int64], inside: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Number the documents of each row, (B, T), by where the index says that they begin."""
        ends = np.where(inside, positions, 0).max(axis=1)
        edges = self.store.document_of(np.stack([np.where(inside[:, 0], positions[:, 0], 0), ends]))  # (2, B)
        begins = np.zeros_like(positions)
        for row, (first, last) in enumerate(edges.T):
            places = self.store.starts(np.arange(first + 1, last + 1)) - positions[row, 0]
            begins[row, places[places > 0]] = 1  # an empty document begins where the one after it does
        return np.cumsum(begins, axis=1)
