"""Prepared data are told as they are, others are estimated and said so; a cache says why; nothing is written."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import make_data, write_corpus

from xlab import factories
from xlab.data.packing import BestFit, TokenBudget
from xlab.data.sources import HubDataset, JsonLines
from xlab.datamodules import Splits, XLabDataModule
from xlab.lab.plan_data import DataPlan, data_plan, guessed_bytes_per_token


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus.jsonl")


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path beneath a folder, with its size and time."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def planned(datamodule: XLabDataModule, folder: Path) -> DataPlan:
    """Plan, and see that nothing was written."""
    before = snapshot(folder)
    made = data_plan(datamodule, folder)
    assert snapshot(folder) == before
    return made


@pytest.mark.parametrize(
    "settings",
    [{}, {"packing": BestFit()}, {"packing": TokenBudget(max_tokens=64)}, {"document_mask": True, "seq_len": 32}],
)
def test_prepared_data_are_told_as_they_are(corpus: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    ready = make_data(corpus, **settings)
    ready.prepare_data()
    made = planned(make_data(corpus, **settings), tmp_path)
    assert made.origin == "prepared"
    assert made.cache is None
    for split, size in made.splits.items():
        windows = ready.windows(split)
        assert size.tokens == ready.prepared.store(split).n_tokens
        assert size.n_bytes == ready.prepared.n_bytes(split)
        assert (size.windows, size.waste) == (len(windows), windows.report()["waste"])


def test_a_packing_that_is_not_planned_yet_is_planned_and_forgotten(corpus: Path, tmp_path: Path) -> None:
    make_data(corpus).prepare_data()
    made = planned(make_data(corpus, packing=BestFit()), tmp_path)
    ready = make_data(corpus, packing=BestFit())
    ready.prepare_data()
    assert made.train.windows == len(ready.windows("train"))
    assert made.train.waste == ready.windows("train").report()["waste"]


def test_what_is_not_prepared_is_estimated_and_said_so(corpus: Path, tmp_path: Path) -> None:
    made = planned(make_data(corpus), tmp_path)
    assert made.origin == "estimated"
    assert "guessed" in made.how
    assert made.cache is not None
    assert "no prepared data" in made.cache
    ready = make_data(corpus)
    ready.prepare_data()
    assert made.train.n_bytes == ready.prepared.n_bytes("train")
    assert made.val.n_bytes == ready.prepared.n_bytes("val")
    assert made.train.waste is None


def test_a_tokenizer_that_is_ready_is_tried_on_the_text(corpus: Path, tmp_path: Path) -> None:
    make_data(corpus).prepare_data()
    (directory,) = (path.parent for path in (tmp_path / "cache").glob("*/description.json"))
    for path in directory.iterdir():
        path.unlink()
    made = planned(make_data(corpus), tmp_path)
    assert "measured on its beginning" in made.how
    make_data(corpus).prepare_data()
    exact = planned(make_data(corpus), tmp_path)
    assert made.train.tokens == pytest.approx(exact.train.tokens, rel=0.1)


def test_stored_tokens_need_no_cache(corpus: Path, tmp_path: Path) -> None:
    ready = make_data(corpus)
    ready.prepare_data()
    (directory,) = (path.parent for path in (tmp_path / "cache").glob("*/description.json"))
    stored = make_data(corpus, train_data_prefix=str(directory / "train"), val_data_prefix=str(directory / "val"))
    made = planned(stored, tmp_path)
    assert made.origin == "prepared"
    assert made.train.windows == len(ready.windows("train"))
    assert made.val.tokens == ready.prepared.store("val").n_tokens


def test_nothing_is_fetched_from_the_hub(tmp_path: Path, corpus: Path) -> None:
    made = planned(make_data(corpus, source=HubDataset("someone/something", split="train")), tmp_path)
    assert made.origin == "unknown"
    assert made.splits == {}


def test_a_guess_grows_with_the_vocabulary() -> None:
    guesses = [guessed_bytes_per_token(2**power) for power in range(8, 18)]
    assert guesses[0] == 1
    assert guesses == sorted(guesses)
    # XLab's own corpus: 3.66 bytes with 4,096 tokens, 3.17 with 2,048 of another
    assert guessed_bytes_per_token(4096) == pytest.approx(3.66, rel=0.05)
    assert guessed_bytes_per_token(2048) == pytest.approx(3.17, rel=0.05)


class TestWhyNotReused:
    @pytest.fixture(autouse=True)
    def prepared(self, corpus: Path) -> None:
        make_data(corpus).prepare_data()

    def test_another_vocabulary(self, corpus: Path, tmp_path: Path) -> None:
        reason = planned(make_data(corpus, vocab_size=310), tmp_path).cache
        assert reason == "the corpus is prepared with a vocabulary of 300, and data.vocab_size is 310"

    def test_a_file_that_changed(self, corpus: Path, tmp_path: Path) -> None:
        write_corpus(corpus, n=170)
        later = corpus.stat().st_mtime + 60
        os.utime(corpus, (later, later))
        reason = planned(make_data(corpus), tmp_path).cache
        assert reason == f"{corpus} changed after the data were prepared"

    def test_a_setting_that_the_newest_run_had_otherwise(self, corpus: Path, tmp_path: Path) -> None:
        folder = tmp_path / "logs" / "version_3"
        folder.mkdir(parents=True)
        settings = factories.plain(dict(make_data(corpus).hparams), "data")
        (folder / "config.yaml").write_text(yaml.safe_dump({"data": settings}), encoding="utf-8")
        (tmp_path / "logs" / "version_10").mkdir()  # without a config: it ended at once
        other = make_data(corpus, splits=Splits(train=0.7, val=0.2, test=0.05, predict=0.05))
        reason = planned(other, tmp_path).cache
        assert reason is not None
        assert reason.startswith("since the newest run, data.splits.predict changed from 0.1 to 0.05; ")
        renamed = make_data(corpus, source=JsonLines(str(corpus), text_column="body", meta_column=None))
        assert (
            planned(renamed, tmp_path).cache
            == "since the newest run, data.source.meta_column changed from 'meta' to None"
        )

    def test_when_nobody_knows(self, tmp_path: Path) -> None:
        other = write_corpus(tmp_path / "other.jsonl", seed=1)
        os.utime(other, (1, 1))
        reason = planned(make_data(other), tmp_path).cache
        assert reason is not None
        assert "another source" in reason
