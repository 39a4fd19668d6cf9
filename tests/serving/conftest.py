"""One toy checkpoint and one server over it for all tests that do not change it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving_setup import Running, running, write_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def server(checkpoint: Path) -> Iterator[Running]:
    """An open server of eight rows."""
    # it lives through all that other files do in this process, and has taken over 20 s to end after them; that servers
    # end is tested where they are alone
    with running(checkpoint, max_rows=8, max_queue=64, must_end=False) as served:
        yield served
