"""Conversations of the Hugging Face hub, or of a local directory in its layout: chats, or prompts and responses."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from xlab.data.sources.conversations import NamedColumns, chat, conversations, exchange
from xlab.data.sources.hub_source import HubSource
from xlab.data.sources.source import Document, Message
from xlab.data.sources.text_columns import rows_of


class HubConversations(HubSource):
    """Rows that are conversations; a subclass says which columns a row has and what it says.

    Args:
        path: A name on the hub, or a local directory in the hub's layout.
        name: The configuration (subset).
        split: The split to read.
        revision: A branch, tag or commit on the hub.
        streaming: Read the files as they come, and keep no copy.
        max_documents: Read this many conversations from the beginning, and no more.
        columns: The columns to read, by the setting that names each.
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
        columns: Mapping[str, str],
    ) -> None:
        self._named = NamedColumns(columns)
        super().__init__(path, name, split, revision, streaming, max_documents, columns=self._named)

    @abstractmethod
    def messages(self, row: Mapping[str, Any], where: str) -> list[Message]:
        """Give what is said in a row; as ``Conversations.messages``."""

    def documents(self) -> Iterator[Document]:
        rows = rows_of(self._batches(), self.title())
        return islice(conversations(rows, self.messages), self._max_documents)

    def identity(self) -> str:
        settings = sorted(self._named.by_setting.items())
        return self._digest(type(self).__name__, 1, *(word for pair in settings for word in pair))


class HubChats(HubConversations):
    """Chats of the hub: a column of messages, each with ``role`` and ``content``.

    Args:
        path: A name on the hub, such as HuggingFaceH4/ultrachat_200k, or a local directory in the hub's layout.
        name: The configuration (subset); in a local directory without a card, the sub-directory of that name.
        split: The split to read; a slice such as ``train[:1%]`` is possible, unless it is streamed.
        messages_column: The column that holds the messages.
        revision: A branch, tag or commit on the hub; a commit makes a run repeatable.
        streaming: Read the files as they come, and keep no copy.
        max_documents: Read this many chats from the beginning, and no more.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        split: str = "train",
        messages_column: str = "messages",
        revision: str | None = None,
        streaming: bool = False,
        max_documents: int | None = None,
    ) -> None:
        columns = {"messages_column": messages_column}
        super().__init__(path, name, split, revision, streaming, max_documents, columns=columns)
        self._messages_column = messages_column

    def messages(self, row: Mapping[str, Any], where: str) -> list[Message]:
        return chat(row, where, self._messages_column)


class HubPrompts(HubConversations):
    """Prompts and their responses, in two columns of a dataset of the hub.

    Args:
        path: A name on the hub, or a local directory in the hub's layout.
        name: The configuration (subset); in a local directory without a card, the sub-directory of that name.
        split: The split to read; a slice such as ``train[:1%]`` is possible, unless it is streamed.
        prompt_column: The column of what the user says.
        response_column: The column of what the assistant answers.
        system_column: A column of what is said to the assistant before; in some rows it may be empty or null.
        revision: A branch, tag or commit on the hub; a commit makes a run repeatable.
        streaming: Read the files as they come, and keep no copy.
        max_documents: Read this many pairs from the beginning, and no more.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        split: str = "train",
        prompt_column: str = "prompt",
        response_column: str = "response",
        system_column: str | None = None,
        revision: str | None = None,
        streaming: bool = False,
        max_documents: int | None = None,
    ) -> None:
        columns = {"prompt_column": prompt_column, "response_column": response_column}
        columns |= {} if system_column is None else {"system_column": system_column}
        super().__init__(path, name, split, revision, streaming, max_documents, columns=columns)
        self._prompt_column = prompt_column
        self._response_column = response_column
        self._system_column = system_column

    def messages(self, row: Mapping[str, Any], where: str) -> list[Message]:
        return exchange(row, self._prompt_column, self._response_column, self._system_column)
