"""Checkpoints that ask for more than any machine has are refused in one line, before memory is taken."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT
from tests.tiny import LIGHTNING_NOISE, Run, make_model, train
from xlab import checkpoints
from xlab.errors import CheckpointError, ConfigError
from xlab.models import XLabModel

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]

MEMORY = 6 * 2**30  # of address space: torch alone takes a good part of it
OPENERS: list[Callable[[Path], Any]] = [checkpoints.load, XLabModel.load_from_checkpoint]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("run"))


def hostile(run: Run, path: Path, **model: Any) -> Path:
    """An export whose header asks for another model."""
    whole: dict[str, Any] = torch.load(run.exported, weights_only=True)
    whole["xlab"]["model"] |= model
    torch.save(whole, path)
    return path


@pytest.mark.parametrize("opener", OPENERS, ids=["load", "load_from_checkpoint"])
@pytest.mark.parametrize("name", ["d_model", "n_layers", "max_len", "vocab_size", "n_heads", "d_ff"])
def test_a_header_that_asks_for_a_billion_is_refused(
    run: Run, tmp_path: Path, opener: Callable[[Path], Any], name: str
) -> None:
    path = hostile(run, tmp_path / "hostile.pt", **{name: 10**9})
    refused = r"build no model: (the model would take|the model's sizes are)|do not fit the model|too few for model"
    with pytest.raises(CheckpointError, match=refused) as no:
        opener(path)
    assert str(path) in str(no.value)
    assert "\n" not in str(no.value)


def test_a_run_that_asks_for_a_billion_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the model would take [\d,.]+ GiB of memory .* this machine has"):
        make_model(n_layers=10**9)


def test_a_weight_that_shows_one_number_as_many_is_refused(run: Run, tmp_path: Path) -> None:
    whole: dict[str, Any] = torch.load(run.exported, weights_only=True)
    name = next(name for name in whole["state_dict"] if name.endswith("embedding.weight"))
    whole["state_dict"][name] = torch.zeros(1).expand(10**6, 10**5)
    torch.save(whole, tmp_path / "inflated.pt")
    assert (tmp_path / "inflated.pt").stat().st_size < 10 * run.exported.stat().st_size
    with pytest.raises(CheckpointError, match=rf"inflated\.pt is damaged: {name} shows 4 bytes as 400,000,000,000"):
        checkpoints.read(tmp_path / "inflated.pt")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is limited by Linux's RLIMIT_AS")
def test_a_process_with_little_memory_says_so_in_one_line(run: Run, tmp_path: Path) -> None:
    path = hostile(run, tmp_path / "hostile.pt", max_len=10**9)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    command = [sys.executable, str(ROOT / "manage.py"), "inspect", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("manage.py inspect: error: ")
    assert done.stderr.count("\n") == 1
