"""run.json tells what a run is and how it ended."""

import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.tiny import LIGHTNING_NOISE, make_data, make_model, make_trainer, write_corpus
from xlab.training.callbacks import BestAndLast, Throughput
from xlab.training.loggers import JsonLinesLogger
from xlab.training.run_record import RunRecord

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]


def fit(folder: Path, *own: Callback, ckpt_path: Path | None = None, max_steps: int = 4) -> dict[str, Any]:
    """Train in a folder, and read what its run.json says."""
    datamodule = make_data(write_corpus(folder.parent / "corpus.jsonl"))
    settings: dict[str, Any] = {"val_check_interval": 2, "check_val_every_n_epoch": None, "limit_val_batches": 1}
    settings |= {"log_every_n_steps": 1, "enable_checkpointing": any(isinstance(one, BestAndLast) for one in own)}
    logger = JsonLinesLogger(str(folder))
    trainer = make_trainer(folder.parent, max_steps, RunRecord(folder), *own, logger=logger, **settings)
    trainer.fit(make_model(), datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
    return read(folder)


def read(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return record


class Ending(Callback):
    """Look at the record amid the run, then end it by an exception."""

    def __init__(self, folder: Path, error: BaseException) -> None:
        self.folder, self.error = folder, error
        self.seen: dict[str, Any] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen = read(self.folder)
        raise self.error


def test_a_run_that_finishes(tmp_path: Path) -> None:
    record = fit(tmp_path / "version_0")
    assert record["status"] == "finished"
    assert (record["first_step"], record["last_step"], record["steps"]) == (0, 4, 4)
    assert record["started"] <= record["ended"]
    model = make_model()
    assert record["parameters"] == sum(weight.numel() for weight in model.decoder.parameters())
    assert record["flops_per_token"] > 6 * record["non_embedding_parameters"]
    assert record["versions"].keys() >= {"python", "xlab", "torch", "lightning"}
    assert [path.name for path in tmp_path.glob("version_0/run*")] == ["run.json"]


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [(ValueError("the disk\n is full"), "failed", "the disk is full"), (KeyboardInterrupt(), "interrupted", None)],
)
def test_a_run_that_does_not(tmp_path: Path, error: BaseException, status: str, line: str | None) -> None:
    ending = Ending(tmp_path / "version_0", error)
    with pytest.raises((ValueError, SystemExit, KeyboardInterrupt)):
        fit(tmp_path / "version_0", ending)
    assert ending.seen["status"] == "running"
    record = read(tmp_path / "version_0")
    assert (record["status"], record.get("error"), record["last_step"]) == (status, line, 2)


def test_a_resumed_run_counts_its_tokens_on(tmp_path: Path) -> None:
    fit(tmp_path / "a", Throughput(), BestAndLast())
    last = tmp_path / "a" / "checkpoints" / "last.ckpt"
    fit(tmp_path / "b", Throughput(), ckpt_path=last, max_steps=8)
    lines = [json.loads(line) for name in "ab" for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
    spent = [(line["tokens"], line["train_seconds"]) for line in lines if "tokens" in line]
    tokens = [each for each, _ in spent]
    assert tokens == [tokens[0] * number for number in (1, 2, 3, 4)]
    assert [seconds for _, seconds in spent] == sorted(seconds for _, seconds in spent)
