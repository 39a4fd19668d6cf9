"""What times a run's steps from within: batches of random tokens, a clock, a learning rate of 0, and a counting sink.

Letters: B windows, T positions, V vocabulary.
"""

import io
import statistics
import time
from collections.abc import Sized
from pathlib import Path
from typing import IO, Any, cast

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset

from xlab import factories
from xlab.data.packing import Batch, Packing
from xlab.datamodules import XLabDataModule
from xlab.factories import class_path
from xlab.training.activation_checkpointing import ActivationCheckpointing
from xlab.training.schedules import Schedule

WARM_UP = 3  # steps: the first makes the optimiser's buffers, the rest settle the allocator
LEAST, MOST = 5, 50  # timed steps
VALIDATION_BATCHES = 6  # the first of them is not timed
_DISTINCT = 8  # batches, again and again: making one must cost no time
_TOKENS_PER_DOCUMENT = 128  # of the random rows' documents, where a mask tells them apart


class StandStill(Schedule):
    """A learning rate of 0: the steps are real, the weights stay, and no loss runs away."""

    def __init__(self, total_steps: int) -> None:
        """Take no warm-up: the user's may be longer than the few steps."""
        super().__init__(total_steps)

    def after_warmup(self, step: int) -> float:
        return 0.0


class RandomBatches(Dataset[Batch]):
    """Batches of random tokens.

    Args:
        rows: B.
        seq_len: T.
        vocab_size: V.
        length: how many there are.
        with_documents: whether they tell documents apart.
    """

    def __init__(self, rows: int, seq_len: int, vocab_size: int, length: int, *, with_documents: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(vocab_size, (_DISTINCT, rows, seq_len + 1), generator=generator)
        begins = torch.rand((_DISTINCT, rows, seq_len), generator=generator) < 1 / _TOKENS_PER_DOCUMENT
        self._ids, self._length = ids, length
        self._documents = begins.cumsum(dim=-1) if with_documents else None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < self._length:
            raise IndexError(index)
        ids = self._ids[index % _DISTINCT]
        batch = {"inputs": ids[:, :-1].clone(), "targets": ids[:, 1:].clone(), "n_bytes": torch.full((len(ids),), 4)}
        if self._documents is not None:
            batch["documents"] = self._documents[index % _DISTINCT].clone()
        return batch


class RandomData(LightningDataModule):
    """Random batches, in the shape of a datamodule's.

    Args:
        settings: the datamodule's, as plain data.
        vocab_size: V.
        accumulated: micro-batches of an optimiser step.
        with_validation: whether there is something to validate on.
    """

    def __init__(self, settings: Any, vocab_size: int, *, accumulated: int, with_validation: bool) -> None:
        super().__init__()
        self.rows, self.seq_len = batch_shape(settings)
        self._shape = (self.rows, self.seq_len, vocab_size)
        self._with_documents = bool(settings["document_mask"])
        self._accumulated, self._with_validation = accumulated, with_validation

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader((WARM_UP + MOST + 1) * self._accumulated)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        return self._loader(VALIDATION_BATCHES) if self._with_validation else []

    def _loader(self, length: int) -> DataLoader[Batch]:
        return DataLoader(RandomBatches(*self._shape, length, with_documents=self._with_documents), batch_size=None)


def batch_shape(settings: Any) -> tuple[int, int]:
    """Give (B, T) of a micro-batch with a datamodule's settings: of the widest, where they differ."""
    seq_len, asked = int(settings["seq_len"]), int(settings["batch_size"])
    packing = packing_of(settings)
    if packing.batch_size(asked) == asked:
        return asked, seq_len
    return max(int(getattr(packing, "max_tokens", asked * seq_len)) // seq_len, 1), seq_len  # it makes whole batches


def packing_of(settings: Any) -> Packing:
    """Build the packing that a datamodule's settings name."""
    packing = settings["packing"]
    return packing if isinstance(packing, Packing) else cast(Packing, factories.build(packing))


def of_a_step(callbacks: Any) -> list[Any] | None:
    """Give those of a run's callbacks, as settings, without which its steps are others: what recomputes activations."""
    given = callbacks if isinstance(callbacks, list) else [callbacks]
    own = [one for one in given if hasattr(one, "get") and one.get("class_path") == class_path(ActivationCheckpointing)]
    return own or None


def has_validation(datamodule: XLabDataModule) -> bool:
    """Tell whether a datamodule has, or will have, something to validate on."""
    return "val" in (datamodule.prefixes or datamodule.corpus.splits())


class StepTimer(Callback):
    """Time optimiser steps, then the batches of one validation, and end the run.

    Args:
        seconds: how long to go on timing steps beyond the ``least``.
        warm_up: steps that are not timed.
        least: steps that are timed in any case.
    """

    def __init__(self, seconds: float, *, warm_up: int = WARM_UP, least: int = LEAST) -> None:
        self._seconds, self._warm_up, self._least = seconds, warm_up, least
        self._first: float | None = None  # seconds of the first step
        self._last: float | None = None
        self._step = 0
        self.steps: list[float] = []
        self.validation_batches: list[float] = []
        self.started: float | None = None  # seconds since the epoch

    @property
    def compiling(self) -> float:
        """What the first step took beyond the others, in seconds: making of buffers, and compiling."""
        return max((self._first or 0.0) - statistics.median(self.steps), 0.0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.time()
        self._lap(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        lap = self._lap(pl_module)
        if self._step == 1:
            self._first = lap
        if self._step <= self._warm_up or lap is None:
            return
        self.steps.append(lap)
        enough = len(self.steps) >= self._least and sum(self.steps) >= self._seconds
        # all ranks end at the same step, or they would wait for each other
        if trainer.strategy.reduce_boolean_decision(enough or len(self.steps) >= MOST, all=False):
            trainer.should_stop = True

    def on_validation_epoch_start(self, *_: Any) -> None:
        self._last = None

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        lap = self._lap(pl_module)
        if lap is not None:
            self.validation_batches.append(lap)

    def _lap(self, module: LightningModule) -> float | None:
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
        before, self._last = self._last, time.perf_counter()
        return None if before is None else self._last - before


class CountingSink(io.RawIOBase):
    """A file that forgets what is written to it but for how much it was."""

    def __init__(self) -> None:
        super().__init__()
        self.n_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        size = len(content) if isinstance(content, Sized) else 0
        self.n_bytes += size
        return size


def time_checkpoint(trainer: Trainer, module: LightningModule) -> tuple[float, int]:
    """Write weights and optimiser to nowhere; give the seconds and the bytes."""
    for _ in range(2):  # the first imports what it needs
        sink = CountingSink()
        began = time.perf_counter()
        states = [optimizer.state_dict() for optimizer in trainer.optimizers]
        torch.save({"state_dict": module.state_dict(), "optimizer_states": states}, cast(IO[bytes], sink))
        seconds = time.perf_counter() - began
    return seconds, sink.n_bytes


class Memory:
    """The most memory of this process above what it has now; on a GPU, of what tensors take there."""

    def __init__(self) -> None:
        try:  # Linux: forget the peak of the imports
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            self._base = None
        else:
            self._base = _status("VmRSS")

    def above(self, device: torch.device) -> int | None:
        """Bytes between then and the highest since; None where the system does not tell."""
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated(device)
        return None if self._base is None else _status("VmHWM") - self._base


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
