"""Datamodules over a tiny corpus, as a trainer and a checkpoint see them."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.tiny import make_data, make_model
from xlab.checkpoint_writing import write
from xlab.checkpoints import header
from xlab.data.sources import Document, Source
from xlab.data.tokenizers import Tokenizer
from xlab.datamodules import XLabDataModule


class Untouchable(Source):
    """A source that may be named, and not read."""

    def documents(self) -> Iterator[Document]:
        raise AssertionError("the corpus was read")

    def identity(self) -> str:
        raise AssertionError("the corpus was looked at")

    def n_bytes(self) -> int | None:
        raise AssertionError("the corpus was measured")


def ready(corpus: Path, **settings: Any) -> XLabDataModule:
    datamodule = make_data(corpus, **settings)
    datamodule.prepare_data()
    return datamodule


def checkpoint_of(datamodule: XLabDataModule, tokenizer: Tokenizer, path: Path) -> Path:
    """Write a checkpoint as a training of this datamodule would."""
    model = make_model()
    head = header(model=model.hparams, data=datamodule.hparams, tokenizer=tokenizer.to_json(), info={"step": 0})
    write({"xlab": head, "state_dict": model.state_dict()}, path)
    return path


def rows(loader: Any) -> list[tuple[int, ...]]:
    return [tuple(row) for batch in loader for row in batch["inputs"].tolist()]


def on_rank(
    datamodule: XLabDataModule, rank: int, world_size: int, *, accumulated: int = 1, ready: int = 0
) -> XLabDataModule:
    """What a trainer tells a datamodule, without a process group."""
    progress = SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=ready)))
    fit_loop = SimpleNamespace(epoch_loop=progress)
    datamodule.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        fit_loop=fit_loop,
        current_epoch=0,
        accumulate_grad_batches=accumulated,
    )  # type: ignore[assignment]
    return datamodule
