"""Parquet and Arrow files as documents."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from xlab.data.digest import digest
from xlab.data.sources.files import as_patterns, find_files, stat_files, unreadable
from xlab.data.sources.source import Document, Source
from xlab.data.sources.text_columns import ROWS_AT_ONCE, Columns, TextColumns, types_of
from xlab.errors import DataError

_ARROW_FILE_MAGIC = b"ARROW1"
_BYTES_AT_ONCE = 1 << 20


class _TableFiles(Source):
    """Files of one kind that hold tables, and whose columns can be read alone."""

    def __init__(self, paths: str | list[str], text_column: str = "text", meta_column: str | None = None) -> None:
        self._paths = as_patterns(paths)
        self._text_column = text_column
        self._meta_column = meta_column
        self._columns = TextColumns(text_column, meta_column)

    def documents(self) -> Iterator[Document]:
        for path in find_files(self._paths):
            yield from self._columns.documents(str(path), self._batches(path))

    def identity(self) -> str:
        settings = [type(self).__name__, 1, self._text_column, self._meta_column]
        return digest(settings, stat_files(find_files(self._paths)))

    def title(self) -> str:
        return " ".join([type(self).__name__, *self._paths])

    @abstractmethod
    def _batches(self, path: Path) -> Iterator[Any]:
        """Stream the columns that are asked for, some rows at once."""


class ParquetFiles(_TableFiles):
    """Parquet files, of which no more than some rows are in memory; one document a row.

    Args:
        paths: Files or globs (``**`` reaches into sub-directories, ``~`` is your home); read in the order of
            their sorted paths.
        text_column: The column that holds the documents.
        meta_column: A column kept beside the document, such as its title.
    """

    def n_bytes(self) -> int | None:
        import pyarrow.parquet as pq

        total = 0
        for path in find_files(self._paths):
            with _errors_of(path, "Parquet"), pq.ParquetFile(path) as file:
                self._columns.check(str(path), types_of(file.schema_arrow))
                total += sum(
                    _text_bytes(file.metadata.row_group(i), self._text_column) for i in range(file.num_row_groups)
                )
        return total

    def _batches(self, path: Path) -> Iterator[Any]:
        return parquet_batches(path, self._columns)


def parquet_batches(path: Path, columns: Columns) -> Iterator[Any]:
    """Stream the columns of a Parquet file, some rows at once.

    Raises:
        DataError: when the file is damaged, or the columns do not fit.
    """
    with _errors_of(path, "Parquet"), path.open("rb") as file:
        # buffered: a row group may be as large as its file
        yield from read_parquet(file, str(path), columns, buffer_size=_BYTES_AT_ONCE)


def read_parquet(file: BinaryIO, place: str, columns: Columns, *, buffer_size: int = 0) -> Iterator[Any]:
    """Stream the columns of a Parquet file, some rows at once.

    Args:
        file: An open file.
        place: Its name in errors.
        columns: What to read of it.
        buffer_size: Read this many bytes of a column at once; 0 reads a column's part of a row group at once.
    """
    import pyarrow.parquet as pq

    # Arrow would read all row groups ahead, and in threads that outlive whoever stops listening
    with pq.ParquetFile(file, buffer_size=buffer_size, pre_buffer=False) as parquet:
        columns.check(place, types_of(parquet.schema_arrow))
        yield from parquet.iter_batches(ROWS_AT_ONCE, columns=columns.names, use_threads=False)


class ArrowFiles(_TableFiles):
    """Arrow files (.arrow, .feather), of the random-access format or the streaming one; one document a row.

    One record batch is in memory at once; writers make them of some thousand rows.

    Args:
        paths: Files or globs (``**`` reaches into sub-directories, ``~`` is your home); read in the order of
            their sorted paths.
        text_column: The column that holds the documents.
        meta_column: A column kept beside the document, such as its title.
    """

    def _batches(self, path: Path) -> Iterator[Any]:
        return arrow_batches(path, self._columns)


def arrow_batches(path: Path, columns: Columns) -> Iterator[Any]:
    """Stream the columns of an Arrow file, a record batch at once.

    Raises:
        DataError: when the file is damaged, or the columns do not fit.
    """
    import pyarrow as pa
    from pyarrow import ipc

    # not mapped into memory: a file that shrinks while it is read would kill the process
    with _errors_of(path, "Arrow"), pa.OSFile(str(path)) as file:
        is_stream = file.read(len(_ARROW_FILE_MAGIC)) != _ARROW_FILE_MAGIC
        file.seek(0)
        opened = ipc.open_stream if is_stream else ipc.open_file
        schema = opened(file).schema
        columns.check(str(path), types_of(schema))
        file.seek(0)
        options = ipc.IpcReadOptions(included_fields=[schema.get_field_index(name) for name in columns.names])
        with opened(file, options=options) as reader:
            if is_stream:
                yield from reader
            else:
                yield from (reader.get_batch(i) for i in range(reader.num_record_batches))


def _text_bytes(row_group: Any, column: str) -> int:
    chunks = (row_group.column(i) for i in range(row_group.num_columns))
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == column)


@contextmanager
def _errors_of(path: Path, kind: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(path, error) from error
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise DataError(f"{path} is not a whole {kind} file: {reason}. Fetch or write it again.") from error
