"""Memory that is kept is not fetched from the system again."""

import ctypes
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from xlab.training import allocator

FAULTS = """
import resource
import sys
import torch
from xlab.training.allocator import keep_freed_memory

if sys.argv[1] == "kept" and not keep_freed_memory():
    raise SystemExit(3)
for _ in range(4):  # the first steps take the memory
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    made = [torch.ones(12 * 2**20) for _ in range(4)]
    del made
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    found = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, timeout=60, cwd=ROOT)
    if found.returncode == 3:
        pytest.skip("the C library is not glibc")
    assert found.returncode == 0, found.stderr
    return int(found.stdout)


def test_what_is_kept_is_there_at_once() -> None:
    assert 10 * faults("kept") < faults("as it is")


def test_another_system_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())  # without mallopt
    assert not allocator.keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not allocator.keep_freed_memory()
