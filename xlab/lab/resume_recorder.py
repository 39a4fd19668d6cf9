"""RunRecorder: what a training process says of every micro-batch, for another process to compare and to kill it by."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from xlab.data.packing import IGNORED, Batch
from xlab.errors import TrainingError

PLACES = ("batch", "validation", "saving")
HELD = "held"  # the file that says: the place to be killed at is reached
_PATIENCE = 120  # seconds that a process waits to be killed


class RunRecorder(Callback):
    """Write a JSON line for each event of a run, each flushed: what was written, was so, whatever happens next.

    Every rank writes ``rank-R.jsonl``. A micro-batch is known by ``n``, its number in the whole run from 0. The kinds:

    * ``start``: ``world_size``, and ``accumulate``, the micro-batches of a step;
    * ``batch``: ``n``, ``step`` (optimiser steps done before it), ``tensors`` (a digest of each of the batch's
      tensors) and ``rows`` (a digest of each row's counted tokens: the same in whatever batch the row stands);
    * ``loss``: of micro-batch ``n``, as hexadecimal: every bit;
    * ``step``: the number of the step, the loss over all of its tokens on all ranks, and the rate it was made with;
    * ``validating``, ``validated`` (with the loss) and ``saving``: ``n`` is the micro-batch before.

    Args:
        folder: where to write.
        stop_at: the optimiser step to end at; the schedule, made for the whole run, does not notice.
        save_every: micro-batches from one ``last.ckpt`` to the next in a run that has no validation to save at.
        kill_at: the micro-batch at which, or behind which, the process waits to be killed; none if negative.
        kill_in: ``batch``: before its forward pass; ``validation``: in the next validation; ``saving``: while the next
            checkpoint is written, or shortly after.
    """

    def __init__(self, folder: str, stop_at: int, save_every: int, kill_at: int = -1, kill_in: str = PLACES[0]) -> None:
        if kill_in not in PLACES:
            raise TrainingError(f"kill_in is {kill_in!r}; it can be {', '.join(PLACES)}")
        self._folder = Path(folder)
        self._stop_at = stop_at
        self._save_every = save_every
        self._kill_at = kill_at if kill_at >= 0 else None
        self._kill_in = kill_in
        self._file: TextIO | None = None
        self._n = -1
        self._step = 0
        self._is_dying = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = open(self._folder / f"rank-{trainer.global_rank}.jsonl", "w", encoding="utf-8")  # noqa: SIM115
        self._step = trainer.global_step
        self._n = trainer.fit_loop.epoch_loop.total_batch_idx  # of a resumed run: the last that it has behind it
        self._write("start", world_size=trainer.world_size, accumulate=trainer.accumulate_grad_batches)
        if self._step >= self._stop_at:  # it was killed behind its last checkpoint
            trainer.should_stop = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        if self._is_dying:  # its kill was to come while a checkpoint was written
            self._wait_for_the_end()
        self._n = trainer.fit_loop.epoch_loop.total_batch_idx
        self._write("batch", step=trainer.global_step, tensors=digests(batch), rows=row_digests(batch))
        if self._is_place("batch"):
            self._ask_to_be_killed()
            self._wait_for_the_end()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._write("loss", value=_bits(outputs["loss"]))
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            figures = trainer.callback_metrics
            self._write("step", step=self._step, loss=_bits(figures["train/loss"]), rate=_bits(figures["lr"]))
        if self._step >= self._stop_at:
            trainer.should_stop = True
        if not sum(trainer.num_val_batches) and (self._n + 1) % self._save_every == 0:
            path = getattr(trainer.checkpoint_callback, "dirpath", None) or self._folder
            trainer.save_checkpoint(Path(path) / "last.ckpt")

    def on_validation_batch_start(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        if self._file is None:  # the sanity check before training
            return
        self._write("validating")
        if self._is_place("validation"):
            self._ask_to_be_killed()
            self._wait_for_the_end()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._file is not None and "val/loss" in trainer.callback_metrics:
            self._write("validated", loss=_bits(trainer.callback_metrics["val/loss"]))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._file is None:
            return
        self._write("saving")
        if self._is_place("saving"):
            self._ask_to_be_killed()  # and go on: the file is written next

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_dying:
            self._wait_for_the_end()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, kind: str, **what: Any) -> None:
        assert self._file is not None
        self._file.write(json.dumps({"kind": kind, "n": self._n, **what}) + "\n")
        self._file.flush()

    def _is_place(self, kind: str) -> bool:
        return self._kill_at is not None and self._n >= self._kill_at and self._kill_in == kind

    def _ask_to_be_killed(self) -> None:
        self._is_dying = True
        (self._folder / HELD).touch()

    def _wait_for_the_end(self) -> None:
        time.sleep(_PATIENCE)  # nothing awaits its end: who asked for a kill kills the whole group of processes
        raise TrainingError(f"nobody has killed this process within {_PATIENCE} s; verify-resume must have ended")


def digests(batch: Batch) -> dict[str, str]:
    """Digest each tensor of a batch by its bytes and its shape."""
    return {name: _digest(value) for name, value in sorted(batch.items()) if isinstance(value, Tensor)}


def row_digests(batch: Batch) -> list[str]:
    """Digest each row's inputs and targets up to its last target that counts: padding depends on a row's company."""
    inputs, targets = batch["inputs"].cpu(), batch["targets"].cpu()
    counted = (targets != IGNORED).long()
    # argmax finds the first of the largest: seen from the end, the last position that counts
    lengths = (targets.shape[1] - counted.flip(1).argmax(1)) * counted.amax(1)
    return [
        _digest(row_inputs[:length], row_targets[:length])
        for row_inputs, row_targets, length in zip(inputs, targets, lengths.tolist(), strict=True)
        if length  # an empty row evens out the ranks
    ]


def _digest(*tensors: Tensor) -> str:
    hashed = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        hashed.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
        hashed.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()


def _bits(value: Any) -> str:
    return float(value).hex()
