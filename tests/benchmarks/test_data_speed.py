"""The benchmark of the data road runs, does equal work, and shows no figure that was not measured."""

import json
import mmap
from pathlib import Path

import numpy as np
import pytest

from benchmarks.data_corpus import make_up_corpus, read_texts, simulate_store, write_corpus
from benchmarks.data_memory import resident
from benchmarks.data_report import NOT_MEASURED, as_markdown, as_text, doubts, marks
from benchmarks.data_speed import ENCODERS, PARTS, TRAINERS, main
from xlab.data.token_store import TokenStore


def test_a_quick_run_measures_every_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "figures" / "data_speed.json"
    arguments = ["--quick", "--threads=1", "--rounds=1", "--scratch", str(tmp_path), "--json", str(written)]
    assert main(arguments) == 0
    report = json.loads(written.read_text())
    assert not doubts(report)  # equal numbers of tokens, and nothing is missing
    parts = report["parts"]
    assert tuple(parts) == PARTS
    assert tuple(parts["encoding"]) == ENCODERS
    assert tuple(parts["training"]) == TRAINERS
    assert all(entry["seconds"][0] > 0 for entry in [*parts["encoding"].values(), *parts["training"].values()])
    assert parts["resume"][0]["tokens"] == 10**12
    assert len(parts["loaders"][0]["loaders"]) == 8
    assert "no figure to quote" in capsys.readouterr().out
    assert not list(tmp_path.glob("data_speed-*"))  # nothing is left of the work
    assert main(["--markdown", str(written)]) == 0
    assert "### Raw text to prepared tokens" in capsys.readouterr().out


def test_the_corpus_is_whole_documents_up_to_a_size(tmp_path: Path) -> None:
    written = write_corpus(tmp_path / "a.jsonl", most_characters=20_000)
    texts = read_texts(written.path)
    assert len(texts) == written.documents
    assert sum(len(text.encode()) for text in texts) == written.n_bytes
    assert sum(map(len, texts[:-1])) < 20_000 <= sum(map(len, texts))


def test_a_made_up_corpus_is_of_its_size_and_always_the_same(tmp_path: Path) -> None:
    for name in "ab":
        make_up_corpus(tmp_path / name, 0.3)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert 300_000 <= (tmp_path / "a").stat().st_size < 320_000
    assert len(set(read_texts(tmp_path / "a"))) == len(read_texts(tmp_path / "a")) > 10


def test_a_simulated_store_opens_and_takes_no_room(tmp_path: Path) -> None:
    simulate_store(tmp_path / "store", documents=1_000_000, tokens_of_each=1000)
    store = TokenStore(tmp_path / "store")
    assert (len(store), store.n_tokens) == (1_000_000, 10**9)
    assert not store.gather(np.array([0, 10**9 - 1])).any()
    assert sum(file.stat().st_blocks * 512 for file in tmp_path.iterdir()) < 1 << 20


def test_memory_that_was_in_use_once_is_seen() -> None:
    before = resident("VmRSS")
    with mmap.mmap(-1, 20_000_000) as held:  # new to the process: an array may get memory that tests before have freed
        held.write(b"x" * 20_000_000)
        assert resident("VmRSS") - before > 15
    assert resident("VmHWM") - before > 15


def report_of(**parts: object) -> dict:
    machine = {"processor": "abacus", "cores": 2, "memory_gib": 1, "system": "table", "load_before": 0}
    about = {"date": "2026-01-01", "commit": "abc", "command": "it", "versions": ["numpy 2"], "quick": False}
    corpus = {"origin": "a book", "documents": 3, "bytes": 10_000_000}
    return {**about, "corpus": corpus, "vocab_size": 300, "threads": 2, "rounds": 3, "machine": machine, "parts": parts}


def entry(*seconds: float, tokens: int = 7) -> dict:
    return {"seconds": list(seconds), "tokens": tokens}


def test_marks_are_of_medians() -> None:
    report = report_of(
        encoding={"xlab": entry(2, 9, 2), "encode_batch_fast": entry(1.5, 1.5, 1), "encode_batch": entry(3, 3, 3)},
        training={"train-xlab": entry(1.1, 1.1), "train-tokenizers": entry(1, 1)},
        memory={"20": {"megabytes": 100, "seconds": 1}, "200": {"megabytes": 130, "seconds": 9}},
        resume=[{"seconds": 0.001, "megabytes": 2, "tokens": 10**12}, {"seconds": 0.5, "megabytes": 2}],
        loaders=[{"step": 0.1, "loaders": {"BestFit": 0.001, "OneDocument": 0.003}}],
        mask=[{"batch_size": 8, "seq_len": 256, "mean_length": 64, "plain": 0.1, "masked": 0.11}],
    )
    found = {(mark.what, mark.asked): (mark.measured, mark.reached) for mark in marks(report)}
    assert found == {
        ("preparation ÷ bare `encode_batch`", "≥ 0.9"): ("1.50", True),
        ("preparation ÷ bare `encode_batch_fast`", "≥ 0.9"): ("0.75", False),
        ("time to train a tokenizer ÷ `tokenizers` alone", "≤ 1.2"): ("1.10", True),
        ("memory for 200 MB", "< 1000 MB"): ("130 MB", True),
        ("memory for 200 MB ÷ for 20 MB", "≤ 1.2"): ("1.30", False),
        ("loader, share of a step (OneDocument)", "< 2%"): ("3.00%", False),
        ("open and resume", "< 10 ms"): ("250.5 ms", False),
        ("open and resume", "< 10 MB"): ("2.0 MB", True),
    }
    lines = as_markdown(report).splitlines()
    assert "| xlab | 5.00 | 1.11 – 5.00 | 1.00 |" in lines
    assert "| encode_batch | 3.33 | 3.33 – 3.33 | 1.50 |" in lines
    assert "| lowest – highest of the rounds | 1.0 – 500.0 | 2.0 – 2.0 |" in lines
    assert "| 8 × 256 | 64 | 100.0 | 110.0 | 1.10 |" in lines
    assert not list(marks({**report, "quick": True}))


def test_unequal_work_and_missing_peers_are_pointed_at() -> None:
    report = report_of(
        encoding={"xlab": entry(1), "encode_batch": entry(1, tokens=8), "datasets": {NOT_MEASURED: "no module"}},
        resume={NOT_MEASURED: "no sparse files"},
    )
    text = as_text(report)
    assert "Not the same work: xlab: 7 tokens, encode_batch: 8 tokens." in text
    assert "datasets: not measured (no module)." in text
    assert "resume: not measured (no sparse files)." in text
    assert "Opening a store" not in text
