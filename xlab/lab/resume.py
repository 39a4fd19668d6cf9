"""Prove for a configuration that an interrupted run goes on as if nothing had happened."""

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from xlab.errors import ConfigError
from xlab.lab.resume_comparison import (
    WEIGHTS_TOLERANCE,
    Difference,
    checkpoint_difference,
    first_difference,
    gap,
    missing_end,
)
from xlab.lab.resume_runs import Attempt, Kill, ResumptionError, last_checkpoint, train

# relative, of a loss: sums of another order, in what the precision rounds to
_ROUNDING = {"64": 1e-12, "32": 1e-5, "16": 5e-3, "bf16": 3e-2}


@dataclass(frozen=True)
class Trial:
    """What is trained, and how it is interrupted.

    Args:
        command: ``xlab.py fit`` and the user's settings.
        steps: optimiser steps of the run.
        kills: how often it is killed.
        seed: of the places.
        accumulate: micro-batches of an optimiser step.
        batch_size: windows of a micro-batch on a rank.
        precision: the trainer's.
        val_batches: micro-batches of a validation; 0 in a run without.
        shorter_epochs: whether an epoch may be cut so that one ends within the steps.
        resume_devices: the world size that every other part of the interrupted run is trained at; None: all the same.
    """

    command: Sequence[str]
    steps: int = 8
    kills: int = 3
    seed: int = 0
    accumulate: int = 1
    batch_size: int = 1
    precision: str = "32-true"
    val_batches: int = 2
    shorter_epochs: bool = True
    resume_devices: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("steps", 4), ("kills", 1), ("resume_devices", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")

    @property
    def rounding(self) -> float:
        """How far losses may be apart that were summed in another order, relatively."""
        return _ROUNDING.get(self.precision.partition("-")[0], _ROUNDING["32"])

    @property
    def save_every(self) -> int:
        """Micro-batches from one checkpoint to the next: also amid a step, unless the world size changes."""
        return self.accumulate if self.resume_devices else self.accumulate + 1

    @property
    def epoch(self) -> int:
        """Micro-batches of an epoch, where it may be cut: one ends within the run, and not where a checkpoint is."""
        whole_steps = max(1, round(0.6 * self.steps)) * self.accumulate
        if self.resume_devices:  # which must find the same steps
            return whole_steps
        amid = range(whole_steps + self.accumulate - 1, whole_steps + self.accumulate + 2)
        return next(length for length in amid if length % self.save_every)

    def fit(self, accumulate: int, batch_size: int, devices: int | None = None) -> list[str]:
        """Give the command of a run; ``accumulate`` and ``batch_size`` may be another world size's."""
        share = accumulate / self.accumulate  # what is counted in micro-batches grows with their number
        settings = {
            "trainer.val_check_interval": round(self.save_every * share),
            "trainer.check_val_every_n_epoch": "null",
            "trainer.limit_val_batches": self.val_batches,
            "trainer.enable_checkpointing": "true",
            "trainer.logger": "false",  # the user's own loggers have no interest in this
        }
        if self.shorter_epochs:
            settings["trainer.limit_train_batches"] = round(self.epoch * share)
        if self.resume_devices:  # said each time: a checkpoint of the other world size would propose its own
            settings |= {"trainer.accumulate_grad_batches": accumulate, "data.batch_size": batch_size}
        if devices is not None:
            settings["trainer.devices"] = devices
        return [*self.command, *(f"--{key}={value}" for key, value in settings.items())]

    def places(self) -> list[Kill]:
        """Draw where to kill: one place in each of equal stretches of the run, so that each resumption gets on."""
        draw = random.Random(self.seed)
        kinds = ["batch", "validation", "saving"] if self.val_batches else ["batch", "saving"]
        draw.shuffle(kinds)
        first, last = self.save_every, (self.steps - 1) * self.accumulate  # behind a checkpoint, before the end
        edges = [first + (last - first) * i // self.kills for i in range(self.kills + 1)]
        kills = []
        for i, (begin, end) in enumerate(pairwise(edges)):
            stretch = range(begin, max(end, begin + 1))
            amid = [n for n in stretch if n % self.accumulate] or list(stretch)
            kills.append(Kill(draw.choice(amid), kinds[i % len(kinds)]))
        return kills


@dataclass(frozen=True)
class Verdict:
    """What came of it.

    Args:
        whole: the uninterrupted run.
        attempts: the parts of the interrupted one.
        difference: the first thing that is not the same; None: the resumption is exact.
        tolerance: to which losses were compared in the end; None: bit for bit.
    """

    whole: Attempt
    attempts: list[Attempt] = field(default_factory=list)
    difference: Difference | None = None
    tolerance: float | None = None


def verify(trial: Trial) -> Verdict:
    """Train once without an interruption and once killed and resumed, and compare the two.

    Raises:
        ConfigError: when the settings cannot be trained, or the run is over too soon to be killed.
    """
    with tempfile.TemporaryDirectory(prefix="verify-resume-") as folder:
        return _verify(trial, Path(folder) / "whole", Path(folder) / "interrupted")


def _verify(trial: Trial, whole_root: Path, root: Path) -> Verdict:
    own = (trial.accumulate, trial.batch_size)
    whole = train(trial.fit(*own), root=whole_root, stop_at=trial.steps, save_every=trial.save_every)
    other = at_world_size(trial.resume_devices or whole.world_size, whole.world_size, *own)
    if trial.resume_devices == whole.world_size:
        raise ConfigError(f"--resume-devices is {whole.world_size}, as the run has anyway; leave it out")
    attempts: list[Attempt] = []
    tolerance = None
    kills: list[Kill | None] = [*trial.places(), None]
    for i, kill in enumerate(kills):
        if trial.resume_devices and i % 2:
            command, share = trial.fit(*other, trial.resume_devices), other[0] / trial.accumulate
            tolerance = trial.rounding
        else:
            command, share = trial.fit(*own), 1.0
        if kill is not None:
            kill = Kill(round(kill.at * share), kill.within)
        try:
            attempt = train(
                command,
                root=root,
                stop_at=trial.steps,
                save_every=round(trial.save_every * share),
                kill=kill,
                resume_from=last_checkpoint(root),
            )
        except ResumptionError as error:
            refusal = Difference(f"after kill {i}", "the resumed run", "trained", str(error))
            return Verdict(whole, attempts, refusal, tolerance)
        before = attempts[-1] if attempts else None
        attempts.append(attempt)
        difference = first_difference(whole, attempt, tolerance=tolerance) or gap(before, attempt)
        if difference is not None:
            return Verdict(whole, attempts, difference, tolerance)
        if not attempt.was_killed:
            break
    if not attempts[0].was_killed:
        raise ConfigError(
            f"the run was over after {len(whole.of('loss'))} micro-batches, before it could be killed; "
            "set trainer.max_steps or trainer.max_epochs higher"
        )
    difference = missing_end(whole, attempts) or _end_difference(whole_root, root, tolerance)
    return Verdict(whole, attempts, difference, tolerance)


def _end_difference(whole_root: Path, root: Path, tolerance: float | None) -> Difference | None:
    expected, found = last_checkpoint(whole_root), last_checkpoint(root)
    if expected is None or found is None:
        return Difference("the end", "last.ckpt", str(expected), str(found))
    return checkpoint_difference(expected, found, tolerance=None if tolerance is None else WEIGHTS_TOLERANCE)


def at_world_size(devices: int, world_size: int, accumulate: int, batch_size: int) -> tuple[int, int]:
    """Give the accumulation and the batch size that keep the windows of a step at another world size.

    Raises:
        ConfigError: when neither can be divided.
    """
    if accumulate * world_size % devices == 0:
        return accumulate * world_size // devices, batch_size
    if batch_size * world_size % devices == 0:
        return accumulate, batch_size * world_size // devices
    raise ConfigError(
        f"{world_size} ranks × {accumulate} micro-batches × {batch_size} windows make no equal steps on {devices} "
        "ranks; set data.batch_size or trainer.accumulate_grad_batches to a multiple of --resume-devices"
    )
