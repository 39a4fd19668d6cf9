"""Conversations as documents: chats, or prompts with their responses, in files of JSON lines, Parquet or Arrow."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlab.data.digest import digest
from xlab.data.sources.files import as_patterns, find_files, size_of_text, stat_files
from xlab.data.sources.json_lines import json_rows, refuse_surrogates
from xlab.data.sources.source import Document, Message, Source
from xlab.data.sources.table_files import arrow_batches, parquet_batches
from xlab.data.sources.text_columns import rows_of
from xlab.errors import ConfigError, DataError

ROLES = ("system", "developer", "user", "assistant", "tool")
_UNREAD = ("tool_calls", "function_call")
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
        self._columns = NamedColumns(columns)

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
            yield from conversations(self._rows(path), self.messages)

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
        yield from rows_of(_TABLES[path.suffix](path, self._columns), str(path))


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
        return chat(row, where, self._messages_column)


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
        return exchange(row, self._prompt_column, self._response_column, self._system_column)


def conversations(
    rows: Iterable[tuple[str, Mapping[str, Any]]], messages: Callable[[Mapping[str, Any], str], list[Message]]
) -> Iterator[Document]:
    """Stream the conversations of rows, each with its place.

    Args:
        rows: Records that have the columns that ``messages`` asks for.
        messages: Gives what is said in a record.

    Raises:
        DataError: for a record that nothing can be learnt from.
    """
    for where, row in rows:
        said = messages(row, where)
        check_messages(said, where)
        yield Document(script(said), messages=tuple(said), place=where)


def chat(row: Mapping[str, Any], where: str, column: str) -> list[Message]:
    """Give the messages of a column, each with ``role`` and ``content``: a text, or OpenAI's list of parts of text.

    Raises:
        DataError: for something else, and for what would be lost, such as calls of tools.
    """
    listed = row[column]
    if not isinstance(listed, list):
        raise DataError(
            f"{where}: column {column!r} holds {_kind(listed)}, not a list of messages. "
            "Set data.source.messages_column."
        )
    found = []
    for number, message in enumerate(listed):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise DataError(f"{where}: message {number} is no object with role and content; it is {message!r:.60}.")
        if lost := next((key for key in _UNREAD if message.get(key)), None):
            raise DataError(
                f"{where}: message {number} has {lost}, which no template is shown; write it into its content, or "
                "remove the record."
            )
        if message.get("weight") not in (None, 1):
            raise DataError(
                f"{where}: message {number} has the weight {message['weight']!r:.60}, and every answer is learnt "
                "alike; remove the weight, or the record."
            )
        found.append(Message(message["role"], _joined(message["content"])))
    return found


def exchange(row: Mapping[str, Any], prompt: str, response: str, system: str | None) -> list[Message]:
    """Give a prompt and its response, by the names of their columns, and what the system says before, if it does."""
    said = None if system is None else row[system]
    before = [Message("system", said)] if said else []
    return [*before, Message("user", row[prompt]), Message("assistant", row[response])]


def check_messages(messages: list[Message], where: str) -> None:
    """Refuse a conversation that nothing can be learnt from.

    Raises:
        DataError: naming the place, and what to do.
    """
    for number, (role, content) in enumerate(messages):
        if role not in ROLES:
            raise DataError(f"{where}: message {number} has the role {role!r}; a role can be {', '.join(ROLES)}.")
        if not isinstance(content, str):
            raise DataError(
                f"{where}: message {number}, of the {role}, holds {_kind(content)}, not text; write it as "
                "text, or remove the record."
            )
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
class NamedColumns:
    """Columns of any type, by the settings that name them."""

    by_setting: Mapping[str, str]

    def __post_init__(self) -> None:
        for setting, column in self.by_setting.items():
            if not column:
                raise ConfigError(f"{setting} is empty; name a column, or leave it out.")

    @property
    def names(self) -> list[str]:
        """The columns to read, each once."""
        return list(dict.fromkeys(self.by_setting.values()))

    def check(self, place: str, types: Mapping[str, str]) -> None:
        """Compare the settings with the names of the columns of ``place``.

        Raises:
            DataError: when one is missing.
        """
        for setting, column in self.by_setting.items():
            if column not in types:
                raise DataError(
                    f"{place} has no column {column!r}; it has {', '.join(types) or 'none'}. Set data.source.{setting}."
                )


def _joined(content: Any) -> Any:
    """Give the text of a list of parts that are all text; what else stands there stays, and is refused."""
    is_text = isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in content
    )
    return "".join(part["text"] for part in content) if is_text else content


def _kind(value: object) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
