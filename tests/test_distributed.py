"""However a run is spread over two ranks, it is the run of one."""

import contextlib
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from subprocess import STDOUT
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)

from tests.conftest import ROOT
from tests.distributed_worker import MODELS, SAVED_AT, STEPS, train
from tests.tiny import LIGHTNING_NOISE, write_corpus
from xlab import checkpoints
from xlab.commands.launch import a_lost_rank_in_one_line, gone_on, ranks_of_torchrun
from xlab.errors import TrainingError, XLabError
from xlab.models import XLabModel
from xlab.sharded_checkpoints import remove_leftovers, shards_of

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
WAYS = ["fsdp", "tp", "both"]  # on two ranks, on two, and on two times two
ROUNDING = 2e-5  # of fp32 sums in another order, over a few steps


class Spread:
    """What one process saw, and what two ranks did."""

    def __init__(self, folder: Path, alone: dict[str, Any], ranks: dict[str, Any]) -> None:
        self.folder, self.alone, self.ranks = folder, alone, ranks


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Spread:
    """Two nodes of torchrun's, of one rank each, one process, and then four."""
    folder = tmp_path_factory.mktemp("spread")
    write_corpus(folder / "corpus.jsonl")
    alone = {name: train(folder, name, save=True) for name in MODELS}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = [*TORCHRUN, "--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}"]
    worker = ["-m", "tests.distributed_worker", str(folder)]
    launched([[*nodes, f"--node-rank={node}", *worker] for node in range(2)], folder)
    launched([[sys.executable, *worker, "4"]], folder)
    seen = [json.loads((folder / f"seen.{ranks}.json").read_text()) for ranks in (2, 4)]
    return Spread(folder, alone, {**seen[0], **seen[1]})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODELS)
def test_the_losses_are_those_of_one_process(spread: Spread, name: str, way: str) -> None:
    alone, ranks = spread.alone[name], spread.ranks[f"{name} {way}"]
    assert len(ranks["losses"]) == STEPS
    assert ranks["losses"] == pytest.approx(alone["losses"], rel=ROUNDING)
    assert ranks["val"] == pytest.approx(alone["val"], rel=ROUNDING)
    assert alone["losses"][-1] < 0.95 * alone["losses"][0]  # it has learnt, so that a wrong gradient would show


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("saved", ["fsdp", "tp", "one"])
def test_what_any_way_saved_any_takes_up(spread: Spread, way: str, saved: str) -> None:
    rest = spread.alone["gated"]["losses"][SAVED_AT:]
    assert spread.ranks[f"{way} from {saved}"]["losses"] == pytest.approx(rest, rel=ROUNDING)


@pytest.mark.parametrize("saved", WAYS)
def test_one_process_takes_up_what_ranks_saved(spread: Spread, saved: str) -> None:
    found = train(spread.folder, "gated", ckpt_path=spread.folder / f"gated.{saved}.ckpt")
    assert found["losses"] == pytest.approx(spread.alone["gated"]["losses"][SAVED_AT:], rel=ROUNDING)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("way", WAYS)
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


DYING = '''"""A worker that is lost once."""

import os
import signal

from lightning.pytorch import Callback


class Dies(Callback):
    """Kill the second rank behind a step, in the first attempt."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_rank == 1 and trainer.global_step == 5 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
'''


def test_a_lost_worker_is_made_up_for(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    (tmp_path / "dying.py").write_text(DYING)
    settings: dict[str, object] = {
        **{"data.source": "JsonLines", "data.source.paths": corpus, "data.source.text_column": "body"},
        **{"data.vocab_size": 300, "data.seq_len": 16, "data.batch_size": 4},
        **{"model.d_model": 16, "model.n_heads": 2, "model.n_layers": 1, "model.schedule.warmup_steps": 1},
        **{"trainer.max_steps": 8, "trainer.val_check_interval": 4, "trainer.limit_val_batches": 2},
        **{"trainer.accelerator": "cpu", "trainer.logger": False, "trainer.callbacks+": "dying.Dies"},
    }
    fit = [str(ROOT / "xlab.py"), "fit", "-c", str(ROOT / "conf" / "extra" / "fsdp.yaml")]
    fit += [f"--{name}={value}" for name, value in settings.items()]
    said = launched([[*TORCHRUN, "--standalone", "--nproc-per-node=2", "--max-restarts=1", *fit]], tmp_path)
    assert "note: started anew by torchrun; the run goes on from logs/version_0/checkpoints/last.ckpt\n" in said
    assert "sync_dist" not in said  # what Lightning would warn of is the first rank's, of all
    first, second = (json.loads((tmp_path / f"logs/version_{n}/run.json").read_text()) for n in range(2))
    assert first["world_size"] == second["world_size"] == 2
    assert (second["first_step"], second["last_step"], second["status"]) == (4, 8, "finished")
    last = tmp_path / "logs/version_1/checkpoints/last.ckpt"
    assert last.is_dir()
    assert checkpoints.read(last).info["step"] == 8


def launched(commands: list[list[str]], folder: Path) -> str:
    """Run all at once, to their end; give what the first says."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "OMP_NUM_THREADS": "1"}
    logs = [folder / f"log{number}" for number in range(len(commands))]
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(
                subprocess.Popen(
                    command, cwd=folder, env=environment, stdout=stack.enter_context(log.open("w")), stderr=STDOUT
                )
            )
            for command, log in zip(commands, logs, strict=True)
        ]
        for process in running:
            stack.callback(process.kill)
        statuses = [process.wait(timeout=240) for process in running]
    assert not any(statuses), logs[0].read_text()
    return logs[0].read_text()


class TestTorchrun:
    """What a process of torchrun's takes from its environment."""

    def test_its_numbers_of_devices_and_nodes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert ranks_of_torchrun() == {}
        for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}.items():
            monkeypatch.setenv(name, value)
        assert ranks_of_torchrun() == {"devices": 4, "num_nodes": 2}

    def test_without_it_a_run_begins_as_it_is_told(self) -> None:
        assert gone_on(["--data.batch_size=4"]) == ["--data.batch_size=4"]


def test_that_another_rank_has_gone_is_one_line() -> None:
    gloo = "[gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:9386: Connection reset by peer. This is typically"
    with (
        pytest.raises(TrainingError, match=r"another rank was lost \(Connection reset by peer\)"),
        a_lost_rank_in_one_line(),
    ):
        raise RuntimeError(gloo)
    with pytest.raises(RuntimeError, match="shapes"), a_lost_rank_in_one_line():
        raise RuntimeError("shapes that do not fit")


def test_a_folder_of_shards_that_would_run_code_is_refused(spread: Spread, tmp_path: Path) -> None:
    copied = tmp_path / "last.ckpt"
    shutil.copytree(spread.folder / "gated.fsdp.ckpt", copied)
    (shards,) = copied.glob("shards-*")
    (shards / ".metadata").write_bytes(pickle.dumps(Runs()))
    with pytest.raises(XLabError, match=r"names .*system, which is none of its parts"):
        checkpoints.read(copied)
    (shards / ".metadata").write_bytes(pickle.dumps(index_of_much()))
    with pytest.raises(XLabError, match="claims 4,000,000,000,000 bytes, more than there are"):
        checkpoints.read(copied)
    shutil.rmtree(shards)
    with pytest.raises(XLabError, match="is no checkpoint, or was cut short"):
        checkpoints.read(copied)
    (copied / "meta.pt").unlink()  # as a first checkpoint is, while it is written
    with pytest.raises(XLabError, match="is a folder without"):
        checkpoints.find(copied)


def index_of_much() -> Metadata:
    """An index of a tensor that no machine holds."""
    size = torch.Size([10**12])
    properties = TensorProperties(dtype=torch.float32)
    much = TensorStorageMetadata(properties, size, [ChunkStorageMetadata(torch.Size([0]), size)])
    return Metadata({"state_dict.much": much}, storage_data={})


class Runs:
    """What unpickling would run."""

    def __reduce__(self) -> Any:
        return os.system, ("exit 1",)


def test_only_the_shards_that_a_checkpoint_names_are_kept(spread: Spread, tmp_path: Path) -> None:
    copied = tmp_path / "last.ckpt"
    shutil.copytree(spread.folder / "gated.tp.ckpt", copied)
    (copied / "shards-half").mkdir()
    (tmp_path / "best.ckpt" / "shards-first").mkdir(parents=True)
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*/shards-*")) == [shards_of(copied).name]
    assert checkpoints.read(copied).info["step"] == SAVED_AT
