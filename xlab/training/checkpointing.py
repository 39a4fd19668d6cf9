"""Which checkpoints a run keeps, when they are written, and how it stops without losing a step."""

import contextlib
import signal
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from xlab.errors import ConfigError
from xlab.training.stopping import StopSignals


class BestAndLast(ModelCheckpoint):
    """Keep ``checkpoints/best.ckpt``, by validation loss, and ``checkpoints/last.ckpt`` in the run's folder.

    The last is written at each validation, at the run's end, every so many steps or minutes, and when Ctrl-C or SIGTERM
    asks the run to stop: it ends behind the optimiser step it is at. A run without validation data keeps the last only.

    Args:
        every_n_steps: optimiser steps from one ``last.ckpt`` to the next; None: not by steps.
        every_minutes: minutes from one ``last.ckpt`` to the next; None: not by time.

    Raises:
        ConfigError: for an interval that is not above 0.
    """

    def __init__(self, every_n_steps: int | None = None, every_minutes: float | None = 10.0) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("every_minutes", every_minutes)):
            if value is not None and value <= 0:
                raise ConfigError(
                    f"trainer.callbacks: BestAndLast.{name} must be above 0, got {value}; leave it out, or give null"
                )
        super().__init__(
            filename="best",
            monitor="val/loss",
            save_last=False,  # Lightning writes it only along with a better one; see _keep_last
            enable_version_counter=False,
            auto_insert_metric_name=False,
        )
        self._every_n_steps = every_n_steps
        self._every_seconds = None if every_minutes is None else 60 * every_minutes
        self._signals = StopSignals()
        self._stop = 0  # the signal that all ranks have agreed to obey
        self._seen_step = 0
        self._kept_step = -1
        self._kept_at = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.log_dir is not None:
            self.dirpath = str(Path(trainer.log_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and trainer.is_global_zero:
            remove_leftovers(str(self.dirpath))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not sum(trainer.num_val_batches):
            self.save_top_k = 0
        self._seen_step, self._kept_at = trainer.global_step, time.monotonic()
        self._signals.watch()
        super().on_train_start(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Obey, now that what belongs to the step before is validated, logged and saved."""
        if self._stop == signal.SIGINT:
            raise KeyboardInterrupt
        if self._stop:
            raise SIGTERMException

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step == self._seen_step:  # amid an accumulated step
            return
        self._seen_step = trainer.global_step
        is_due = self._every_seconds is not None and time.monotonic() - self._kept_at >= self._every_seconds
        if self._every_n_steps is not None and trainer.global_step % self._every_n_steps == 0:
            is_due = True
        stop = self._signals.received
        if trainer.world_size > 1:  # saving is everyone's work, and clocks and signals are each one's own
            wishes = torch.tensor([is_due, stop], device=pl_module.device)
            is_due, stop = trainer.strategy.reduce(wishes, reduce_op="max").tolist()
        self._stop = stop
        if is_due or stop:
            self._keep_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if not self._should_save_on_train_epoch_end(trainer):
            self._keep_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if self._should_save_on_train_epoch_end(trainer):
            self._keep_last(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._signals.release()
        if self._kept_step != trainer.global_step:
            self._keep_last(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._signals.release()
        super().on_exception(trainer, pl_module, exception)

    def _keep_last(self, trainer: Trainer) -> None:
        if getattr(trainer, "fast_dev_run", False) or trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        path = str(Path(str(self.dirpath)) / "last.ckpt")
        trainer.save_checkpoint(path)
        self.last_model_path = path
        self._kept_step, self._kept_at = trainer.global_step, time.monotonic()


def remove_leftovers(folder: str | Path) -> None:
    """Remove the half-written checkpoints of a process that was killed; no other may be writing into the folder."""
    for path in Path(folder).glob(".*.ckpt.*"):
        with contextlib.suppress(OSError):
            path.unlink()
