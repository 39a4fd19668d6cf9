"""Steps are timed in a process of their own, as the run would make them, and nothing stays behind."""

from pathlib import Path

import pytest
import torch
from tiny import write_corpus

from xlab.errors import ConfigError
from xlab.lab.plan_steps import LEAST, MOST, CountingSink, RandomBatches, StandStill, batch_shape
from xlab.lab.plan_time import Spread, measure

SETTINGS = {
    "data.source": "JsonLines",
    "data.source.text_column": "body",
    "data.vocab_size": 300,
    "data.seq_len": 16,
    "data.batch_size": 4,
    "data.packing": "TokenBudget",
    "data.packing.max_tokens": 80,
    "data.document_mask": True,
    "model.d_model": 16,
    "model.n_layers": 1,
    "model.n_heads": 2,
    "model.schedule.warmup_steps": 5000,
    "trainer.max_steps": 2,
    "trainer.accumulate_grad_batches": 3,
    "trainer.accelerator": "cpu",
}


def options(folder: Path, **changes: object) -> list[str]:
    own = {**SETTINGS, "data.source.paths": folder / "corpus.jsonl", **changes}
    return [f"--{name}={value}" for name, value in own.items()]


def test_it_times_real_steps_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_corpus(tmp_path / "corpus.jsonl")
    monkeypatch.chdir(tmp_path)
    times = measure(options(tmp_path), seconds=0.01)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.jsonl"]
    assert times.tokens_per_step == 3 * 5 * 16  # 80 tokens are five windows; the batch size is not used
    assert LEAST <= times.step.n <= MOST
    assert 0 < times.step.low <= times.step.median <= times.step.high
    assert times.seconds_per_step == times.step.median
    assert times.tokens_per_second == pytest.approx(240 / times.step.median)
    assert times.validation_batch is not None
    assert times.checkpoint_bytes > 3 * 4 * 300 * 16  # weights and Adam's two moments
    assert times.peak_bytes is None or times.peak_bytes > times.checkpoint_bytes
    assert (times.device, times.world_size) == ("cpu", 1)
    assert times.as_json()["tokens_per_second"] == times.tokens_per_second


def test_a_run_that_cannot_be_says_so_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_corpus(tmp_path / "corpus.jsonl")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^a step cannot be trained: .*n_heads") as caught:
        measure(options(tmp_path, **{"model.n_heads": 3}))
    assert "\n" not in str(caught.value)


def test_a_spread_of_few() -> None:
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0, 1)
    assert Spread.of([4.0, 1.0, 2.0, 3.0, 100.0]) == Spread(3.0, 2.0, 4.0, 5)


def test_random_batches_are_a_run_s() -> None:
    batches = RandomBatches(3, 8, 50, 20, with_documents=True)
    batch = batches[17]
    assert {name: tuple(values.shape) for name, values in batch.items()} == {
        **{"inputs": (3, 8), "targets": (3, 8), "documents": (3, 8)},
        "n_bytes": (3,),
    }
    assert torch.equal(batch["inputs"][:, 1:], batch["targets"][:, :-1])
    assert 0 <= int(batch["inputs"].min()) <= int(batch["inputs"].max()) < 50
    assert (batch["documents"].diff(dim=1) >= 0).all()
    assert len(list(batches)) == 20


def test_the_shape_of_a_micro_batch() -> None:
    own = {"seq_len": 16, "batch_size": 4}
    assert batch_shape({**own, "packing": "ContiguousWindows"}) == (4, 16)
    packing = {"class_path": "TokenBudget", "init_args": {"max_tokens": 100}}
    assert batch_shape({**own, "packing": packing}) == (6, 16)


def test_nothing_is_learnt_while_time_is_taken() -> None:
    assert {StandStill(10)(step) for step in range(12)} == {0.0}


def test_a_sink_counts_what_torch_writes() -> None:
    sink = CountingSink()
    torch.save({"weights": torch.zeros(1000)}, sink)
    assert 4000 < sink.n_bytes < 6000
