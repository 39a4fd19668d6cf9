"""A source of one's own: the docstrings of Python files.

./xlab.py fit -c examples/own_source.yaml
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xlab.data.digest import digest
from xlab.data.sources import Document, Source
from xlab.data.sources.files import find_files, stat_files
from xlab.errors import DataError


class Docstrings(Source):
    """Each docstring of Python files is a document; its meta is the name of what it belongs to.

    Args:
        paths: a file or a glob; ``**`` reaches into sub-directories.
        min_length: docstrings of fewer characters are left out, and counted.
    """

    def __init__(self, paths: str, min_length: int = 20) -> None:
        # kept under the arguments' names: a checkpoint holds them, and makes the source again
        self.paths = paths
        self.min_length = min_length
        self._too_short = 0

    def documents(self) -> Iterator[Document]:
        """Stream them: the corpus is read once to train a tokenizer, and once to be encoded."""
        self._too_short = 0
        for path in find_files([self.paths]):
            for name, text in _docstrings(path):
                if len(text) < self.min_length:
                    self._too_short += 1
                else:
                    yield Document(text, meta=name)

    def identity(self) -> str:
        """Whatever changes the documents must change this: it is the name of what is prepared of them."""
        return digest("Docstrings", 1, self.min_length, stat_files(find_files([self.paths])))

    def title(self) -> str:
        return f"Docstrings {self.paths}"

    def report(self) -> dict[str, Any]:
        """What was counted is printed, and kept in the description of the prepared data."""
        return {"source": self.title(), "too_short": self._too_short}


def _docstrings(path: Path) -> Iterator[tuple[str, str]]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:  # one line for the reader: the thing, what is wrong, what to do
        raise DataError(f"{path} is no Python of this version: {error}. Leave it out of data.source.paths.") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "name", path.stem), text + "\n"
