"""What is asked of tokens on disk, whether they lie in one store or in many shards.

Letters: N tokens in the stream, D documents.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xlab.errors import DataError

Tokens = NDArray[Any]

_DOCUMENTS_AT_ONCE = 1 << 16


class DocumentBlock(NamedTuple):
    """Documents that follow one another: where each begins in the stream, and how many tokens it has, both int64."""

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]


class TokenReader(ABC):
    """Documents of tokens, one after the other as one stream of N.

    Attributes:
        prefix: what the files are called, for messages.
        n_tokens: N.
    """

    prefix: Path
    n_tokens: int

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of documents, D."""

    @abstractmethod
    def document(self, i: int) -> Tokens:
        """Return document ``i``: (tokens,)."""

    @abstractmethod
    def slice(self, start: int, stop: int) -> Tokens:
        """Return the stream's tokens from ``start`` to before ``stop``."""

    @abstractmethod
    def gather(self, positions: ArrayLike) -> NDArray[np.int64]:
        """Return the tokens at places of the stream, in [0, N), of any shape."""

    @abstractmethod
    def starts(self, documents: ArrayLike) -> NDArray[np.int64]:
        """Return where documents begin in the stream; D stands for the stream's end.

        Raises:
            DataError: when the index points outside its file.
        """

    @abstractmethod
    def identity(self) -> str:
        """Digest what cheaply tells these files from others; reads no tokens."""

    @abstractmethod
    def verify(self, vocab_size: int | None = None) -> None:
        """Read everything, and check what opening a store leaves unread.

        Args:
            vocab_size: tokens must be below it; None checks the index alone.

        Raises:
            DataError: at the first thing that is wrong.
        """

    def document_of(self, positions: ArrayLike) -> NDArray[np.int64]:
        """Return the document that each place of the stream lies in, by binary search over the index on disk."""
        places = np.asarray(positions, dtype=np.int64)
        low, high = np.zeros_like(places), np.full_like(places, len(self))
        # numpy's searchsorted would copy an index that is not aligned to its words, and Megatron's is not
        while (high - low > 1).any():
            middle = (low + high) // 2
            is_before = self.starts(middle) > places
            high, low = np.where(is_before, middle, high), np.where(is_before, low, middle)
        return low

    def blocks(self, at_once: int = _DOCUMENTS_AT_ONCE) -> Iterator[DocumentBlock]:
        """Go through the documents' places and lengths, ``at_once`` at a time.

        Raises:
            DataError: when a document ends before it begins.
        """
        for first in range(0, len(self), at_once):
            edges = self.starts(np.arange(first, min(first + at_once, len(self)) + 1))
            lengths = np.diff(edges)
            if (lengths < 0).any():
                wrong = first + int(np.flatnonzero(lengths < 0)[0])
                raise DataError(f"{self.prefix}.idx lets document {wrong} end before it begins; make the store again.")
            yield DocumentBlock(edges[:-1], lengths)
