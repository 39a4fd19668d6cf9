"""A run of seconds in a run's folder, with callbacks of a test's own."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from tests.tiny import make_data, make_model, make_trainer, write_corpus
from xlab.models import XLabModel
from xlab.training.loggers import JsonLinesLogger

VALIDATING = {"val_check_interval": 4, "check_val_every_n_epoch": None, "limit_val_batches": 2}


def fit(
    folder: Path,
    *own: Callback,
    max_steps: int = 10,
    version: int = 0,
    model: XLabModel | None = None,
    ckpt_path: Path | None = None,
    **settings: Any,
) -> Path:
    """Train in a run's folder, which is returned."""
    run = folder / f"version_{version}"
    datamodule = make_data(write_corpus(folder / "corpus.jsonl"))
    defaults = {**VALIDATING, "logger": JsonLinesLogger(str(run)), "log_every_n_steps": 1, **settings}
    trainer = make_trainer(folder, max_steps, *own, **defaults)
    trainer.fit(model or make_model(), datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
    return run


def lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
