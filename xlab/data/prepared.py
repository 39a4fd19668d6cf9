"""Prepared data: a directory of token stores, the tokenizer they were made with, and their description."""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from xlab.data.chat import ANSWERS
from xlab.data.sharded_store import open_store
from xlab.data.token_reader import TokenReader
from xlab.data.tokenizers import Tokenizer
from xlab.errors import DataError

FORMAT_VERSION = 1


class StoredSplits(ABC):
    """The tokens of each split, and the tokenizer they were made with.

    Attributes:
        description: what is known of them in plain data; ``splits`` tells of each its ``documents`` and ``tokens``, and
            where they were counted the ``bytes`` of its text.
    """

    description: dict[str, Any]

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A digest of the tokens and how they came about, by which a run knows that it goes on with the same."""

    @property
    @abstractmethod
    def tokenizer(self) -> Tokenizer:
        """What the tokens mean."""

    @abstractmethod
    def n_documents(self, split: str) -> int:
        """Return the number of documents of a split; 0 where there is none."""

    @abstractmethod
    def n_bytes(self, split: str) -> int | None:
        """Return the bytes of text in a split, without meta; None where nobody has counted them."""

    @abstractmethod
    def store(self, split: str) -> TokenReader:
        """Open the tokens of a split.

        Raises:
            DataError: when the split has no documents.
        """

    @abstractmethod
    def answers(self, split: str) -> TokenReader:
        """Open what says of each token of a split whether it belongs to an answer; made with ``Chat`` only.

        Raises:
            DataError: when it is not there.
        """


@dataclass(frozen=True)
class PreparedData(StoredSplits):
    """A directory of token stores, the tokenizer they were made with, and their description."""

    directory: Path
    description: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """A digest of the documents as they were read, their splits and their tokenizer, wherever they came from."""
        return str(self.description["fingerprint"])

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(self.directory / "tokenizer.json")

    def n_documents(self, split: str) -> int:
        return int(self.description["splits"].get(split, {}).get("documents", 0))

    def n_bytes(self, split: str) -> int | None:
        return int(self.description["splits"].get(split, {}).get("bytes", 0))

    def store(self, split: str) -> TokenReader:
        if not self.n_documents(split):
            raise DataError(
                f"The {split} split has no documents; give it a larger share, a source of its own, "
                "or the corpus more (or shorter) documents: TextFiles has section_chars for that."
            )
        return open_store(self.directory / split)

    def answers(self, split: str) -> TokenReader:
        return open_store(self.directory / f"{split}.{ANSWERS}")


def open_prepared(directory: str | Path) -> PreparedData:
    """Open what ``prepare`` made.

    Raises:
        DataError: when it is missing, damaged, or of another version.
    """
    directory = Path(directory)
    try:
        prepared = PreparedData(directory, read_description(directory))
        made_by = prepared.description["format_version"], prepared.description["tokenizer"]
        if made_by != (FORMAT_VERSION, prepared.tokenizer.fingerprint):
            raise DataError(f"{directory} was prepared by another version of XLab, or its tokenizer was exchanged.")
        for split, expected in prepared.description["splits"].items():
            store = prepared.store(split)
            if (len(store), store.n_tokens) != (expected["documents"], expected["tokens"]):
                raise DataError(f"{directory / split} does not hold what description.json tells.")
            if "chat" in prepared.description:
                check_answers(store, prepared.answers(split))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{directory} holds no prepared data: {error}.") from error
    return prepared


def check_answers(store: TokenReader, answers: TokenReader) -> None:
    """Check that there is a word for each token.

    Raises:
        DataError: when they are not of the same documents.
    """
    if (len(store), store.n_tokens) != (len(answers), answers.n_tokens):
        raise DataError(f"{answers.prefix} does not tell of the tokens in {store.prefix}; prepare the data again.")


def read_description(directory: Path) -> dict[str, Any]:
    """Read the description.json of a directory.

    Raises:
        OSError: when there is none.
        ValueError: when it is no JSON object.
    """
    description = json.loads((directory / "description.json").read_text(encoding="utf-8"))
    if not isinstance(description, dict):
        raise ValueError("its description.json is no JSON object")
    return description


def write_description(directory: Path, description: dict[str, Any]) -> None:
    """Write the description.json of a directory."""
    (directory / "description.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
