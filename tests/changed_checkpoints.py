"""A run's checkpoint with something changed, and all that opens one: what tests of checkpoints start from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.tiny import Run, make_model
from xlab.checkpoints import load, read
from xlab.datamodules import XLabDataModule
from xlab.models import XLabModel

TINIEST = {"vocab_size": 5, "max_len": 4, "d_model": 4, "n_layers": 1, "n_heads": 1}

# everything that opens a checkpoint
OPENERS: list[Callable[[Path], Any]] = [
    read,
    load,
    XLabModel.load_from_checkpoint,
    XLabDataModule.load_from_checkpoint,
    lambda path: make_model(init_from=str(path)),
]


def content(path: Path) -> dict[str, Any]:
    whole: dict[str, Any] = torch.load(path, weights_only=True)
    return whole


def changed(run: Run, path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Write the exported checkpoint of a run to ``path`` with something changed."""
    whole = content(run.exported)
    change(whole)
    torch.save(whole, path)
    return path


def with_model(run: Run, path: Path, **settings: Any) -> Path:
    return changed(run, path, lambda whole: whole["xlab"]["model"].update(settings))


def logits(model: Callable[[Tensor], Tensor]) -> Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 3 + 12).reshape(2, 6))
