"""However a run is spread over two ranks, it is the run of one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT
from tests.distributed_worker import MODELS, SAVED_AT, STEPS, train
from tests.tiny import LIGHTNING_NOISE, write_corpus
from xlab import checkpoints
from xlab.models import XLabModel

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]

ROUNDING = 2e-5  # of fp32 sums in another order, over a few steps


class Spread:
    """What one process saw, and what two ranks did."""

    def __init__(self, folder: Path, alone: dict[str, Any], ranks: dict[str, Any]) -> None:
        self.folder, self.alone, self.ranks = folder, alone, ranks


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Spread:
    folder = tmp_path_factory.mktemp("spread")
    write_corpus(folder / "corpus.jsonl")
    alone = {name: train(folder, name, save=True) for name in MODELS}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    worker = [*command, "tests.distributed_worker", str(folder)]
    done = subprocess.run(worker, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return Spread(folder, alone, json.loads((folder / "seen.json").read_text()))


@pytest.mark.parametrize("way", ["fsdp", "tp"])
@pytest.mark.parametrize("name", MODELS)
def test_the_losses_are_those_of_one_process(spread: Spread, name: str, way: str) -> None:
    alone, ranks = spread.alone[name], spread.ranks[f"{name} {way}"]
    assert len(ranks["losses"]) == STEPS
    assert ranks["losses"] == pytest.approx(alone["losses"], rel=ROUNDING)
    assert ranks["val"] == pytest.approx(alone["val"], rel=ROUNDING)
    assert alone["losses"][-1] < 0.95 * alone["losses"][0]  # it has learnt, so that a wrong gradient would show


@pytest.mark.parametrize("way", ["fsdp", "tp"])
@pytest.mark.parametrize("saved", ["fsdp", "tp", "one"])
def test_what_any_way_saved_any_takes_up(spread: Spread, way: str, saved: str) -> None:
    rest = spread.alone["gated"]["losses"][SAVED_AT:]
    assert spread.ranks[f"{way} from {saved}"]["losses"] == pytest.approx(rest, rel=ROUNDING)


@pytest.mark.parametrize("saved", ["fsdp", "tp"])
def test_one_process_takes_up_what_ranks_saved(spread: Spread, saved: str) -> None:
    found = train(spread.folder, "gated", ckpt_path=spread.folder / f"gated.{saved}.ckpt")
    assert found["losses"] == pytest.approx(spread.alone["gated"]["losses"][SAVED_AT:], rel=ROUNDING)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("way", ["fsdp", "tp"])
def test_an_export_of_shards_is_that_of_one_process(spread: Spread, tmp_path: Path, name: str, way: str) -> None:
    folder = spread.folder / f"{name}.{way}.ckpt"
    assert folder.is_dir()
    path, _ = checkpoints.export(folder, tmp_path)
    found, wanted = checkpoints.read(path), checkpoints.read(spread.folder / f"{name}.one.ckpt")
    assert found.model == wanted.model
    assert found.tokenizer == wanted.tokenizer
    assert found.info["step"] == SAVED_AT
    assert found.weights.keys() == wanted.weights.keys()
    for key, weight in wanted.weights.items():
        # Adam divides by what is nearly nothing where a gradient is
        torch.testing.assert_close(
            found.weights[key], weight, rtol=0, atol=2e-4, msg=lambda text, key=key: f"{key}: {text}"
        )
    assert XLabModel.load_from_checkpoint(str(folder)).max_len == wanted.model["max_len"]


def test_what_is_written_in_the_background_is_the_same(spread: Spread) -> None:
    found, wanted = (checkpoints.read(spread.folder / f"gated.{way}.ckpt") for way in ("background", "fsdp"))
    assert all(torch.equal(found.weights[key], weight) for key, weight in wanted.weights.items())


def test_accumulating_ragged_micro_batches_is_one_batch(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.jsonl")
    whole = train(tmp_path, "gated", batch_size=32)
    parts = train(tmp_path, "gated", batch_size=8, accumulate_grad_batches=4, val_check_interval=4 * STEPS)
    assert parts["losses"] == pytest.approx(whole["losses"], rel=ROUNDING)
    assert parts["val"] == pytest.approx(whole["val"], rel=ROUNDING)
