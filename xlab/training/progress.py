"""Progress: one bar over the whole run, or, where there is no terminal, a line now and then."""

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

_SHOWN = [
    ("loss", "train/loss", ".3f"),
    ("val loss", "val/loss", ".3f"),
    ("val bits/byte", "val/bits_per_byte", ".3f"),
    ("tokens/s", "tokens_per_s", ",.0f"),
    ("mfu", "mfu", ".0%"),
    ("skipped", "skipped_steps", ".0f"),
]


class Progress(ProgressBar):
    """One bar over the whole run, in optimiser steps; where there is no terminal, a line now and then.

    Both tell the losses, the tokens per second and the time that is left.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm[Any] | None = None
        self._enabled = True
        self._began = 0.0  # when this process began to train, and at which step
        self._first_step = 0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began, self._first_step = time.monotonic(), trainer.global_step
        self._open(int(trainer.estimated_stepping_batches), "Training", "step", trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is not None and trainer.global_step != self._bar.n:
            self._bar.set_postfix_str(_figures(trainer), refresh=False)
            self._bar.update(trainer.global_step - self._bar.n)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._enabled and not sys.stderr.isatty() and trainer.state.fn == "fit":
            total = int(trainer.estimated_stepping_batches)
            line = f"step {trainer.global_step}/{total}  {_figures(trainer)}{self._left(trainer.global_step, total)}"
            print(line, file=sys.stderr, flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._open(sum(map(int, trainer.num_val_batches)), "Validating", "batch")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open(sum(map(int, trainer.num_test_batches)), "Testing", "batch")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open(sum(map(int, trainer.num_predict_batches)), "Continuing", "document")

    def on_validation_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        if trainer.state.fn == "validate":
            self._advance()

    def on_test_batch_end(self, *_: Any, **__: Any) -> None:
        self._advance()

    def on_predict_batch_end(self, *_: Any, **__: Any) -> None:
        self._advance()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close()

    def _left(self, step: int, total: int) -> str:
        done = step - self._first_step
        if done <= 0 or total <= step:
            return ""
        # validations and checkpoints on the way count: what is left has as many of them
        seconds = (time.monotonic() - self._began) / done * (total - step)
        return f"  {tqdm.format_interval(seconds)} left"

    def _open(self, total: int, title: str, unit: str, done: int = 0) -> None:
        self._close()
        if self._enabled and sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=done, desc=title, unit=unit, dynamic_ncols=True)

    def _advance(self) -> None:
        if self._bar is not None:
            self._bar.update()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _figures(trainer: Trainer) -> str:
    known = trainer.callback_metrics | trainer.progress_bar_metrics
    return "  ".join(f"{name} {float(known[key]):{style}}" for name, key, style in _SHOWN if key in known)
