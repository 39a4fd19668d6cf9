"""A corpus of a few kilobytes, and a run on it that takes a second: what tests of training start from."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from xlab.checkpoints import export
from xlab.data.packing import Batch
from xlab.data.sources import JsonLines
from xlab.datamodules import Splits, XLabDataModule
from xlab.models import XLabModel

VOCAB_SIZE, SEQ_LEN, BATCH_SIZE = 300, 16, 4
SHARES = Splits(train=0.6, val=0.2, test=0.1, predict=0.1)
ADAM = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01, "weight_decay": 0.1}}

# What Lightning says of every run in a test. Mark a module with these:
LIGHTNING_NOISE = [
    "ignore:.*does not have many workers.*",  # a loader of ten batches needs no processes
    "ignore:.*is not resumable.*",  # the sampler itself begins where the checkpoint was taken
    "ignore:.*LeafSpec.*",  # Lightning uses what torch has deprecated
    "ignore:.*treespec.*",
    "ignore:.*have no `val_dataloader`.*",  # runs on a list of batches
    "ignore:.*callbacks used to create the checkpoint.*",  # a run is resumed by other callbacks than saved it
]


@dataclass(frozen=True)
class Run:
    """A finished run: its files, and the objects that made them."""

    folder: Path
    corpus: Path
    model: XLabModel
    datamodule: XLabDataModule
    trained: Path
    exported: Path


class Recorder(Callback):
    """Remember each micro-batch's inputs and rate, and each optimiser step's loss; save checkpoints on the way."""

    def __init__(self, save_at: dict[int, Path] | None = None) -> None:
        self.batches: list[list[list[int]]] = []
        self.losses: list[float] = []
        self.rates: list[float] = []
        self._save_at = save_at or {}
        self._steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._steps = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self.batches.append(batch["inputs"].tolist())
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self._steps:
            return
        self._steps = trainer.global_step
        self.losses.append(float(trainer.callback_metrics["train/loss"]))
        path = self._save_at.get(trainer.global_step)
        if path is not None:
            trainer.save_checkpoint(path)


def documents(n: int = 160, seed: int = 0) -> Iterator[str]:
    """Sentences of a small language: a few words, in an order that can be learnt."""
    draw = random.Random(seed)
    subjects = ["the cat", "a dog", "my aunt", "the old king", "Zoë"]
    verbs = ["sees", "follows", "paints", "forgets"]
    for number in range(n):
        sentences = (f"{draw.choice(subjects)} {draw.choice(verbs)} {draw.choice(subjects)}." for _ in range(3))
        yield f"{number}: {' '.join(sentences)}\n"


def write_corpus(path: Path, n: int = 160, seed: int = 0) -> Path:
    """Write ``documents`` as JSON lines with the columns ``body`` and ``meta``."""
    rows = (json.dumps({"body": text, "meta": f"number {n}"}) for n, text in enumerate(documents(n, seed)))
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def make_data(corpus: Path, **settings: Any) -> XLabDataModule:
    """Make a datamodule over a corpus of ``write_corpus``, with its cache beside it."""
    source = JsonLines(str(corpus), text_column="body", meta_column="meta")
    own = {"source": source, "splits": SHARES, "cache_dir": str(corpus.parent / "cache")}
    sizes = {"vocab_size": VOCAB_SIZE, "seq_len": SEQ_LEN, "batch_size": BATCH_SIZE}
    return XLabDataModule(**{**own, **sizes, **settings})


def make_model(*, seed: int = 0, **settings: Any) -> XLabModel:
    """Make a model of two narrow layers."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": VOCAB_SIZE, "max_len": SEQ_LEN, "d_model": 16, "n_layers": 2, "n_heads": 2}
    return XLabModel(**{**sizes, "optimizer": ADAM, **settings})


def make_trainer(folder: Path, max_steps: int, *callbacks: Callback, **settings: Any) -> Trainer:
    """Make a quiet trainer that validates only when it is told to."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    plain = {"accelerator": "cpu", "devices": 1, "use_distributed_sampler": False, "enable_checkpointing": False}
    defaults = {"default_root_dir": folder, "max_steps": max_steps, "limit_val_batches": 0, "deterministic": True}
    return Trainer(callbacks=list(callbacks), **{**quiet, **plain, **defaults, **settings})


def train(folder: Path, max_steps: int = 20) -> Run:
    """Train, save and export in ``folder``."""
    corpus = write_corpus(folder / "corpus.jsonl")
    model, datamodule = make_model(), make_data(corpus)
    trainer = make_trainer(folder, max_steps)
    trainer.fit(model, datamodule=datamodule)
    trained = folder / "last.ckpt"
    trainer.save_checkpoint(trained)
    exported, _ = export(trained, folder / "exports")
    return Run(folder, corpus, model, datamodule, trained, exported)
