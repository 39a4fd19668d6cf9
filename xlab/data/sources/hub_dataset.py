"""Any dataset of the Hugging Face hub, or a local directory in the hub's layout."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xlab.data.digest import digest
from xlab.data.sources.files import stat_files
from xlab.data.sources.source import Document, Source
from xlab.errors import ConfigError, DataError

_ROWS_AT_ONCE = 128  # a few hundred kB of encyclopedia; documents may be long


class HubDataset(Source):
    """A dataset read with Hugging Face's ``datasets``; code that a dataset brings along is never run.

    Args:
        path: A name on the hub, such as wikimedia/wikipedia, or a local directory in the hub's layout.
        name: The configuration (subset), such as 20231101.en; in a local directory without a card, the
            sub-directory of that name.
        split: The split to read; a slice such as ``train[:1%]`` is possible.
        text_column: The column that holds the documents.
        meta_column: A column kept beside the document, such as its title.
        revision: A branch, tag or commit on the hub; a commit makes a run repeatable.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        split: str = "train",
        text_column: str = "text",
        meta_column: str | None = None,
        revision: str | None = None,
    ) -> None:
        for setting, value in {"path": path, "split": split, "text_column": text_column}.items():
            if not value:
                raise ConfigError(f"HubDataset's {setting} is empty; set data.source.{setting}.")
        self._path = path
        self._name = name
        self._split = split
        self._text_column = text_column
        self._meta_column = meta_column
        self._revision = revision

    def documents(self) -> Iterator[Document]:
        rows = self._load()
        columns = [column for column in (self._text_column, self._meta_column) if column is not None]
        self._check_columns(rows, columns)
        batches = rows.select_columns(list(dict.fromkeys(columns))).with_format("arrow")
        row = 0
        for batch in batches.iter(batch_size=_ROWS_AT_ONCE):
            texts = batch.column(self._text_column).to_pylist()
            metas = [""] * len(texts) if self._meta_column is None else batch.column(self._meta_column).to_pylist()
            for text, meta in zip(texts, metas, strict=True):
                if text is None:
                    raise DataError(f"{self._title()}: row {row} of column {self._text_column!r} is null, not text.")
                if text:
                    yield Document(text, meta if isinstance(meta, str) else json.dumps(meta, default=str))
                row += 1

    def identity(self) -> str:
        settings = [self._name, self._split, self._text_column, self._meta_column]
        directory = self._directory()
        if directory is not None:
            files = sorted(file for file in directory.rglob("*") if file.is_file())
            return digest("HubDataset", 1, settings, stat_files(files))
        return digest("HubDataset", 1, self._path, self._revision, settings)

    def _directory(self) -> Path | None:
        """Return the local directory that is meant, or None for a name on the hub."""
        directory = Path(self._path).expanduser()
        if directory.is_dir():
            return directory
        if directory.exists():
            raise DataError(f"{self._path} is a file; HubDataset reads a directory. Use TextFiles or JsonLines for it.")
        if self._path.startswith(("/", ".", "~")) or self._path.count("/") > 1:
            raise DataError(f"{self._path} is no directory (looked from {Path.cwd()}). Set data.source.path.")
        return None

    def _load(self) -> Any:
        directory = self._directory()
        with _quiet_datasets() as datasets:
            try:
                settings: dict[str, Any] = {"path": self._path, "name": self._name, "revision": self._revision}
                if directory is not None:
                    settings = {"path": str(directory), **self._local_subset(datasets, directory)}
                return datasets.load_dataset(**settings, split=self._split)
            except DataError:
                raise
            except (ConnectionError, TimeoutError) as error:
                raise DataError(
                    f"{self._title()} could not be fetched: {_first_line(error)}. If the hub is out of reach, "
                    "set data.source.path to a local copy of the dataset's directory."
                ) from error
            except Exception as error:  # the library's errors have no common root; all of them are about the input
                raise DataError(f"{self._title()} could not be loaded: {_first_line(error)}") from error

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

    def _check_columns(self, rows: Any, columns: list[str]) -> None:
        for setting, column in zip(("text_column", "meta_column"), columns, strict=False):
            if column not in rows.column_names:
                raise DataError(
                    f"{self._title()} has no column {column!r}; it has {', '.join(rows.column_names)}. "
                    f"Set data.source.{setting}."
                )
        kind = getattr(rows.features[self._text_column], "dtype", "a nested type")
        if kind not in ("string", "large_string"):
            raise DataError(
                f"{self._title()}: column {self._text_column!r} holds {kind}, not text. Set data.source.text_column."
            )

    def _title(self) -> str:
        return " ".join(filter(None, [self._path, self._name, f"(split {self._split})"]))


@contextmanager
def _quiet_datasets() -> Iterator[Any]:
    """Lend the library without its own progress bars and retry warnings, and leave its settings as they were."""
    import datasets

    had_bars = datasets.are_progress_bars_disabled() is False
    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in ("datasets", "huggingface_hub")}
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)  # what went wrong is raised, and reported once
    try:
        yield datasets
    finally:
        if had_bars:
            datasets.enable_progress_bars()
        for logger, level in loggers.items():
            logger.setLevel(level)


def _first_line(error: Exception) -> str:
    # a failed build is reported as "An error occurred while generating the dataset"; its cause says more
    cause = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error
    return (str(cause) or type(cause).__name__).strip().split("\n")[0]
