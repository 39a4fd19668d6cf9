"""Settings of these tests."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# a loaded machine is slow, and a slow example is no wrong one
settings.register_profile("inference", deadline=None, max_examples=30)
settings.load_profile("inference")


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Threads wait for each other longer than such small models take: five times the processor time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
