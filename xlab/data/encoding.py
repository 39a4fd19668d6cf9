"""Encode a corpus into token stores: a document is sos, its meta and sep where it has meta, its tokens, eos.

A conversation is what its chat template makes of it; beside the tokens a second store says which belong to answers.
"""

import hashlib
import re
import sys
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlab.data.chat import Chat
from xlab.data.meta import Meta
from xlab.data.progress import with_progress
from xlab.data.splits import SPLITS, Corpus
from xlab.data.store_writing import SplitStore, Writing
from xlab.data.tokenizers import Tokenizer
from xlab.errors import ConfigError, DataError


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
    corpus: Corpus,
    tokenizer: Tokenizer,
    directory: Path,
    *,
    meta: Meta | None = None,
    chat: Chat | None = None,
    shard: Shard | None = None,
) -> dict[str, Any]:
    """Write each split's store; return their sizes and the fingerprint of what went in.

    Args:
        corpus: What is read.
        tokenizer: What encodes it.
        directory: Where the stores are written, each called by its split.
        meta: How meta come before the texts; None leaves them out.
        chat: How conversations become tokens; None refuses them.
        shard: The part to encode; None encodes all. A shard may lack documents, and has a store for every split.

    Returns:
        ``splits``, for each its ``documents``, ``tokens``, ``bytes`` of text and ``lengths`` in tokens, and with
        ``chat`` its ``conversations``; and the ``fingerprint``.

    Raises:
        DataError: when the corpus cannot be read, or (but for a shard) has no documents to train on; for conversations
            without ``chat``, or ``chat`` without any.
    """
    hashed = hashlib.blake2b(tokenizer.fingerprint.encode(), digest_size=16)
    if meta is not None:
        hashed.update(meta.identity().encode())
    if chat is not None:
        hashed.update(chat.identity().encode())
    has_meta = False
    with ExitStack() as stack:
        writing = Writing(tokenizer, meta, chat, directory, "" if shard is None else shard.suffix, stack)
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
        if chat is not None:
            refuse_unlearnable(writing.stores)
    written = {split: writing.stores[split] for split in SPLITS if split in writing.stores}
    splits = {split: store.description() for split, store in written.items() if shard or store.writer.n_documents}
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


def refuse_unlearnable(stores: Mapping[str, SplitStore]) -> None:
    """Check that there are conversations, and room for some to train on; tell of those that were too long.

    Raises:
        DataError: when there are none.
    """
    if not any(store.conversations.read for store in stores.values()):
        raise DataError(
            "data.chat is set, but the source gives no conversation; use ChatRecords or PromptResponses, or leave "
            "data.chat out."
        )
    for split, store in stores.items():
        counts = store.conversations
        for number, what in ((counts.cut, "cut"), (counts.left_out, "left out: no answer would fit behind the prompt")):
            if number:
                print(
                    f"note: {number:,} of {counts.read:,} conversations of {split} are longer than "
                    f"data.chat.max_tokens, and {what}",
                    file=sys.stderr,
                )
    if not stores["train"].writer.n_documents:
        raise DataError(
            "No conversation of the train split has room for an answer; raise data.chat.max_tokens, or data.seq_len."
        )
