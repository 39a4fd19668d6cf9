"""Documents out of Arrow's batches: a column of text, and one that may be kept beside it; and rows of any columns."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from xlab.data.sources.source import Document
from xlab.errors import ConfigError, DataError

ROWS_AT_ONCE = 128  # a few hundred kB of encyclopedia; documents may be long
_TEXT = ("string", "large_string", "string_view")


class Columns(Protocol):
    """Which columns of a table are read."""

    @property
    def names(self) -> list[str]:
        """The columns, each once."""

    def check(self, place: str, types: Mapping[str, str]) -> None:
        """Compare them with the names and types of the columns of ``place``; raise DataError if they do not fit."""


@dataclass(frozen=True)
class TextColumns:
    """Which columns of a table make documents."""

    text: str
    meta: str | None = None

    def __post_init__(self) -> None:
        if not self.text:
            raise ConfigError("text_column is empty; name the column that holds the documents.")

    @property
    def names(self) -> list[str]:
        """The columns to read, each once."""
        return list(dict.fromkeys(column for column in (self.text, self.meta) if column is not None))

    def check(self, place: str, types: Mapping[str, str]) -> None:
        """Compare the settings with the names and types of the columns of ``place``.

        Raises:
            DataError: when a column is missing, or holds no text.
        """
        for setting, column in (("text_column", self.text), ("meta_column", self.meta)):
            if column is not None and column not in types:
                raise DataError(
                    f"{place} has no column {column!r}; it has {', '.join(types) or 'none'}. Set data.source.{setting}."
                )
        kind = types[self.text]
        values = kind.removeprefix("dictionary<values=").partition(",")[0]
        if values not in _TEXT:
            raise DataError(f"{place}: column {self.text!r} holds {kind}, not text. Set data.source.text_column.")

    def documents(self, place: str, batches: Iterable[Any]) -> Iterator[Document]:
        """Stream the documents of Arrow batches or tables that ``check`` has passed; empty texts are left out.

        Raises:
            DataError: for a null text, or bytes that are not UTF-8; names the row.
        """
        row = 0
        for batch in batches:
            for start in range(0, batch.num_rows, ROWS_AT_ONCE):
                part = batch.slice(start, ROWS_AT_ONCE)
                texts = _values(part, self.text, place, row)
                metas = [""] * len(texts) if self.meta is None else _values(part, self.meta, place, row)
                for text, meta in zip(texts, metas, strict=True):
                    if text is None:
                        raise DataError(f"{place}: row {row} of column {self.text!r} is null, not text.")
                    if text:
                        yield Document(text, _as_text(meta))
                    row += 1


def rows_of(batches: Iterable[Any], place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Stream the rows of Arrow batches or tables, of columns of any type, each with its place for messages.

    Raises:
        DataError: for bytes that are not UTF-8.
    """
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, ROWS_AT_ONCE):
            try:
                rows = batch.slice(start, ROWS_AT_ONCE).to_pylist()
            except UnicodeDecodeError as error:
                raise DataError(f"{place}: behind row {number} is text that is not UTF-8: {error.reason}.") from error
            for row in rows:
                yield f"{place}: row {number}", row
                number += 1


def types_of(schema: Any) -> dict[str, str]:
    """Return the names and types of the columns of an Arrow schema."""
    return {field.name: str(field.type) for field in schema}


def _values(part: Any, column: str, place: str, row: int) -> list[Any]:
    values = part.column(column)
    with suppress(UnicodeDecodeError):
        return list(values.to_pylist())
    for i in range(part.num_rows):  # the slow way, to name the row
        try:
            values[i].as_py()
        except UnicodeDecodeError as error:
            raise DataError(f"{place}: row {row + i} of column {column!r} is not UTF-8: {error.reason}.") from error
    raise AssertionError("text that cannot be decoded at once can be decoded in parts")


def _as_text(meta: Any) -> str:
    if meta is None:
        return ""
    return meta if isinstance(meta, str) else json.dumps(meta, default=str)
