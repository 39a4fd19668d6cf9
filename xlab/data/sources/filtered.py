"""Leave documents out: those too short or too long, and those that were there before."""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from xlab.data.digest import digest
from xlab.data.sources.digest_set import DIGEST_SIZE, DigestSet
from xlab.data.sources.source import Document, Source
from xlab.errors import ConfigError


@dataclass
class _Counts:
    read: int = 0
    kept: int = 0
    too_short: int = 0
    too_long: int = 0
    duplicates: int = 0


class Filtered(Source):
    """The documents of another source that pass; the others are counted in the report.

    Args:
        source: Where the documents come from.
        min_length: Leave out documents of fewer characters.
        max_length: Leave out documents of more characters.
        drop_duplicates: Keep only the first of documents with the same text, whatever their meta. A digest of each
            text is remembered: 24 to 48 MB for a million documents.
    """

    def __init__(
        self, source: Source, min_length: int = 0, max_length: int | None = None, drop_duplicates: bool = False
    ) -> None:
        if min_length < 0:
            raise ConfigError(f"min_length must be at least 0, got {min_length}.")
        if max_length is not None and max_length < max(1, min_length):
            raise ConfigError(
                f"max_length must be at least 1 and min_length ({min_length}), got {max_length}; "
                "leave it out to keep the longest too."
            )
        self._source = source
        self._min_length = min_length
        self._max_length = max_length
        self._drop_duplicates = drop_duplicates
        self._counts = _Counts()
        self._counted_all = False

    def documents(self) -> Iterator[Document]:
        counts = _Counts()
        if not self._counted_all:  # what was counted to the end stays, even if a mixture then begins again
            self._counts = counts
        seen = DigestSet()
        for document in self._source.documents():
            counts.read += 1
            length = len(document.text)
            if length < self._min_length:
                counts.too_short += 1
            elif self._max_length is not None and length > self._max_length:
                counts.too_long += 1
            elif self._drop_duplicates and not seen.add(_digest(document.text)):
                counts.duplicates += 1
            else:
                counts.kept += 1
                yield document
        self._counts, self._counted_all = counts, True

    def identity(self) -> str:
        settings = [self._min_length, self._max_length, self._drop_duplicates]
        return digest("Filtered", 1, settings, self._source.identity())

    def n_bytes(self) -> int | None:
        return self._source.n_bytes()

    def title(self) -> str:
        return f"Filtered {self._source.title()}"

    def report(self) -> dict[str, Any]:
        inner = self._source.report()
        return {"source": self.title(), **asdict(self._counts), "sources": [inner]}


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_SIZE).digest()
