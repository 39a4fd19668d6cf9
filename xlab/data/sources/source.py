"""What a source of documents promises."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Document:
    """One text that is learnt as a whole, and what is known about it."""

    text: str
    meta: str = ""


class Source(ABC):
    """A place that documents come from.

    A source remembers its settings and nothing else: making one reads no corpus, and reading it twice gives the
    same documents in the same order as long as ``identity()`` stays the same.
    """

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """Stream the documents; memory does not grow with their number.

        Raises:
            DataError: when the place is missing, broken, or not what the settings say.
        """

    @abstractmethod
    def identity(self) -> str:
        """Digest the settings and what cheaply tells this content from another; reads no content."""

    def n_bytes(self) -> int | None:
        """Estimate the bytes of text for progress bars; None where only reading it would tell."""
        return None
