"""What a source of documents promises."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Message(NamedTuple):
    """What somebody says in a conversation: who (``user``, ``assistant`` …), and what."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Document:
    """One text that is learnt as a whole, and what is known about it.

    Attributes:
        text: as it is learnt; of a conversation a script, on which a vocabulary can be trained.
        meta: what is known about it.
        messages: of a conversation, which a chat template makes tokens of; of a plain text none.
        place: of a conversation, where it stands, for messages of what is wrong with it.
    """

    text: str
    meta: str = ""
    messages: tuple[Message, ...] = ()
    place: str = field(default="", compare=False)


class Source(ABC):
    """A place that documents come from.

    A source remembers its settings, and what its latest reading counted: making one reads no corpus, and reading it
    twice gives the same documents in the same order as long as ``identity()`` stays the same.
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

    def title(self) -> str:
        """Name the source in reports and errors, such as ``TextFiles books/*.txt``."""
        return type(self).__name__

    def report(self) -> dict[str, Any]:
        """Tell in plain data what the latest reading counted.

        Returns:
            ``source``, its title; what it counted, if it counts anything; ``sources``, the reports of those that it
            reads from, if there are any.
        """
        return {"source": self.title()}


def report_lines(report: dict[str, Any], indent: str = "") -> list[str]:
    """Lay out a report for people, a line for each source that counted something, with the title before the counts."""
    counts = [f"{key.replace('_', ' ')} {_shown(value)}" for key, value in report.items() if _is_count(value)]
    title = str(report["source"])
    lines = [f"{indent}{title}: {', '.join(counts)}"] if counts else []
    for inner in report.get("sources", []):
        lines += report_lines(inner, indent + "  " if lines else indent)
    return lines


def _is_count(value: object) -> bool:
    return isinstance(value, int | float)


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
