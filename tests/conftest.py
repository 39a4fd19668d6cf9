"""What every test shares: two cores are plenty, and a test reads the corpus of its own folder."""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # subprocesses too: two workers on two cores

import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"

torch.set_num_threads(1)
# a slow machine is no reason to fail
settings.register_profile("xlab", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("xlab")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public-domain corpora that may lie beside the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"{SHARED_DATA} is not there: this test reads its corpora")
    return SHARED_DATA


@pytest.fixture
def one_rank() -> Iterator[None]:
    """Leave no process group behind, nor the address that Lightning wrote into the environment for it."""
    before = dict(os.environ)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)
