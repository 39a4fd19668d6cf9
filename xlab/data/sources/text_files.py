"""Plain text files as documents."""

from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path

from xlab.data.digest import digest
from xlab.data.sources.files import as_patterns, decode_utf8, find_files, read_lines, size_of_text, stat_files
from xlab.data.sources.source import Document, Source
from xlab.errors import ConfigError


class TextFiles(Source):
    """Plain text in UTF-8, compressed (.gz, .xz, .bz2, .zst) or not; line ends stay as they are in the file.

    Args:
        paths: Files or globs (``**`` reaches into sub-directories, ``~`` is your home); read in the order of
            their sorted paths.
        end_of_document: A line equal to this ends a document, and is not part of it; without it, each file is one
            document.
        section_chars: Longer documents are divided into several of at most this many characters, at a paragraph's
            end or else at a line's, so that one big file can be split into train and val.
    """

    def __init__(
        self, paths: str | list[str], end_of_document: str | None = None, section_chars: int | None = None
    ) -> None:
        self._paths = as_patterns(paths)
        if end_of_document is not None and (not end_of_document or "\n" in end_of_document):
            raise ConfigError(f"end_of_document is {end_of_document!r}; it must be one line of text, without its end.")
        if section_chars is not None and section_chars < 1:
            raise ConfigError(f"section_chars must be at least 1, got {section_chars}; leave it out to divide nothing.")
        self._end_of_document = end_of_document
        self._section_chars = section_chars

    def documents(self) -> Iterator[Document]:
        for path in find_files(self._paths):
            for text in self._texts(path):
                if text and not text.isspace():
                    yield Document(text)

    def identity(self) -> str:
        settings = ["TextFiles", 1, self._end_of_document, self._section_chars]
        return digest(settings, stat_files(find_files(self._paths)))

    def title(self) -> str:
        return " ".join([type(self).__name__, *self._paths])

    def n_bytes(self) -> int | None:
        return size_of_text(find_files(self._paths))

    def _texts(self, path: Path) -> Iterator[str]:
        marker = None if self._end_of_document is None else self._end_of_document.encode()
        # a text that grows in place is in memory once, however long its file is
        enough = max(4 * (self._section_chars or 0), 1 << 22)
        raw, offset, text = bytearray(), 0, ""
        for line in read_lines(path):
            if offset == 0 and not raw and line.startswith(BOM_UTF8):
                offset, line = len(BOM_UTF8), line[len(BOM_UTF8) :]
            ends = marker is not None and line.rstrip(b"\r\n") == marker
            if not ends:
                raw += line
            if ends or len(raw) >= enough:
                text += decode_utf8(raw, path, offset)
                offset += len(raw) + (len(line) if ends else 0)
                raw = bytearray()
                *whole, text = self._sections(text)
                yield from whole
            if ends:
                yield text
                text = ""
        text += decode_utf8(raw, path, offset)
        yield from self._sections(text)

    def _sections(self, text: str) -> Iterator[str]:
        """Cut text into sections that joined give it again; the last may be short, or empty."""
        start, limit = 0, self._section_chars
        while limit is not None and len(text) - start > limit:
            end = _cut(text, start, start + limit)
            yield text[start:end]
            start = end
        yield text[start:] if start else text


def _cut(text: str, start: int, limit: int) -> int:
    """Find the best place to end a section that begins at ``start`` and may reach ``limit``."""
    # a paragraph's end in the second half is worth a shorter section
    half = (start + limit) // 2
    for mark, least in [("\n\n", half), ("\n\r\n", half), ("\n", start), (" ", start)]:
        at = text.rfind(mark, least, limit)
        if at != -1:
            return at + len(mark)
    return limit
