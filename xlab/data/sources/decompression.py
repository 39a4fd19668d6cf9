"""Read what a compressed file holds: to its last byte, or not at all."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

_BYTES_AT_ONCE = 1 << 16

# what the libraries raise for damage; bz2 and zstd add an OSError without a number
DAMAGE = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


def open_decompressed(path: Path) -> BinaryIO:
    """Open a file for reading, decompressed where its suffix is one of ``SUFFIXES``.

    Raises:
        OSError: with a number where the file cannot be opened, without one where it is damaged.
        EOFError: when a compressed file is empty, which no compressor writes.
    """
    opener = _OPENERS.get(path.suffix)
    if opener is None:
        return path.open("rb")
    if path.stat().st_size == 0:
        raise EOFError("it is empty")
    return opener(path)


class _Streams(io.RawIOBase):
    """The content of the compressed streams that follow each other in a file.

    Parallel compressors (pbzip2, pixz) write many. Python's own readers of .xz and .bz2 would take a damaged one
    for padding, and end before it without a word.
    """

    def __init__(self, path: Path, new_decompressor: Callable[[], Any]) -> None:
        self._file = path.open("rb")
        self._new_decompressor = new_decompressor
        self._stream = new_decompressor()
        self._rest = b""  # read, and not yet given to the stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = b""
        while not piece:
            if self._stream.eof and not self._begin_next_stream():
                return 0
            raw = b""
            if self._stream.needs_input:
                raw, self._rest = self._rest or self._file.read(_BYTES_AT_ONCE), b""
                if not raw:
                    raise EOFError("it ends too early")
            piece = self._stream.decompress(raw, max_length=len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        self._file.close()
        super().close()

    def _begin_next_stream(self) -> bool:
        self._rest = self._stream.unused_data.lstrip(b"\0")  # zeros between streams are padding
        while not self._rest:
            raw = self._file.read(_BYTES_AT_ONCE)
            if not raw:
                return False
            self._rest = raw.lstrip(b"\0")
        self._stream = self._new_decompressor()
        return True


def _open_gzip(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb"))


def _open_xz(path: Path) -> BinaryIO:
    return io.BufferedReader(_Streams(path, lzma.LZMADecompressor), _BYTES_AT_ONCE)


def _open_bz2(path: Path) -> BinaryIO:
    return io.BufferedReader(_Streams(path, bz2.BZ2Decompressor), _BYTES_AT_ONCE)


def _open_zstd(path: Path) -> BinaryIO:
    # Arrow is here for Parquet anyway, brings zstd to every Python, and reads many frames as one file
    import pyarrow as pa

    return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"), _BYTES_AT_ONCE)


_OPENERS: dict[str, Callable[[Path], BinaryIO]] = {
    ".gz": _open_gzip,
    ".xz": _open_xz,
    ".bz2": _open_bz2,
    ".zst": _open_zstd,
}
SUFFIXES = frozenset(_OPENERS)
