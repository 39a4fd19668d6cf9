"""Find and open the files of a corpus, compressed or not."""

import glob
from collections.abc import Iterator
from pathlib import Path

from xlab.data.sources.decompression import DAMAGE, SUFFIXES, open_decompressed
from xlab.errors import ConfigError, DataError


def as_patterns(paths: str | list[str]) -> list[str]:
    """Check a ``paths`` setting without looking at the disk."""
    patterns = [paths] if isinstance(paths, str) else list(paths)
    if not patterns or not all(patterns):
        raise ConfigError(f"paths is {paths!r}; name a file or a glob such as 'texts/**/*.txt'.")
    return patterns


def find_files(patterns: list[str]) -> list[Path]:
    """Resolve names and globs (``**`` and ``~`` too) to files, each once, sorted by path.

    Raises:
        DataError: for a pattern that matches no file.
    """
    found: set[Path] = set()
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            raise DataError(f"{path} is a directory, not a file; name the files in it, such as '{path}/*.txt'.")
        # a name that exists is meant as it stands, even if it holds [ or *
        matches = [path] if path.exists() else map(Path, glob.iglob(str(path), recursive=True))
        files = {match for match in matches if match.is_file()}
        if not files:
            raise DataError(f"No file matches {pattern!r} (looked from {Path.cwd()}); check the path.")
        found |= files
    return sorted(found)


def stat_files(files: list[Path]) -> list[tuple[str, int, int]]:
    """Return each file's path, size and modification time: what tells contents apart without reading them."""
    try:
        return [(str(file), stat.st_size, stat.st_mtime_ns) for file in files for stat in [file.stat()]]
    except OSError as error:
        raise unreadable(Path(error.filename), error) from error


def size_of_text(files: list[Path]) -> int | None:
    """Return the bytes in ``files``; None if any is compressed."""
    if any(file.suffix in SUFFIXES for file in files):
        return None
    return sum(size for _, size, _ in stat_files(files))


def read_lines(path: Path) -> Iterator[bytes]:
    """Stream the lines of a file, line ends kept, decompressed where the suffix is .gz, .xz, .bz2 or .zst.

    Raises:
        DataError: when the file cannot be opened, or is damaged.
    """
    try:
        with open_decompressed(path) as stream:
            yield from stream
    except DAMAGE as error:
        raise DataError(f"{path} is not a whole {path.suffix} file: {error}. Fetch or compress it again.") from error
    except OSError as error:
        # bz2 and zstd report damage as an OSError without a number
        if error.errno is None:
            raise DataError(
                f"{path} is not a whole {path.suffix} file: {error}. Fetch or compress it again."
            ) from error
        raise unreadable(path, error) from error


def decode_utf8(raw: bytes | bytearray, path: Path, offset: int) -> str:
    """Decode UTF-8 that starts at byte ``offset`` of ``path`` (of what is in it, if compressed)."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        at = offset + error.start
        raise DataError(
            f"{path} is not UTF-8 at byte {at} (0x{raw[error.start]:02x}: {error.reason}). "
            "Convert it, for example with iconv -f LATIN1 -t UTF-8."
        ) from error


def unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} cannot be read: {error.strerror or error}.")
