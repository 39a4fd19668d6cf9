"""Write the documents of a corpus into token stores while others are encoded, and count what is written."""

from array import array
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xlab.data.chat import ANSWERS, Chat
from xlab.data.chat_encoding import ChatEncoder, ConversationCounts, Encoded
from xlab.data.meta import Meta, meta_ids
from xlab.data.sources.source import Document
from xlab.data.splits import Assigned
from xlab.data.token_reader import Tokens
from xlab.data.token_store import TokenStoreWriter
from xlab.data.tokenizers import Tokenizer
from xlab.errors import DataError

# tokens are some 100 bytes each while they are being made; and every core wants some pieces of a batch
_CHARACTERS_AT_ONCE = 1 << 20
# one leaves cores idle at its end, where its last texts are encoded and its tokens become arrays: others fill them
_BATCHES_AT_ONCE = 3


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


class SplitStore:
    """A split's store while it is written, and what is counted of it.

    Args:
        writer: of the tokens.
        answers: of what says for each token whether it belongs to an answer; None where nobody asks.
    """

    def __init__(self, writer: TokenStoreWriter, answers: TokenStoreWriter | None) -> None:
        self.writer = writer
        self.conversations = ConversationCounts()
        self._answers = answers
        self._n_bytes = 0
        self._lengths = Lengths()
        self._n_written = 0

    def description(self) -> dict[str, Any]:
        conversations = {} if self._answers is None else {"conversations": asdict(self.conversations)}
        return {
            "documents": self.writer.n_documents,
            "tokens": self.writer.n_tokens,
            "bytes": self._n_bytes,
            "lengths": self._lengths.description(),
            **conversations,
        }

    def write(self, tokens: Tokens, answers: Tokens | None = None) -> None:
        self.writer.write(tokens)
        if self._answers is not None:  # a plain text is learnt as a whole
            self._answers.write(np.ones(len(tokens), dtype=np.uint8) if answers is None else answers)
        self._n_written += len(tokens)

    def write_conversation(self, encoded: Encoded | None, n_bytes: int) -> None:
        self.conversations.add(encoded)
        if encoded is not None:
            self.write(encoded.tokens, encoded.answers)
            self.end_document(n_bytes)

    def end_document(self, n_bytes: int) -> None:
        self.writer.end_document()
        if self._answers is not None:
            self._answers.end_document()
        self._n_bytes += n_bytes
        self._lengths.add(self._n_written)
        self._n_written = 0


@dataclass(frozen=True, slots=True)
class _Piece:
    """A text that waits to be encoded, and its place in a document; or a whole conversation."""

    store: SplitStore
    text: str
    is_meta: bool = False
    is_first: bool = False
    is_last: bool = False
    n_bytes: int = 0  # of the document that it ends
    conversation: Document | None = None


class Writing:
    """The documents that wait, some MB, to be encoded side by side, and the stores they go to.

    While batches are encoded, in threads that seldom need the interpreter, the next is read and the one before them is
    written.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        meta: Meta | None,
        chat: Chat | None,
        directory: Path,
        suffix: str,
        stack: ExitStack,
    ) -> None:
        self.stores: dict[str, SplitStore] = {}
        self._tokenizer = tokenizer
        self._meta = meta
        self._chat = None if chat is None else ChatEncoder(chat, tokenizer)
        self._directory = directory
        self._suffix = suffix
        self._stack = stack
        self._encoders = stack.enter_context(ThreadPoolExecutor(_BATCHES_AT_ONCE))
        self._waiting: list[_Piece] = []
        self._n_waiting = 0
        self._encoding: deque[tuple[list[_Piece], Future[list[Tokens | Encoded | None]]]] = deque()

    def to(self, split: str) -> SplitStore:
        """Return the store of a split, which begins when it is first asked for."""
        if split not in self.stores:
            writer = TokenStoreWriter(self._directory / f"{split}{self._suffix}", len(self._tokenizer))
            answers = None
            if self._chat is not None:
                beside = self._directory / f"{split}.{ANSWERS}{self._suffix}"
                answers = self._stack.enter_context(TokenStoreWriter(beside, 2, dtype=np.uint8))
            self.stores[split] = SplitStore(self._stack.enter_context(writer), answers)
        return self.stores[split]

    def add(self, assigned: Assigned) -> None:
        store = self.to(assigned.split)
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
            if tokens is None or isinstance(tokens, Encoded):
                piece.store.write_conversation(tokens, piece.n_bytes)
                continue
            piece.store.write(tokens)
            if piece.is_last:
                piece.store.end_document(piece.n_bytes)

    def _tokens(self, pieces: list[_Piece]) -> list[Tokens | Encoded | None]:
        """Encode pieces, with what stands before and behind them; runs beside the reading and the writing."""
        texts = iter(self._tokenizer.encode_batch([piece.text for piece in pieces if piece.conversation is None]))
        if self._chat is None:
            return [self._framed(piece, ids) for piece, ids in zip(pieces, texts, strict=True)]
        conversations = [piece.conversation for piece in pieces if piece.conversation is not None]
        encoded = iter(self._chat.encode(conversations))
        return [next(encoded) if piece.conversation else self._framed(piece, next(texts)) for piece in pieces]

    def _framed(self, piece: _Piece, ids: list[int]) -> Tokens:
        if piece.is_meta:
            assert self._meta is not None
            ids = meta_ids(ids, self._tokenizer, self._meta.max_meta_len)
        framed = array("q", [self._tokenizer.sos_id] if piece.is_first else [])
        framed.fromlist(ids)
        if piece.is_last:
            framed.append(self._tokenizer.eos_id)
        return np.asarray(framed)  # copies nothing; a list, numpy would go through twice

    def _pieces(self, store: SplitStore, assigned: Assigned) -> Iterator[_Piece]:
        document, is_first = assigned.document, True
        if document.messages:
            if self._chat is None:
                raise DataError(
                    f"{document.place} is a conversation, and data.chat is not set: set it (-c conf/data/chat.yaml) to "
                    "learn the answers, or use a source of texts."
                )
            yield _Piece(store, document.text, n_bytes=assigned.n_bytes, conversation=document)
            return
        if self._meta is not None and document.meta and not self._meta.is_dropped(assigned.digest, assigned.split):
            yield _Piece(store, document.meta, is_meta=True, is_first=True)
            is_first = False
        previous: str | None = None
        for text in self._tokenizer.pieces(document.text):
            if previous is not None:
                yield _Piece(store, previous, is_first=is_first)
                is_first = False
            previous = text
        yield _Piece(store, previous or "", is_first=is_first, is_last=True, n_bytes=assigned.n_bytes)
