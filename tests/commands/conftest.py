"""A corpus of a few pages, and one run trained on it, for every command to work on."""

from pathlib import Path

import pytest
from commands_setup import small, write_corpus

from xlab.commands.lightning_cli import run


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.jsonl")


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A folder in which ``fit`` has run once: its run is logs/version_0."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run("fit", small(corpus))
    return folder


@pytest.fixture
def there(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in the folder of the finished run."""
    monkeypatch.chdir(work)
    return work
