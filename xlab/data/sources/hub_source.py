"""Tables of the Hugging Face hub, or of a local directory in the hub's layout: the rows that its sources read."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xlab.data.digest import digest
from xlab.data.sources.files import stat_files
from xlab.data.sources.source import Source
from xlab.data.sources.table_files import read_parquet
from xlab.data.sources.text_columns import ROWS_AT_ONCE, Columns, types_of
from xlab.errors import ConfigError, DataError


class HubSource(Source):
    """A source that reads with Hugging Face's ``datasets``; code that a dataset brings along is never run.

    Args:
        path: A name on the hub, or a local directory in the hub's layout.
        name: The configuration (subset).
        split: The split to read.
        revision: A branch, tag or commit on the hub.
        streaming: Read the files as they come, and keep no copy.
        max_documents: Read this many documents from the beginning, and no more.
        columns: What is read of the tables.
    """

    def __init__(
        self,
        path: str,
        name: str | None,
        split: str,
        revision: str | None,
        streaming: bool,
        max_documents: int | None,
        *,
        columns: Columns,
    ) -> None:
        kind = type(self).__name__
        for setting, value in {"path": path, "split": split}.items():
            if not value:
                raise ConfigError(f"{kind}'s {setting} is empty; set data.source.{setting}.")
        if streaming and "[" in split:
            raise ConfigError(f"{kind}'s split is {split!r}, but a stream has no slices; use max_documents instead.")
        if max_documents is not None and max_documents < 1:
            raise ConfigError(f"max_documents must be at least 1, got {max_documents}; leave it out to read all.")
        self._path = path
        self._name = name
        self._split = split
        self._revision = revision
        self._streaming = streaming
        self._max_documents = max_documents
        self._columns = columns

    def title(self) -> str:
        return " ".join(filter(None, [self._path, self._name, f"(split {self._split})"]))

    def _digest(self, kind: str, version: int, *columns: str | None) -> str:
        """Digest the settings, of columns those that are given, and what cheaply tells this content from another."""
        settings = [self._name, self._split, *columns, self._streaming, self._max_documents]
        directory = self._directory()
        if directory is not None:
            files = sorted(file for file in directory.rglob("*") if file.is_file())
            return digest(kind, version, settings, stat_files(files))
        return digest(kind, version, self._path, self._revision, settings)

    def _directory(self) -> Path | None:
        """Return the local directory that is meant, or None for a name on the hub."""
        directory = Path(self._path).expanduser()
        if directory.is_dir():
            return directory
        if directory.exists():
            raise DataError(
                f"{self._path} is a file; {type(self).__name__} reads a directory. Use a source of files for it."
            )
        if self._path.startswith(("/", ".", "~")) or self._path.count("/") > 1:
            raise DataError(f"{self._path} is no directory (looked from {Path.cwd()}). Set data.source.path.")
        return None

    def _batches(self) -> Iterator[Any]:
        """Stream tables of the columns that are asked for, some rows at once."""
        batches = self._read()
        while True:
            with self._errors():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _read(self) -> Iterator[Any]:
        import datasets
        from datasets.packaged_modules.parquet.parquet import ParquetConfig

        settings = self._settings(datasets)
        if self._streaming:
            builder = datasets.load_dataset_builder(**settings)
            if isinstance(builder.config, ParquetConfig):
                yield from self._read_parquet(builder.config.data_files)
                return
            rows = builder.as_streaming_dataset(split=self._split)
        else:
            rows = datasets.load_dataset(**settings, split=self._split)
        # a stream of JSON knows its columns only when they come, and they may change on the way
        is_known = rows.features is not None
        if is_known:
            self._columns.check(self.title(), {name: _type_of(feature) for name, feature in rows.features.items()})
            rows = rows.select_columns(self._columns.names)
        for batch in rows.with_format("arrow").iter(batch_size=ROWS_AT_ONCE):
            if not is_known:
                self._columns.check(self.title(), types_of(batch.schema))
            yield batch

    def _read_parquet(self, files: Mapping[str, list[str]]) -> Iterator[Any]:
        """Stream the rows of files on the hub or the disk, a row group at a time.

        The library's own stream fetches every column, and its threads abort a process that ends while they read
        ahead (apache/arrow issue 45214).
        """
        import fsspec

        if self._split not in files:
            names = ", ".join(map(str, files))
            raise DataError(f"{self.title()}: there is no such split; there is {names}. Set data.source.split.")
        for name in files[self._split]:
            with fsspec.open(name, "rb") as file:
                yield from read_parquet(file, self.title(), self._columns)

    def _settings(self, datasets: Any) -> dict[str, Any]:
        directory = self._directory()
        if directory is None:
            return {"path": self._path, "name": self._name, "revision": self._revision}
        return {"path": str(directory), **self._local_subset(datasets, directory)}

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Tell what goes wrong in the library as an error of the input, and let it say nothing itself."""
        try:
            with _quiet_datasets():
                yield
        except DataError:
            raise
        except (ConnectionError, TimeoutError) as error:
            raise DataError(
                f"{self.title()} could not be fetched: {_first_line(error)}. If the hub is out of reach, "
                "set data.source.path to a local copy of the dataset's directory."
            ) from error
        except Exception as error:  # the library's errors have no common root; all of them are about the input
            raise DataError(f"{self.title()} could not be loaded: {_first_line(error)}") from error

    def _local_subset(self, datasets: Any, directory: Path) -> dict[str, Any]:
        # only a card (README.md) makes a name a configuration; in a bare directory it is a sub-directory
        if self._name is None:
            return {}
        known = datasets.get_dataset_config_names(str(directory))
        if self._name in known:
            return {"name": self._name}
        if (directory / self._name).is_dir():
            return {"data_dir": self._name}
        subsets = sorted({*known, *(child.name for child in directory.iterdir() if child.is_dir())} - {"default"})
        raise DataError(
            f"{directory} has no subset {self._name!r}; it has {', '.join(subsets) or 'none'}. Set data.source.name."
        )


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    """Silence the library's own progress bars and retry warnings, and leave its settings as they were."""
    import datasets

    had_bars = datasets.are_progress_bars_disabled() is False
    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in ("datasets", "huggingface_hub")}
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)  # what went wrong is raised, and reported once
    try:
        yield
    finally:
        if had_bars:
            datasets.enable_progress_bars()
        for logger, level in loggers.items():
            logger.setLevel(level)


def _type_of(feature: Any) -> str:
    return str(getattr(feature, "dtype", "a nested type"))


def _first_line(error: Exception) -> str:
    # a failed build is reported as "An error occurred while generating the dataset"; its cause says more
    cause = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error
    return (str(cause) or type(cause).__name__).strip().split("\n")[0]
