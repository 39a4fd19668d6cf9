"""JSON objects, one a line, as documents."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xlab.data.digest import digest
from xlab.data.sources.files import as_patterns, decode_utf8, find_files, read_lines, size_of_text, stat_files
from xlab.data.sources.source import Document, Source
from xlab.errors import ConfigError, DataError


class JsonLines(Source):
    """Files with one JSON object a line, compressed (.gz, .xz, .bz2, .zst) or not; one document a line.

    Args:
        paths: Files or globs (``**`` reaches into sub-directories, ``~`` is your home); read in the order of
            their sorted paths.
        text_column: The key whose value is the document.
        meta_column: A key whose value is kept beside the document, such as its title; a line may lack it.
    """

    def __init__(self, paths: str | list[str], text_column: str = "text", meta_column: str | None = None) -> None:
        self._paths = as_patterns(paths)
        if not text_column:
            raise ConfigError("text_column is empty; name the key whose value is the document.")
        self._text_column = text_column
        self._meta_column = meta_column

    def documents(self) -> Iterator[Document]:
        for path in find_files(self._paths):
            for where, row in json_rows(path):
                document = self._document(row, where)
                if document.text:
                    yield document

    def identity(self) -> str:
        return digest(["JsonLines", 1, self._text_column, self._meta_column], stat_files(find_files(self._paths)))

    def title(self) -> str:
        return " ".join([type(self).__name__, *self._paths])

    def n_bytes(self) -> int | None:
        return size_of_text(find_files(self._paths))

    def _document(self, row: dict[str, Any], where: str) -> Document:
        if self._text_column not in row:
            columns = ", ".join(row) or "none"
            raise DataError(
                f"{where} has no column {self._text_column!r}; it has {columns}. Set data.source.text_column."
            )
        text = row[self._text_column]
        if not isinstance(text, str):
            raise DataError(f"{where}: column {self._text_column!r} holds {type(text).__name__}, not text.")
        meta = "" if self._meta_column is None else row.get(self._meta_column) or ""
        meta = meta if isinstance(meta, str) else json.dumps(meta, ensure_ascii=False, sort_keys=True)
        for value in (text, meta):
            refuse_surrogates(value, where)
        return Document(text, meta)


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Stream the objects of a file, each with its place for messages; empty lines are passed over.

    Raises:
        DataError: when the file is damaged, or a line is no object.
    """
    offset = 0
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            where, text = f"{path}:{number}", decode_utf8(line, path, offset)
            try:
                row = json.loads(text.removeprefix("\ufeff") if number == 1 else text)
            except (ValueError, RecursionError) as error:  # a number of thousands of digits is a mere ValueError
                raise DataError(f"{where} is not JSON: {error}. Each line must be one object.") from error
            if not isinstance(row, dict):
                raise DataError(f"{where} holds a {type(row).__name__}, not an object with columns.")
            yield where, row
        offset += len(line)


def refuse_surrogates(value: str, where: str) -> None:
    """Raise DataError for half of a UTF-16 pair, which JSON can spell, "\\ud800", and UTF-8 cannot."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code = f"\\u{ord(value[error.start]):04x}"
        raise DataError(f"{where} holds a lone surrogate {code} at character {error.start}; remove it.") from error
