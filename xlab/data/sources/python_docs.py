"""The documentation that every Python carries: a corpus without a download."""

import ast
import inspect
import os
import platform
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from xlab.data.digest import digest
from xlab.data.sources.source import Document, Source
from xlab.errors import DataError

_READER_VERSION = 1
_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "pydoc_data", "_vendor"}
_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class PythonDocs(Source):
    """Python's own documentation: its language topics, and the docstrings of the standard library.

    Some 2.5 MB of English and code; what it holds follows the Python version. The library is parsed, never
    imported. One document a topic or module.
    """

    def documents(self) -> Iterator[Document]:
        empty = True
        for document in self._everything():
            empty = False
            yield document
        if empty:
            raise DataError(
                f"This Python ({_library()}) carries neither pydoc topics nor library sources; "
                "use one from python.org, your system's python3 package or uv, or set data.source to your own texts."
            )

    def identity(self) -> str:
        version = [platform.python_implementation(), platform.python_version(), platform.system()]
        # a system's Python may grow modules later: tkinter is a package of its own on Debian
        modules = sorted((name, path.stat().st_size) for name, path in _modules(_library()))
        return digest("PythonDocs", _READER_VERSION, version, modules)

    @staticmethod
    def _everything() -> Iterator[Document]:
        for topic, text in sorted(_topics().items()):
            yield Document(text, meta=f"topic {topic}")
        for name, path in sorted(_modules(_library())):
            tree = _parse(path)
            entries = [] if tree is None else list(_entries(tree))
            if entries:
                yield Document("\n\n".join([_heading(name), *entries]) + "\n", meta=f"module {name}")


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _topics() -> dict[str, str]:
    try:
        topics = import_module("pydoc_data.topics").topics
    except ImportError:  # some distributions leave it out
        return {}
    return {str(topic): str(text) for topic, text in topics.items()}


def _modules(library: Path) -> Iterator[tuple[str, Path]]:
    for folder, subfolders, files in os.walk(library):
        package = Path(folder).relative_to(library).parts
        # lib-dynload, config-3.12-x86_64…, site-packages: only what can be imported by name has documentation
        subfolders[:] = [name for name in subfolders if name.isidentifier() and name not in _SKIPPED]
        for file in files:
            module = file.removesuffix(".py")
            if module != file and module.isidentifier():
                yield ".".join([*package, module]).removesuffix(".__init__"), Path(folder, file)


def _parse(path: Path) -> ast.Module | None:
    try:
        with warnings.catch_warnings(), tokenize.open(path) as file:
            warnings.simplefilter("ignore")  # invalid escapes in somebody else's source
            return ast.parse(file.read())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


def _heading(name: str) -> str:
    title = f"Module {name}"
    return f"{title}\n{'=' * len(title)}"


def _entries(tree: ast.Module) -> Iterator[str]:
    """List what is documented in a module, in the order of its source: a signature, and its docstring below."""
    if doc := ast.get_docstring(tree):
        yield doc
    yield from _definitions(tree.body, prefix="")


def _definitions(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        if isinstance(node, _Definition):
            name = prefix + node.name
            if doc := ast.get_docstring(node, clean=False):
                yield f"{_signature(node, name)}\n{_indent(inspect.cleandoc(doc))}"
            if isinstance(node, ast.ClassDef):
                yield from _definitions(node.body, prefix=f"{name}.")
        elif isinstance(node, ast.If | ast.Try):  # definitions that depend on the platform
            yield from _definitions([*node.body, *node.orelse], prefix)


def _signature(node: _Definition, name: str) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(map(ast.unparse, node.bases))
        return f"class {name}({bases}):" if bases else f"class {name}:"
    keyword = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{keyword} {name}({ast.unparse(node.args)}){returns}:"


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.split("\n"))
