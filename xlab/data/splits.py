"""Divide a corpus into train, val, test and predict by what its documents say."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from xlab.data.digest import digest
from xlab.data.sources.source import Document, Source
from xlab.errors import ConfigError

SPLITS = ("train", "val", "test", "predict")
_ROUNDING = 1e-9
_CHARACTERS_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class Assigned:
    """A document, the split it is in, the bytes of its text and a digest of it."""

    document: Document
    split: str
    n_bytes: int
    digest: bytes


@dataclass
class Splits:
    """Shares of the documents, decided by a hash of each: at most 1 together; what is left over is not used.

    Args:
        train: share that the model and the tokenizer are trained on.
        val: share that is looked at during training.
        test: share for the final figure.
        predict: share whose beginnings `predict` continues.
    """

    train: float = 0.9
    val: float = 0.05
    test: float = 0.025
    predict: float = 0.025


@dataclass(frozen=True)
class Corpus:
    """Documents and how they are divided.

    A document's place follows from a hash of its text and meta alone: splits are disjoint, even where a document
    occurs twice, and adding documents moves none of the others.

    Args:
        source: What is divided by ``shares``; None where every split has a source of its own.
        shares: Each split's share of ``source``, summing to at most 1; what is left over is not used.
        split_sources: Sources of single splits. Such a split takes no part in the division, and the shares of the
            others grow in proportion to fill its place.
    """

    source: Source | None
    shares: Mapping[str, float] = field(default_factory=dict)
    split_sources: Mapping[str, Source] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (*self.shares, *self.split_sources):
            if name not in SPLITS:
                raise ConfigError(f"There is no split {name!r}; there are {', '.join(SPLITS)}.")
        for name, share in self.shares.items():
            if not share >= 0:
                raise ConfigError(f"The share of {name} is {share}; it must be 0 or more.")
        if (total := sum(self.shares.values())) > 1 + _ROUNDING:
            shares = " + ".join(f"{share:g}" for share in self.shares.values())
            raise ConfigError(f"The splits' shares sum to {total:g} ({shares}); make them at most 1.")
        if "train" not in self.split_sources and (self.source is None or not self.shares.get("train", 0)):
            raise ConfigError("There is nothing to train on: give train a share above 0 or a source of its own.")

    def identity(self) -> str:
        """Digest what the splits are made from; reads no content."""
        own = {name: source.identity() for name, source in sorted(self.split_sources.items())}
        return digest(None if self.source is None else self.source.identity(), self._divided(), own)

    def documents(self, part: tuple[int, int] | None = None) -> Iterator[Assigned]:
        """Stream every document that is in a split.

        Args:
            part: (i, n): only every n-th document of each source, from the i-th on. All are read, but the others
                are neither hashed nor divided.
        """
        divided = self._divided()
        if self.source is not None and any(divided.values()):
            for document in _part(self.source, part):
                n_bytes, digested = _digest(document)
                split = _place(digested, divided)
                if split is not None:
                    yield Assigned(document, split, n_bytes, digested)
        for name in SPLITS:
            if name in self.split_sources:
                for document in _part(self.split_sources[name], part):
                    n_bytes, digested = _digest(document)
                    yield Assigned(document, name, n_bytes, digested)

    def splits(self) -> list[str]:
        """Name the splits that may get documents."""
        divided = self._divided()
        return [name for name in SPLITS if name in self.split_sources or (self.source is not None and divided[name])]

    def for_training(self) -> "Corpus":
        """Return the part of the corpus to read for the documents of train, which fall into train there too."""
        own = self.split_sources.get("train")
        return Corpus(self.source, self._divided()) if own is None else Corpus(None, split_sources={"train": own})

    def n_bytes(self) -> int | None:
        """Estimate the bytes of text that ``documents`` reads, for progress bars."""
        used = [*self.split_sources.values(), *([] if self.source is None else [self.source])]
        sizes = [source.n_bytes() for source in used]
        return None if None in sizes else sum(filter(None, sizes))

    def report(self) -> dict[str, Any]:
        """Tell what the latest reading counted: of the source that is divided, and of those of single splits."""
        own = {name: source.report() for name, source in self.split_sources.items()}
        return ({} if self.source is None else {"divided": self.source.report()}) | own

    def _divided(self) -> dict[str, float]:
        shares = {name: self.shares.get(name, 0.0) for name in SPLITS if name not in self.split_sources}
        kept, total = sum(shares.values()), sum(self.shares.values())
        return {name: share * total / kept if kept else 0.0 for name, share in shares.items()}


def _part(source: Source, part: tuple[int, int] | None) -> Iterator[Document]:
    documents = source.documents()
    return documents if part is None else islice(documents, part[0], None, part[1])


def _digest(document: Document) -> tuple[int, bytes]:
    meta = document.meta.encode()
    hashed = hashlib.blake2b(len(meta).to_bytes(8, "little") + meta, digest_size=16)
    n_bytes = 0
    for start in range(0, len(document.text), _CHARACTERS_AT_ONCE):
        part = document.text[start : start + _CHARACTERS_AT_ONCE].encode()
        n_bytes += len(part)
        hashed.update(part)
    if document.messages:  # two conversations may have one script
        hashed.update(json.dumps(document.messages).encode())
    return n_bytes, hashed.digest()


def _place(digested: bytes, shares: Mapping[str, float]) -> str | None:
    point = int.from_bytes(digested[:8], "little") / 2**64
    upper = 0.0
    for name, share in shares.items():
        upper += share
        # shares that sum to 1 but for rounding leave no document out
        if share and point < (1.0 if upper > 1 - _ROUNDING else upper):
            return name
    return None
