"""Any dataset of the Hugging Face hub, or a local directory in the hub's layout."""

from collections.abc import Iterator
from itertools import islice

from xlab.data.sources.hub_source import HubSource
from xlab.data.sources.source import Document
from xlab.data.sources.text_columns import TextColumns
from xlab.errors import ConfigError


class HubDataset(HubSource):
    """A dataset read with Hugging Face's ``datasets``; code that a dataset brings along is never run.

    Args:
        path: A name on the hub, such as wikimedia/wikipedia, or a local directory in the hub's layout.
        name: The configuration (subset), such as 20231101.en; in a local directory without a card, the
            sub-directory of that name.
        split: The split to read; a slice such as ``train[:1%]`` is possible, unless it is streamed.
        text_column: The column that holds the documents.
        meta_column: A column kept beside the document, such as its title.
        revision: A branch, tag or commit on the hub; a commit makes a run repeatable.
        streaming: Read the files as they come, and keep no copy: for a dataset larger than the disk. Every
            preparation then fetches it anew, and one that trains a tokenizer fetches it twice.
        max_documents: Read this many documents from the beginning, and no more.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        split: str = "train",
        text_column: str = "text",
        meta_column: str | None = None,
        revision: str | None = None,
        streaming: bool = False,
        max_documents: int | None = None,
    ) -> None:
        if not text_column:
            raise ConfigError("HubDataset's text_column is empty; set data.source.text_column.")
        self._texts = TextColumns(text_column, meta_column)
        super().__init__(path, name, split, revision, streaming, max_documents, columns=self._texts)
        self._text_column = text_column
        self._meta_column = meta_column

    def documents(self) -> Iterator[Document]:
        return islice(self._texts.documents(self.title(), self._batches()), self._max_documents)

    def identity(self) -> str:
        return self._digest("HubDataset", 2, self._text_column, self._meta_column)
