"""What happens beside training: the checkpoints that are kept, the last validation, the tokens per second."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.tiny import BATCH_SIZE, LIGHTNING_NOISE, SEQ_LEN, make_data, make_model, make_trainer, write_corpus
from xlab import checkpoints
from xlab.training import callbacks
from xlab.training.callbacks import BestAndLast, Progress, Throughput, ValidateAtEnd
from xlab.training.loggers import JsonLinesLogger

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]
VALIDATING = {"val_check_interval": 4, "check_val_every_n_epoch": None, "limit_val_batches": 2}


class Losses(Callback):
    """Remember each validation's step and loss."""

    def __init__(self) -> None:
        self.seen: dict[int, float] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen[trainer.global_step] = float(trainer.callback_metrics["val/loss"])


def fit(folder: Path, *own: Callback, max_steps: int = 10, **settings: Any) -> Path:
    """Train in a run's folder, which is returned."""
    run = folder / "version_0"
    datamodule = make_data(write_corpus(folder / "corpus.jsonl"))
    defaults = {**VALIDATING, "logger": JsonLinesLogger(str(run)), "log_every_n_steps": 1, **settings}
    make_trainer(folder, max_steps, *own, **defaults).fit(make_model(), datamodule=datamodule)
    return run


def test_the_last_step_is_validated_wherever_the_interval_falls(tmp_path: Path) -> None:
    losses = Losses()
    fit(tmp_path, ValidateAtEnd(), losses)
    assert list(losses.seen) == [4, 8, 10]


def test_best_and_last_are_kept(tmp_path: Path) -> None:
    losses = Losses()
    run = fit(tmp_path, ValidateAtEnd(), losses, BestAndLast(), enable_checkpointing=True)
    folder = run / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
    best, last = (checkpoints.read(folder / name).info for name in ("best.ckpt", "last.ckpt"))
    assert best["step"] == min(losses.seen, key=lambda step: losses.seen[step])
    assert best["metrics"]["val/loss"] == min(losses.seen.values())
    assert last["step"] == 10
    assert checkpoints.find(run).name == "best.ckpt"


def test_a_run_without_validation_data_keeps_its_latest_state(tmp_path: Path) -> None:
    run = fit(tmp_path, BestAndLast(), enable_checkpointing=True, limit_val_batches=0, max_steps=45)
    assert {checkpoints.read(path).info["step"] for path in (run / "checkpoints").iterdir()} == {45}


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(callbacks.time, "perf_counter", lambda: self.now)

    def passes(self, hook: str, seconds: float) -> Callback:
        """Make a callback that takes its time."""

        def take_time(*_: Any, **__: Any) -> None:
            self.now += seconds

        slow = Callback()
        setattr(slow, hook, take_time)
        return slow


def test_tokens_are_divided_by_the_time_that_training_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, logged = Clock(monkeypatch), Logged()
    training = clock.passes("on_after_backward", 1)
    validating = clock.passes("on_validation_start", 100)
    saving = clock.passes("on_validation_end", 1000)  # checkpoints are saved there, after all other callbacks
    fit(tmp_path, training, validating, Throughput(), saving, logged, max_steps=40)
    assert logged.rates == pytest.approx([BATCH_SIZE * SEQ_LEN] * 4)


def test_accumulated_micro_batches_are_counted_into_one_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, logged = Clock(monkeypatch), Logged()
    training = clock.passes("on_after_backward", 1)
    fit(tmp_path, training, Throughput(), logged, max_steps=20, accumulate_grad_batches=2)
    assert logged.rates == pytest.approx([BATCH_SIZE * SEQ_LEN] * 2)


class Logged(Callback):
    """Remember each rate that is logged."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        log = pl_module.log

        def remember(name: str, value: Any, **settings: Any) -> None:
            if name == "tokens_per_s":
                self.rates.append(float(value))
            log(name, value, **settings)

        pl_module.log = remember  # type: ignore[method-assign]


def test_without_a_terminal_progress_is_a_line_a_validation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, Progress(), enable_progress_bar=True)
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in shown] == ["4/10", "8/10"]
    assert all("val loss" in line and "val bits/byte" in line for line in shown)
