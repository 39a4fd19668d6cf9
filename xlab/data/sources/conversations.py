"""Conversations as documents: chats, or prompts with their responses, in files of JSON lines, Parquet or Arrow."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlab.data.digest import digest
from xlab.data.sources.files import as_patterns, find_files, size_of_text, stat_files
from xlab.data.sources.json_lines import json_rows, refuse_surrogates
from xlab.data.sources.source import Document, Message, Source
from xlab.data.sources.table_files import arrow_batches, parquet_batches
from xlab.data.sources.text_columns import ROWS_AT_ONCE
from xlab.errors import ConfigError, DataError

ROLES = ("system", "developer", "user", "assistant", "tool")
_TABLES = {".parquet": parquet_batches, ".arrow": arrow_batches, ".feather": arrow_batches}


class Conversations(Source):
    """Records that are conversations; a subclass says which columns a record has and what it says.

    Files are JSON lines (compressed or not), or by their suffix Parquet (.parquet) or Arrow (.arrow, .feather).

    Args:
        paths: Files or globs, read in the order of their sorted paths.
        columns: The columns to read, by the setting that names each.
    """

    def __init__(self, paths: str | list[str], columns: Mapping[str, str]) -> None:
        self._paths = as_patterns(paths)
        self._columns = _NamedColumns(columns)

    @abstractmethod
    def messages(self, row: Mapping[str, Any], where: str) -> list[Message]:
        """Give what is said in a record.

        Args:
            row: Its columns; those that were asked for are among them.
            where: Its place, for messages.

        Raises:
            DataError: for a record that holds something else.
        """

    def documents(self) -> Iterator[Document]:
        for path in find_files(self._paths):
            for where, row in self._rows(path):
                messages = self.messages(row, where)
                check_messages(messages, where)
                yield Document(script(messages), messages=tuple(messages), place=where)

    def identity(self) -> str:
        settings = [type(self).__name__, 1, sorted(self._columns.by_setting.items())]
        return digest(settings, stat_files(find_files(self._paths)))

    def n_bytes(self) -> int | None:
        files = find_files(self._paths)
        return None if any(file.suffix in _TABLES for file in files) else size_of_text(files)

    def title(self) -> str:
        return " ".join([type(self).__name__, *self._paths])

    def _rows(self, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
        if path.suffix not in _TABLES:
            for where, row in json_rows(path):
                self._columns.check(where, dict.fromkeys(row, ""))
                yield where, row
            return
        number = 0
        for batch in _TABLES[path.suffix](path, self._columns):
            for start in range(0, batch.num_rows, ROWS_AT_ONCE):
                try:
                    rows = batch.slice(start, ROWS_AT_ONCE).to_pylist()
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{path}: behind row {number} is text that is not UTF-8: {error.reason}."
                    ) from error
                for row in rows:
                    yield f"{path}: row {number}", row
                    number += 1


class ChatRecords(Conversations):
    """Chats: a column of messages, each with ``role`` and ``content``; what the assistant says is to be learnt.

    Args:
        paths: Files or globs (``**`` reaches into sub-directories, ``~`` is your home): JSON lines, compressed or not,
            .parquet, .arrow or .feather; read in the order of their sorted paths.
        messages_column: The column that holds the messages.
    """

    def __init__(self, paths: str | list[str], messages_column: str = "messages") -> None:
        super().__init__(paths, {"messages_column": messages_column})
        self._messages_column = messages_column

    def messages(self, row: Mapping[str, Any], where: str) -> list[Message]:
        listed = row[self._messages_column]
        if not isinstance(listed, list):
            raise DataError(
                f"{where}: column {self._messages_column!r} holds {_kind(listed)}, not a list of messages. "
                "Set data.source.messages_column."
            )
        found = []
        for number, message in enumerate(listed):
            if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
                raise DataError(f"{where}: message {number} is no object with role and content; it is {message!r:.60}.")
            found.append(Message(message["role"], message["content"]))
        return found


class PromptResponses(Conversations):
    """Prompts with their responses, in two columns; the response is to be learnt.

    Args:
        paths: Files or globs (``**`` reaches into sub-directories, ``~`` is your home): JSON lines, compressed or not,
            .parquet, .arrow or .feather; read in the order of their sorted paths.
        prompt_column: The column of what the user says.
        response_column: The column of what the assistant answers.
        system_column: A column of what is said to the assistant before; in some rows it may be empty or null.
    """

    def __init__(
        self,
        paths: str | list[str],
        prompt_column: str = "prompt",
        response_column: str = "response",
        system_column: str | None = None,
    ) -> None:
        columns = {"prompt_column": prompt_column, "response_column": response_column}
        super().__init__(paths, columns | ({} if system_column is None else {"system_column": system_column}))
        self._prompt_column = prompt_column
        self._response_column = response_column
        self._system_column = system_column

    def messages(self, row: Mapping[str, Any], where: str) -> list[Message]:
        said = None if self._system_column is None else row[self._system_column]
        before = [Message("system", said)] if said else []
        exchange = [Message("user", row[self._prompt_column]), Message("assistant", row[self._response_column])]
        return before + exchange


def check_messages(messages: list[Message], where: str) -> None:
    """Refuse a conversation that nothing can be learnt from.

    Raises:
        DataError: naming the place, and what to do.
    """
    for number, (role, content) in enumerate(messages):
        if role not in ROLES:
            raise DataError(f"{where}: message {number} has the role {role!r}; a role can be {', '.join(ROLES)}.")
        if not isinstance(content, str):
            raise DataError(f"{where}: message {number}, of the {role}, holds {_kind(content)}, not text.")
        if role in ("user", "assistant") and not content.strip():
            what = "response" if role == "assistant" else "prompt"
            raise DataError(f"{where}: message {number} is an empty {what}; fill it in, or remove the record.")
        refuse_surrogates(content, where)
    if not any(role == "assistant" for role, _ in messages):
        raise DataError(f"{where} has no message of the assistant, so nothing to learn from; remove the record.")


def script(messages: list[Message]) -> str:
    """Write a conversation as a plain text, of which a vocabulary can be trained."""
    return "\n\n".join(f"{role.capitalize()}: {content}" for role, content in messages)


@dataclass(frozen=True)
class _NamedColumns:
    """Columns of any type, by the settings that name them."""

    by_setting: Mapping[str, str]

    def __post_init__(self) -> None:
        for setting, column in self.by_setting.items():
            if not column:
                raise ConfigError(f"{setting} is empty; name a column, or leave it out.")

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(self.by_setting.values()))

    def check(self, place: str, types: Mapping[str, str]) -> None:
        for setting, column in self.by_setting.items():
            if column not in types:
                raise DataError(
                    f"{place} has no column {column!r}; it has {', '.join(types) or 'none'}. Set data.source.{setting}."
                )


def _kind(value: object) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
