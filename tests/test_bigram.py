"""Training beats an interpolated bigram, and the bigram is what it says."""

import math
from pathlib import Path

import numpy as np
import pytest

from tests.bigram import bigram_loss
from tests.commands.commands_setup import small
from xlab import checkpoints
from xlab.commands.lightning_cli import run
from xlab.data.preparation import open_prepared

VERBS = ("counts", "returns", "raises", "yields", "closes")
NOUNS = ("words", "lines", "files", "names", "bytes")


def test_the_bigram_of_a_cycle_knows_what_follows() -> None:
    cycle = np.tile([3, 4, 5, 6], 1000)
    # 0.95 is the largest weight of the bigram; the rest goes to a quarter each
    assert bigram_loss(cycle, cycle[:101], 7, start=1) == pytest.approx(-math.log(0.95 + 0.05 * 0.245), abs=1e-3)


def test_the_bigram_of_noise_knows_nothing() -> None:
    noise = np.random.default_rng(0).integers(3, 19, 200_000)
    assert bigram_loss(noise, noise[:5000], 19, start=1) == pytest.approx(math.log(16), abs=0.02)


def test_a_start_is_given_not_predicted() -> None:
    train = np.tile([1, 3, 4, 2], 500)
    assert bigram_loss(train, np.array([1, 3, 4, 2, 1, 3]), 5, start=1) == pytest.approx(
        bigram_loss(train, np.array([1, 3, 4, 2]), 5, start=1), rel=0.02
    )


def test_a_short_run_is_a_tenth_better_than_a_bigram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    lines = []
    for number in range(600):
        # what is said at the end repeats the beginning: two tokens of context are not enough
        verb, noun = draw.choice(VERBS), draw.choice(NOUNS)
        lines.append(
            f'{{"text": "It {verb} {noun} {number}, that is: all {noun} that it {verb}, and it {verb} {noun}."}}'
        )
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    longer = {"data__seq_len": 32, "model__d_model": 32, "model__schedule__warmup_steps": 10}
    steps = {"trainer__max_steps": 250, "trainer__val_check_interval": 250}
    run("fit", small(tmp_path / "corpus.jsonl", **longer, **steps))
    prepared = open_prepared(next(path for path in Path(".cache").iterdir() if path.is_dir()))
    train, val = (prepared.store(split).tokens for split in ("train", "val"))
    bigram = bigram_loss(train, val, len(prepared.tokenizer), start=prepared.tokenizer.sos_id)
    assert checkpoints.read("logs/version_0").info["metrics"]["val/loss"] < 0.9 * bigram
