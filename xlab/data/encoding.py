"""Encode a corpus into token stores: a document is sos, its meta and sep where it has meta, its tokens, eos."""

import hashlib
import re
import sys
from array import array
from collections import deque
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xlab.data.meta import Meta, meta_ids
from xlab.data.progress import with_progress
from xlab.data.splits import SPLITS, Assigned, Corpus
from xlab.data.token_reader import Tokens
from xlab.data.token_store import TokenStoreWriter
from xlab.data.tokenizers import Tokenizer
from xlab.errors import ConfigError, DataError

# tokens are some 100 bytes each while they are being made; and every core wants some pieces of a batch
_CHARACTERS_AT_ONCE = 1 << 20
# one leaves cores idle at its end, where its last texts are encoded and its tokens become arrays: others fill them
_BATCHES_AT_ONCE = 3


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``of``: every ``of``-th document of each source, from the ``index``-th on."""

    index: int
    of: int

    @classmethod
    def from_text(cls, text: str) -> "Shard":
        """Read ``i/n``, i from 0 to n − 1.

        Raises:
            ConfigError: when it means no shard.
        """
        found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text)
        if found is None or not int(found[1]) < int(found[2]):
            raise ConfigError(
                f"The shard is {text!r}; write i/n with i from 0 to n - 1, such as 0/4 for the first of four."
            )
        return cls(int(found[1]), int(found[2]))

    @property
    def suffix(self) -> str:
        """What its files are called, behind the split's name."""
        return f"-{self.index:05}-of-{self.of:05}"


def encode_corpus(
    corpus: Corpus, tokenizer: Tokenizer, directory: Path, *, meta: Meta | None = None, shard: Shard | None = None
) -> dict[str, Any]:
    """Write each split's store; return their sizes and the fingerprint of what went in.

    Args:
        corpus: What is read.
        tokenizer: What encodes it.
        directory: Where the stores are written, each called by its split.
        meta: How meta come before the texts; None leaves them out.
        shard: The part to encode; None encodes all. A shard may lack documents, and has a store for every split.

    Returns:
        ``splits``, for each its ``documents``, ``tokens``, ``bytes`` of text and ``lengths`` in tokens; and the
        ``fingerprint``.

    Raises:
        DataError: when the corpus cannot be read, or (but for a shard) has no documents to train on.
    """
    hashed = hashlib.blake2b(tokenizer.fingerprint.encode(), digest_size=16)
    if meta is not None:
        hashed.update(meta.identity().encode())
    has_meta = False
    with ExitStack() as stack:
        writing = _Writing(tokenizer, meta, directory, shard, stack)
        if shard is not None:
            for split in corpus.splits():
                writing.to(split)
        part = None if shard is None else (shard.index, shard.of)
        for assigned in with_progress(corpus.documents(part), "Encoding", corpus.n_bytes()):
            writing.add(assigned)
            hashed.update(assigned.split.encode() + assigned.digest)
            has_meta = has_meta or bool(assigned.document.meta)
        writing.finish()
    if shard is None:
        refuse_empty(writing.stores.keys())
        if meta is not None and not has_meta:
            column = "set data.source.meta_column to the column that holds them, or leave data.meta out"
            print(f"note: data.meta is set, but no document has meta; {column}", file=sys.stderr)
    splits = {split: writing.stores[split].description() for split in SPLITS if split in writing.stores}
    return {"splits": splits, "fingerprint": hashed.hexdigest()}


def refuse_empty(splits: Collection[str]) -> None:
    """Check that some documents were read, and some to train on.

    Raises:
        DataError: when there are none.
    """
    if not splits:
        raise DataError("The corpus is empty: its source gives no document with text. Check data.source.")
    if "train" not in splits:
        raise DataError("The train split is empty: no document fell into it. Add documents, or enlarge its share.")


@dataclass
class Lengths:
    """How long documents are, in tokens: in memory that does not grow with their number."""

    shortest: int = 0
    longest: int = 0
    histogram: dict[int, int] = field(default_factory=dict)  # documents of up to 1, 2, 4, 8 … tokens

    @classmethod
    def joined(cls, descriptions: list[dict[str, Any]]) -> "Lengths":
        """Count together what was described apart."""
        lengths = cls()
        lengths.shortest = min((one["shortest"] for one in descriptions if one["shortest"]), default=0)
        lengths.longest = max(one["longest"] for one in descriptions)
        for one in descriptions:
            for up_to, n in one["histogram"].items():
                lengths.histogram[int(up_to)] = lengths.histogram.get(int(up_to), 0) + n
        return lengths

    def add(self, length: int) -> None:
        """Count a document of ``length`` tokens, at least 1."""
        self.shortest = min(self.shortest or length, length)
        self.longest = max(self.longest, length)
        up_to = 1 << (length - 1).bit_length()
        self.histogram[up_to] = self.histogram.get(up_to, 0) + 1

    def description(self) -> dict[str, Any]:
        """Return the figures as plain data; the histogram is by the largest length that a bin counts."""
        bins = {str(up_to): n for up_to, n in sorted(self.histogram.items())}
        return {"shortest": self.shortest, "longest": self.longest, "histogram": bins}


class _Store:
    """A split's store while it is written, and what is counted of it."""

    def __init__(self, writer: TokenStoreWriter) -> None:
        self.writer = writer
        self.n_bytes = 0
        self._lengths = Lengths()
        self._n_written = 0

    def description(self) -> dict[str, Any]:
        return {
            "documents": self.writer.n_documents,
            "tokens": self.writer.n_tokens,
            "bytes": self.n_bytes,
            "lengths": self._lengths.description(),
        }

    def write(self, tokens: Tokens) -> None:
        self.writer.write(tokens)
        self._n_written += len(tokens)

    def end_document(self) -> None:
        self.writer.end_document()
        self._lengths.add(self._n_written)
        self._n_written = 0


@dataclass(frozen=True, slots=True)
class _Piece:
    """A text that waits to be encoded, and its place in a document."""

    store: _Store
    text: str
    is_meta: bool = False
    is_first: bool = False
    is_last: bool = False


class _Writing:
    """The documents that wait, some MB, to be encoded side by side, and the stores they go to.

    While batches are encoded, in threads that seldom need the interpreter, the next is read and the one before them is
    written.
    """

    def __init__(
        self, tokenizer: Tokenizer, meta: Meta | None, directory: Path, shard: Shard | None, stack: ExitStack
    ) -> None:
        self.stores: dict[str, _Store] = {}
        self._tokenizer = tokenizer
        self._meta = meta
        self._directory = directory
        self._suffix = "" if shard is None else shard.suffix
        self._stack = stack
        self._encoders = stack.enter_context(ThreadPoolExecutor(_BATCHES_AT_ONCE))
        self._waiting: list[_Piece] = []
        self._n_waiting = 0
        self._encoding: deque[tuple[list[_Piece], Future[list[Tokens]]]] = deque()

    def to(self, split: str) -> _Store:
        """Return the store of a split, which begins when it is first asked for."""
        if split not in self.stores:
            writer = TokenStoreWriter(self._directory / f"{split}{self._suffix}", len(self._tokenizer))
            self.stores[split] = _Store(self._stack.enter_context(writer))
        return self.stores[split]

    def add(self, assigned: Assigned) -> None:
        store = self.to(assigned.split)
        store.n_bytes += assigned.n_bytes
        for piece in self._pieces(store, assigned):
            self._waiting.append(piece)
            self._n_waiting += len(piece.text)
            if self._n_waiting >= _CHARACTERS_AT_ONCE:
                self._encode()

    def finish(self) -> None:
        """Encode and write what waits."""
        self._encode()
        while self._encoding:
            self._write()

    def _encode(self) -> None:
        if len(self._encoding) == _BATCHES_AT_ONCE:
            self._write()
        self._encoding.append((self._waiting, self._encoders.submit(self._tokens, self._waiting)))
        self._waiting, self._n_waiting = [], 0

    def _write(self) -> None:
        pieces, encoded = self._encoding.popleft()
        for piece, tokens in zip(pieces, encoded.result(), strict=True):
            piece.store.write(tokens)
            if piece.is_last:
                piece.store.end_document()

    def _tokens(self, pieces: list[_Piece]) -> list[Tokens]:
        """Encode pieces, with what stands before and behind them; runs beside the reading and the writing."""
        encoded = self._tokenizer.encode_batch([piece.text for piece in pieces])
        return [self._framed(piece, ids) for piece, ids in zip(pieces, encoded, strict=True)]

    def _framed(self, piece: _Piece, ids: list[int]) -> Tokens:
        if piece.is_meta:
            assert self._meta is not None
            ids = meta_ids(ids, self._tokenizer, self._meta.max_meta_len)
        framed = array("q", [self._tokenizer.sos_id] if piece.is_first else [])
        framed.fromlist(ids)
        if piece.is_last:
            framed.append(self._tokenizer.eos_id)
        return np.asarray(framed)  # copies nothing; a list, numpy would go through twice

    def _pieces(self, store: _Store, assigned: Assigned) -> Iterator[_Piece]:
        document, is_first = assigned.document, True
        if self._meta is not None and document.meta and not self._meta.is_dropped(assigned.digest, assigned.split):
            yield _Piece(store, document.meta, is_meta=True, is_first=True)
            is_first = False
        previous: str | None = None
        for text in self._tokenizer.pieces(document.text):
            if previous is not None:
                yield _Piece(store, previous, is_first=is_first)
                is_first = False
            previous = text
        yield _Piece(store, previous or "", is_first=is_first, is_last=True)
