"""What the commands add to a run: whole checkpoint files, the word after Ctrl-C, the file of continuations."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from xlab import checkpoints
from xlab.datamodules import XLabDataModule


class WholeFiles(TorchCheckpointIO):
    """Write checkpoints whole or not at all, and read them without unpickling anything but plain data."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        checkpoints.write(checkpoint, path)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        loaded: dict[str, Any] = torch.load(checkpoints.find(path), map_location=map_location, weights_only=True)
        return loaded


class InterruptNotice(Callback):
    """Say, when Ctrl-C or SIGTERM ends a run, how to go on."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        stopped = isinstance(exception, KeyboardInterrupt | SIGTERMException)
        if not stopped or trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        last = getattr(trainer.checkpoint_callback, "last_model_path", "")
        advice = f"go on with ./xlab.py fit --ckpt_path {shown(last)}" if last else "no checkpoint had been written yet"
        print(f"\ninterrupted at step {trainer.global_step}; {advice}", file=sys.stderr)


class ContinuationWriter(Callback):
    """Write what ``predict`` generates to a file, a JSON line a document, as it comes."""

    def __init__(self, path: str, datamodule: XLabDataModule) -> None:
        self._path = Path(path)
        self._datamodule = datamodule

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text("", encoding="utf-8")

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        decode = self._datamodule.tokenizer.decode
        line = {
            "document": int(batch["index"]),
            "prompt": decode(batch["prompt"][0]),
            "continuation": decode(outputs),
        }
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def shown(path: str | Path) -> str:
    """Give a path as one would type it here."""
    here = os.path.relpath(path)
    return str(path) if here.startswith("..") else here
