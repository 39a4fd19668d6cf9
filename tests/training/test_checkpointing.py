"""Which checkpoints are kept, and that none is lost: by time, by steps, when told to stop, and on a full disk."""

import errno
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from tests.tiny import LIGHTNING_NOISE, Recorder, make_model
from tests.training.fitting import fit, lines
from xlab import checkpoints
from xlab.checkpoint_files import WholeFiles
from xlab.errors import CheckpointError, ConfigError
from xlab.training import checkpointing
from xlab.training.checkpointing import BestAndLast, remove_leftovers
from xlab.training.stopping import ValidateAtEnd

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]
NO_VALIDATION = {"limit_val_batches": 0, "enable_checkpointing": True}


class At(Callback):
    """Do something in the midst of a step, once."""

    def __init__(self, step: int, action: Any) -> None:
        self.step, self.action = step, action

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == self.step:
            self.step = -1
            self.action()


class Saved(Callback):
    """Remember the steps at which checkpoints are written."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.steps.append(trainer.global_step)


def step_of(run: Path, name: str) -> int:
    step: int = checkpoints.read(run / "checkpoints" / f"{name}.ckpt").info["step"]
    return step


def test_best_and_last_are_kept(tmp_path: Path) -> None:
    run = fit(tmp_path, ValidateAtEnd(), BestAndLast(), enable_checkpointing=True)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    losses = {line["val/loss"]: line["step"] + 1 for line in lines(run / "metrics.jsonl") if "val/loss" in line}
    best = checkpoints.read(run / "checkpoints" / "best.ckpt").info
    assert (best["metrics"]["val/loss"], best["step"]) == min(losses.items())
    assert step_of(run, "last") == 10
    assert checkpoints.find(run).name == "best.ckpt"


def test_the_last_is_kept_though_another_was_better(tmp_path: Path) -> None:
    uphill = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "maximize": True}}
    run = fit(tmp_path, ValidateAtEnd(), BestAndLast(), model=make_model(optimizer=uphill), enable_checkpointing=True)
    assert (step_of(run, "best"), step_of(run, "last")) == (4, 10)


def test_a_run_without_validation_data_keeps_its_latest_state(tmp_path: Path) -> None:
    run = fit(tmp_path, BestAndLast(), max_steps=45, **NO_VALIDATION)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    assert step_of(run, "last") == 45
    fit(tmp_path, max_steps=48, version=1, ckpt_path=run / "checkpoints" / "last.ckpt", **NO_VALIDATION)


def test_by_steps_without_validation(tmp_path: Path) -> None:
    saved = Saved()
    fit(tmp_path, saved, BestAndLast(every_n_steps=3), accumulate_grad_batches=2, **NO_VALIDATION)
    assert saved.steps == [3, 6, 9, 10]


def test_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, saved = [0.0], Saved()

    def minute() -> None:
        now[0] += 60

    monkeypatch.setattr(checkpointing.time, "monotonic", lambda: now[0])
    passing = [At(step, minute) for step in range(10)]
    fit(tmp_path, saved, *passing, BestAndLast(every_minutes=4), **NO_VALIDATION)
    assert saved.steps == [4, 8, 10]


@pytest.mark.parametrize("setting", [{"every_n_steps": 0}, {"every_minutes": -1.0}])
def test_an_interval_that_cannot_be(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be above 0, got"):
        BestAndLast(**setting)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, SystemExit), (signal.SIGTERM, SIGTERMException)])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_that_is_stopped_goes_on_bit_for_bit(
    tmp_path: Path, number: int, error: type[BaseException], accumulate: int
) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    settings: dict[str, Any] = {"accumulate_grad_batches": accumulate, "val_check_interval": 4 * accumulate}
    whole = Recorder()
    everything = fit(tmp_path, whole, **settings)
    with pytest.raises(error):
        fit(
            *(tmp_path, Recorder(), At(6, lambda: signal.raise_signal(number)), BestAndLast()),
            **{"version": 1, "enable_checkpointing": True, **settings},
        )
    stopped = tmp_path / "version_1"
    assert step_of(stopped, "last") == 7
    rest = Recorder()
    resumed = fit(tmp_path, rest, version=2, ckpt_path=stopped / "checkpoints" / "last.ckpt", **settings)
    assert rest.losses == whole.losses[7:]
    assert rest.batches == whole.batches[7 * accumulate :]
    logged = [line["train/loss"] for run in (stopped, resumed) for line in lines(run / "metrics.jsonl") if "lr" in line]
    assert logged == [line["train/loss"] for line in lines(everything / "metrics.jsonl") if "lr" in line]
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = torch.save

    def full(content: Any, file: Any) -> None:
        if content["global_step"] > 4:
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(content, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match="No space left on device; nothing that was there has changed"):
        fit(tmp_path, BestAndLast(every_n_steps=2), plugins=[WholeFiles()], **NO_VALIDATION)
    run = tmp_path / "version_0"
    assert step_of(run, "last") == 4
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    for name in ("last.ckpt", "best.ckpt", ".last.ckpt.x3k_s", ".best.ckpt.9", ".notes.json.12"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".notes.json.12", "best.ckpt", "last.ckpt"]
    remove_leftovers(tmp_path / "nowhere")
