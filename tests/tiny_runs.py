"""Runs on micro-batches of a test's own, and how their models are compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tests.tiny import SEQ_LEN, VOCAB_SIZE, Recorder, make_trainer
from xlab.data.packing import IGNORED, Batch
from xlab.models import XLabModel

VALIDATING = {"val_check_interval": 3, "check_val_every_n_epoch": None, "limit_val_batches": 2}


def weights(model: XLabModel) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.decoder.state_dict().items()}


def assert_equal_weights(one: XLabModel, two: XLabModel) -> None:
    mine, other = weights(one), weights(two)
    assert mine.keys() == other.keys()
    assert [name for name in mine if not torch.equal(mine[name], other[name])] == []


def ragged(n: int, rows: int = 2, seed: int = 0) -> list[Batch]:
    """Micro-batches in which between one and all of the places count."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for number in range(n):
        inputs = torch.randint(VOCAB_SIZE, (rows, SEQ_LEN), generator=generator)
        targets = torch.randint(VOCAB_SIZE, (rows, SEQ_LEN), generator=generator)
        n_ignored = number * (rows * SEQ_LEN - 1) // max(n - 1, 1)
        targets.view(-1)[torch.randperm(rows * SEQ_LEN, generator=generator)[:n_ignored]] = IGNORED
        batches.append({"inputs": inputs, "targets": targets, "n_bytes": torch.full((rows,), SEQ_LEN)})
    return batches


def joined(batches: Sequence[Batch]) -> Batch:
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def fit(folder: Path, model: XLabModel, batches: Sequence[Batch], **settings: Any) -> Recorder:
    recorder = Recorder()
    trainer = make_trainer(folder, -1, recorder, max_epochs=1, **settings)
    trainer.fit(model, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return recorder
