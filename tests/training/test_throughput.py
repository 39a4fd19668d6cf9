"""Tokens per second, the share of the peak that they make, and memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.tiny import BATCH_SIZE, LIGHTNING_NOISE, SEQ_LEN, make_model
from tests.training.fitting import fit, lines
from xlab.training import throughput
from xlab.training.peak import PeakFlops
from xlab.training.throughput import Throughput
from xlab.transformer.flops import flops_per_token

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(throughput.time, "perf_counter", lambda: self.now)

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


class KnownPeak(PeakFlops):
    """A machine whose peak is known."""

    def measured(self, device: torch.device, precision: str) -> dict[str, Any]:
        return {"flops_per_s": 1e9}


def test_mfu_is_the_arithmetic_done_of_what_could_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = fit(tmp_path, Throughput(), max_steps=10, version=1)
    assert not any("mfu" in line for line in lines(without / "metrics.jsonl"))
    clock = Clock(monkeypatch)
    run = fit(tmp_path, clock.passes("on_after_backward", 1), Throughput(KnownPeak()), max_steps=10)
    (line,) = [line for line in lines(run / "metrics.jsonl") if "mfu" in line]
    assert line["mfu"] == pytest.approx(flops_per_token(make_model().decoder, SEQ_LEN) * line["tokens_per_s"] / 1e9)
    assert line["memory_bytes"] > 10**7


def test_a_peak_is_measured_once_for_a_machine_and_a_precision() -> None:
    cpu = torch.device("cpu")
    peak = PeakFlops()
    record = peak.measured(cpu, "32-true")
    assert 1e8 < record["flops_per_s"] < 1e15
    assert record["product"] == "1024 x 1024 float32"
    assert peak.measured(cpu, "32-true") is record
    assert PeakFlops(record).measured(cpu, "32-true") == record  # as of a resumed run
    other = PeakFlops({**record, "flops_per_s": 1.0, "host": "another"}).measured(cpu, "32-true")
    assert other["flops_per_s"] > 1
    assert peak.measured(cpu, "bf16-mixed")["product"] == "1024 x 1024 bfloat16"
