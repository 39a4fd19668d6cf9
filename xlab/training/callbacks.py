"""What goes on beside training: progress, throughput, a last validation."""

import sys
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from tqdm import tqdm

LOGGED_EVERY = 10  # optimiser steps over which tokens per second are averaged


class Throughput(Callback):
    """Log training tokens per second over all ranks; time spent validating and saving does not count.

    With each validation ``tokens`` and ``train_seconds`` are logged, all that were spent until then; a resumed run
    counts on.
    """

    def __init__(self) -> None:
        self._tokens = 0
        self._seconds = 0.0
        self._tokens_before = 0  # those of the rate that was logged last, and what came before it
        self._seconds_before = 0.0
        self._since: float | None = None  # None: what went before the batch that comes is not training
        self._logged_step = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._since is None:
            self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self._tokens += batch["inputs"].numel() * trainer.world_size
        assert self._since is not None
        self._seconds += now - self._since
        self._since = now
        if trainer.global_step != self._logged_step and trainer.global_step % LOGGED_EVERY == 0:
            self._logged_step = trainer.global_step
            tokens, seconds = self._tokens - self._tokens_before, self._seconds - self._seconds_before
            pl_module.log("tokens_per_s", tokens / seconds, prog_bar=True)
            self._tokens_before, self._seconds_before = self._tokens, self._seconds

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            spent = {"tokens": float(self._tokens), "train_seconds": self._seconds}
            pl_module.log_dict(spent, sync_dist=False, rank_zero_only=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = None

    def state_dict(self) -> dict[str, Any]:
        return {"tokens": self._tokens, "seconds": self._seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._tokens = self._tokens_before = int(state_dict["tokens"])
        self._seconds = self._seconds_before = float(state_dict["seconds"])


class ValidateAtEnd(Callback):
    """Let the run's last step be validated and checkpointed, wherever the validation interval falls."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if 0 < trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True


class Progress(ProgressBar):
    """One bar over the whole run, in optimiser steps; where there is no terminal, a line now and then."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm[Any] | None = None
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open(int(trainer.estimated_stepping_batches), "Training", "step", trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(_figures(trainer), refresh=False)
            self._bar.update(trainer.global_step - self._bar.n)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._enabled and not sys.stderr.isatty() and trainer.state.fn == "fit":
            total = int(trainer.estimated_stepping_batches)
            print(f"step {trainer.global_step}/{total}  {_figures(trainer)}", file=sys.stderr, flush=True)

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
    shown = [
        ("loss", "train/loss", ".3f"),
        ("val loss", "val/loss", ".3f"),
        ("val bits/byte", "val/bits_per_byte", ".3f"),
        ("tokens/s", "tokens_per_s", ",.0f"),
    ]
    return "  ".join(f"{name} {float(known[key]):{style}}" for name, key, style in shown if key in known)


class BestAndLast(ModelCheckpoint):
    """Keep ``checkpoints/best.ckpt``, by validation loss, and ``checkpoints/last.ckpt`` in the run's folder.

    A run without validation data keeps the last only.
    """

    def __init__(self) -> None:
        super().__init__(
            filename="best",
            monitor="val/loss",
            save_last=True,
            enable_version_counter=False,
            auto_insert_metric_name=False,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.log_dir is not None:
            self.dirpath = str(Path(trainer.log_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not sum(trainer.num_val_batches):
            self.monitor = None
        super().on_train_start(trainer, pl_module)
