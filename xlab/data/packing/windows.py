"""Windows over a token store: what a batch holds, and how pieces of the stream become its rows.

Letters: B windows, T positions, N tokens in the stream, V vocabulary, P pieces.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import Dataset

from xlab.data.token_reader import TokenReader
from xlab.errors import ConfigError, DataError

IGNORED = -100  # what torch's cross-entropy leaves out

_WINDOWS_AT_ONCE = 64

Batch = dict[str, Tensor]
_T = TypeVar("_T")


class GivenPlaces(Protocol):
    """Finds the tokens that are given, not predicted."""

    def within(self, store: TokenReader, starts: ArrayLike, lengths: ArrayLike) -> NDArray[np.bool_]:
        """Tell which tokens of some stretches of a store are given.

        Args:
            store: The documents.
            starts: (P,) the stretches' first places in the stream.
            lengths: (P,) how many tokens they have; they may reach over the stream's ends.

        Returns:
            (sum of lengths,), the stretches one after the other.
        """


@dataclass(frozen=True, eq=False)
class Layout:
    """What the windows of a run have in common, whatever packs them.

    Args:
        seq_len: T, the longest window.
        pad_id: what fills up a row's inputs.
        sos_id: the token that is no target.
        byte_lengths: (V,) the bytes that each token stands for.
        split: what the store is called in messages.
        is_evaluation: whether each target counts once, though windows overlap.
        with_documents: whether a batch says which document each position belongs to.
        cache_dir: where plans are kept.
        given: finds what is given, not predicted: the meta of documents, or all of a conversation but its answers;
            None where everything is a target.

    Raises:
        ConfigError: for a ``seq_len`` below 1.
    """

    seq_len: int
    pad_id: int
    sos_id: int
    byte_lengths: NDArray[np.int64]
    split: str = "train"
    is_evaluation: bool = False
    with_documents: bool = False
    cache_dir: str | Path = ".cache"
    given: GivenPlaces | None = None

    def __post_init__(self) -> None:
        if self.seq_len < 1:
            raise ConfigError(f"data.seq_len must be at least 1, got {self.seq_len}.")


class Windows(ABC, Dataset[Batch]):
    """Map-style windows over a token store; what a sampler orders.

    An item is ``inputs`` (T,) and ``targets`` (T,), the token that follows each input or ``IGNORED``, and ``n_bytes``
    (), the bytes of source text that the counted targets stand for; where the layout asks for it, ``documents`` (T,),
    numbers that grow by one where another document begins (padding belongs to the document before it). All are int64.
    Item −1 is empty: it counts nothing, and evens out the ranks of an evaluation.

    Args:
        store: the documents.
        layout: what the run's windows have in common.
    """

    def __init__(self, store: TokenReader, layout: Layout) -> None:
        self.store = store
        self.layout = layout

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return whole batches: (B, T), (B, T) and (B,)."""

    @abstractmethod
    def report(self) -> dict[str, int | float]:
        """Tell what came of the packing, in whole numbers but for ``waste``; may read the store's index through.

        Returns:
            ``samples``, ``positions``, ``targets`` (those that count), ``padding`` (positions that hold no token),
            ``waste`` (its share of the positions), ``cut_documents`` (spread over several windows),
            ``dropped_documents`` (of which nothing is seen) and ``dropped_tokens`` (that are no one's target).
        """

    def __getitem__(self, index: int) -> Batch:
        if not -1 <= index < len(self):
            raise IndexError(f"there are {len(self)} windows, and no window {index}")
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def counted(self, following: NDArray[np.int64], candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Choose the targets that count.

        Args:
            following: (B, T) the token that follows each input.
            candidates: (B, T) where there is such a token, and this window is the one to count it.
        """
        chosen: NDArray[np.bool_] = candidates & (following != self.layout.sos_id)
        return chosen

    def given(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which tokens of some stretches are given, not predicted: (sum of lengths,), for ``candidates``."""
        if self.layout.given is None:
            return np.zeros(int(lengths.sum()), dtype=np.bool_)
        return self.layout.given.within(self.store, starts, lengths)

    def count_targets(self) -> int:
        """Count the targets that count, where only reading all windows tells: where some tokens are given."""
        total = 0
        for first in range(0, len(self), _WINDOWS_AT_ONCE):
            items = list(range(first, min(first + _WINDOWS_AT_ONCE, len(self))))
            total += int((self.__getitems__(items)["targets"] != IGNORED).sum())
        return total

    def make_batch(
        self,
        inputs: NDArray[np.int64],
        following: NDArray[np.int64],
        candidates: NDArray[np.bool_],
        documents: NDArray[np.int64] | None,
    ) -> Batch:
        """Make a batch of arrays (B, T); see ``counted``.

        Raises:
            DataError: when a token cannot be the tokenizer's.
        """
        counted = self.counted(following, candidates)
        for tokens in (inputs, following):  # a document's first token is nobody's target
            self._refuse_foreign(tokens)
        n_bytes = np.where(counted, self.layout.byte_lengths[following], 0).sum(axis=1)
        arrays = {"inputs": inputs, "targets": np.where(counted, following, IGNORED), "n_bytes": n_bytes}
        if documents is not None:
            arrays["documents"] = documents
        return {name: torch.from_numpy(values) for name, values in arrays.items()}

    def _refuse_foreign(self, tokens: NDArray[np.int64]) -> None:
        size = len(self.layout.byte_lengths)
        for wrong in (tokens.max(), tokens.min()):
            if not 0 <= wrong < size:
                raise DataError(
                    f"{self.store.prefix} holds token {wrong}, but the vocabulary has {size}; "
                    "the store was made with another tokenizer."
                )


class Pieces(NamedTuple):
    """Stretches of documents, (P,) each: where they begin, how many inputs they give, and the row they stand in.

    The pieces of a row stand side by side, in this order. The token after a piece's last input is its last target.
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    rows: NDArray[np.int64]


class PiecedWindows(Windows):
    """Windows that are made of pieces of documents."""

    @abstractmethod
    def pieces(self, indices: Sequence[int]) -> Pieces:
        """Find the pieces that windows ``indices`` are made of; −1 has none."""

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        return self.rows_of(self.pieces(indices), len(indices), self.layout.seq_len)

    def rows_of(self, pieces: Pieces, n_rows: int, width: int) -> Batch:
        """Lay pieces into ``n_rows`` rows of ``width`` positions, and fill up with padding."""
        starts, lengths, rows = pieces
        total = int(lengths.sum())
        before = np.cumsum(lengths) - lengths  # of each piece, in all rows
        within = np.arange(total) - np.repeat(before, lengths)  # each input's place in its piece
        is_first = np.diff(rows, prepend=-1) != 0
        column = before - before[np.flatnonzero(is_first)][np.cumsum(is_first) - 1] if total else before
        cells = np.repeat(rows * width + column, lengths) + within
        positions = np.repeat(starts, lengths) + within
        # one reading: what follows an input is, but at a piece's end, the next input
        tokens = self.store.gather(np.stack([positions, positions + 1]))

        def laid_out(values: NDArray[np.int64], filling: int) -> NDArray[np.int64]:
            flat = np.full(n_rows * width, filling, dtype=np.int64)
            flat[cells] = values
            return flat.reshape(n_rows, width)

        is_target = ~self.given(starts + 1, lengths)
        candidates = laid_out(is_target.astype(np.int64), 0).astype(bool)
        documents = None
        if self.layout.with_documents:
            begins = (within == 0) & np.repeat(~is_first, lengths)
            documents = np.cumsum(laid_out(begins.astype(np.int64), 0), axis=1)
        return self.make_batch(
            laid_out(tokens[0], self.layout.pad_id), laid_out(tokens[1], self.layout.pad_id), candidates, documents
        )


def as_is(batch: _T) -> _T:
    """Collate nothing: ``Windows.__getitems__`` has made the batch."""
    return batch
