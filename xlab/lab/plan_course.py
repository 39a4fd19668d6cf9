"""How far a run goes: its steps, epochs and validations, as Lightning reckons them.

Letters: T positions, A micro-batches of a step, B windows of a micro-batch, W ranks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from xlab.data.sampler import TrainBatchSampler
from xlab.datamodules import XLabDataModule
from xlab.errors import DataError
from xlab.lab.plan_data import DataPlan
from xlab.lab.plan_steps import batch_shape, has_validation, packing_of
from xlab.lab.plan_time import StepTimes


@dataclass(frozen=True)
class Settings:
    """A configuration as ``xlab.py fit`` would take it.

    Args:
        arguments: those of ``fit``.
        model: the settings of XLabModel as plain data, ``vocab_size`` and ``max_len`` among them.
        trainer: the settings of Lightning's Trainer, as plain data.
        datamodule: made, and not prepared.
        modules: whose classes a checkpoint may name.
        compile: true, false, or "auto".
    """

    arguments: Sequence[str]
    model: Mapping[str, Any]
    trainer: Mapping[str, Any]
    datamodule: XLabDataModule
    modules: Sequence[str] = ()
    compile: bool | str = "auto"

    @property
    def data(self) -> Mapping[str, Any]:
        """The datamodule's settings."""
        return dict(self.datamodule.hparams)

    @property
    def root(self) -> Path:
        """Of the runs."""
        return Path(self.trainer.get("default_root_dir") or ".")

    @property
    def accumulated(self) -> int:
        """A."""
        return int(self.trainer.get("accumulate_grad_batches") or 1)

    @property
    def validates(self) -> bool:
        """Whether there is something to validate on, and it is not turned off."""
        return has_validation(self.datamodule) and self.trainer.get("limit_val_batches") != 0

    @cached_property
    def world_size(self) -> int:
        """W, as far as the settings tell: "auto" is every GPU there is, or one process."""
        devices = self.trainer.get("devices", "auto")
        if isinstance(devices, str) and devices not in ("auto", "-1"):
            devices = devices.split(",") if "," in devices else int(devices)
        if isinstance(devices, list):
            devices = len(devices)
        if devices in ("auto", "-1", -1, None):
            on_gpu = torch.cuda.is_available() and self.trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda")
            devices = torch.cuda.device_count() if on_gpu else 1
        return int(devices) * int(self.trainer.get("num_nodes") or 1)


@dataclass(frozen=True)
class Course:
    """What a run goes through; None is unknown.

    Args:
        tokens_per_step: A · B · W · T, padding included.
        scheduled_steps: optimiser steps that the schedule reckons with; None in a run without an end.
        steps: those that there will be: ``max_time`` may end it sooner.
        steps_per_epoch: of the training data.
        validations: how often it validates.
        validation_batches: micro-batches of each, on a rank.
    """

    tokens_per_step: int
    scheduled_steps: int | None
    steps: int | None
    steps_per_epoch: int | None
    validations: int | None
    validation_batches: int | None

    @property
    def tokens(self) -> int | None:
        """Positions that the run reads."""
        return None if self.steps is None else self.steps * self.tokens_per_step

    @property
    def epochs(self) -> float | None:
        """How often it sees its data."""
        return None if self.steps is None or not self.steps_per_epoch else self.steps / self.steps_per_epoch


def make_course(settings: Settings, data: DataPlan, times: StepTimes | None) -> Course:
    """Reckon what a run goes through.

    Args:
        settings: the run's.
        data: the corpus.
        times: of a few steps, which tell the ranks, and when ``max_time`` ends the run.
    """
    rows, seq_len = batch_shape(settings.data)
    world_size = settings.world_size if times is None else times.world_size
    tokens = settings.accumulated * rows * world_size * seq_len
    epoch = _epoch_batches(settings, data, world_size)
    per_epoch = math.ceil(epoch / settings.accumulated) if epoch else None
    scheduled = _scheduled_steps(settings, per_epoch)
    val_batches = _validation_batches(settings, data, world_size)
    in_time = None if times is None else _steps_in_time(settings, times, val_batches or 0, epoch)
    known = [steps for steps in (scheduled, in_time) if steps is not None]
    steps = min(known) if known else None
    # whatever stops a run amid an epoch, it is validated then
    is_stopped = steps is not None and steps in (in_time, int(settings.trainer.get("max_steps", -1)))
    validations = None if steps is None else _validations(settings, steps, epoch, is_stopped=is_stopped)
    return Course(tokens, scheduled, steps, per_epoch, validations, val_batches)


def _scheduled_steps(settings: Settings, per_epoch: int | None) -> int | None:
    """Give the steps that Lightning reckons with: those of ``max_steps`` or of ``max_epochs``, the fewer."""
    max_steps, max_epochs = int(settings.trainer.get("max_steps", -1)), settings.trainer.get("max_epochs")
    of_steps = max_steps if max_steps >= 0 else None
    of_epochs = None if max_epochs in (None, -1) or per_epoch is None else int(max_epochs) * per_epoch
    return min((steps for steps in (of_steps, of_epochs) if steps is not None), default=None)


def _epoch_batches(settings: Settings, data: DataPlan, world_size: int) -> int | None:
    """Give the micro-batches of an epoch on a rank; None where the data's size is not known."""
    if data.train.windows is None:
        return None
    size = packing_of(settings.data).batch_size(int(settings.data["batch_size"]))
    try:
        sampler = TrainBatchSampler(data.train.windows, size, world_size=world_size, accumulated=settings.accumulated)
    except DataError:
        return 0  # fewer windows than a batch, which the lint tells
    return _limited(len(sampler), settings.trainer.get("limit_train_batches"))


def _limited(n_batches: int, limit: Any) -> int:
    """Apply one of the trainer's ``limit_…_batches``: a number of batches, or a share of them."""
    if limit is None:
        return n_batches
    return min(n_batches, limit) if isinstance(limit, int) else int(n_batches * float(limit))


def _validation_batches(settings: Settings, data: DataPlan, world_size: int) -> int | None:
    limit = settings.trainer.get("limit_val_batches")
    if not settings.validates:
        return 0
    if data.val.windows is None:
        return limit if isinstance(limit, int) else None
    size = packing_of(settings.data).batch_size(int(settings.data["batch_size"]))
    return _limited(math.ceil(data.val.windows / (size * world_size)), limit)


def validation_interval(settings: Settings, epoch: int | None) -> int | None:
    """Give the micro-batches from one validation to the next; None where that cannot be known beforehand.

    Args:
        settings: the run's.
        epoch: micro-batches of an epoch.
    """
    interval = settings.trainer.get("val_check_interval")
    interval = 1.0 if interval is None else interval
    if isinstance(interval, int):
        return interval
    if not epoch or not isinstance(interval, float):  # such as a time
        return None
    return max(int(epoch * interval), 1)


def _validations(settings: Settings, steps: int, epoch: int | None, *, is_stopped: bool) -> int | None:
    """Count a run's validations."""
    if not settings.validates:
        return 0
    interval, batches = validation_interval(settings, epoch), steps * settings.accumulated
    if interval is None:
        return None
    every = settings.trainer.get("check_val_every_n_epoch")
    if every is None:  # counted through the epochs' ends
        whole, rest = divmod(batches, interval)
        return whole + (1 if rest and is_stopped else 0)
    if not epoch:
        return None
    epochs, rest = divmod(batches, epoch)
    return epochs // int(every) * (epoch // interval) + rest // interval + (1 if rest % interval and is_stopped else 0)


def _steps_in_time(settings: Settings, times: StepTimes, val_batches: int, epoch: int | None) -> int | None:
    """Give the steps that ``max_time`` leaves room for, with their share of validations and checkpoints."""
    limit = max_seconds(settings.trainer.get("max_time"))
    if limit is None:
        return None
    interval, each = validation_interval(settings, epoch), 0.0
    if interval is not None and settings.validates:
        batch = 0.0 if times.validation_batch is None else times.validation_batch.median
        each = (val_batches * batch + 2 * times.checkpoint) * settings.accumulated / interval
    return max(int(limit / (times.step.median + each)), 1)


def max_seconds(limit: Any) -> float | None:
    """Read ``trainer.max_time``: DD:HH:MM:SS, or the arguments of a timedelta."""
    if limit is None:
        return None
    if isinstance(limit, str):
        days, hours, minutes, seconds = (int(part) for part in limit.split(":"))
        return 86400.0 * days + 3600 * hours + 60 * minutes + seconds
    if isinstance(limit, Mapping):
        units = {"weeks": 604800, "days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}
        return float(sum(units.get(unit, 0) * amount for unit, amount in limit.items()))
    return float(limit.total_seconds())
