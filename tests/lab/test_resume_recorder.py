"""A recorder writes what a run did, for whoever must know it after a kill."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import LIGHTNING_NOISE, Recorder, make_data, make_model, make_trainer, write_corpus

from xlab.data.packing import IGNORED
from xlab.errors import TrainingError
from xlab.lab.resume_recorder import RunRecorder, digests, row_digests

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]


def batch_of(*rows: list[int], width: int) -> dict[str, torch.Tensor]:
    """A batch of rows of tokens, the next token as target, filled up to a width."""
    inputs = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    targets = torch.tensor([[token + 1 for token in row] + [IGNORED] * (width - len(row)) for row in rows])
    return {"inputs": inputs, "targets": targets}


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rank-0.jsonl").read_text().splitlines()]


class TestDigests:
    def test_a_rows_knows_nothing_of_its_company(self) -> None:
        wide = row_digests(batch_of([1, 2, 3], [4, 5], [], width=6))
        assert wide == row_digests(batch_of([1, 2, 3], width=3)) + row_digests(batch_of([4, 5], width=2))
        assert len(set(wide)) == 2

    @given(st.integers(0, 2), st.integers(0, 3), st.sampled_from(["inputs", "targets"]))
    def test_a_changed_token_changes_one(self, row: int, place: int, name: str) -> None:
        batch = batch_of([1, 2, 3, 4], [5, 6, 7, 8], [9, 8, 7, 6], width=4)
        before, rows_before = digests(batch), row_digests(batch)
        batch[name][row, place] += 1
        after, rows_after = digests(batch), row_digests(batch)
        assert [key for key in before if before[key] != after[key]] == [name]
        assert [i for i in range(3) if rows_before[i] != rows_after[i]] == [row]


class TestRuns:
    def test_every_event_is_written_and_the_run_ends_where_it_is_told(self, tmp_path: Path) -> None:
        data = make_data(write_corpus(tmp_path / "corpus.jsonl"))
        seen, recorder = Recorder(), RunRecorder(str(tmp_path / "first"), stop_at=3, save_every=4)
        trainer = make_trainer(tmp_path, 50, seen, recorder, accumulate_grad_batches=2)
        trainer.fit(make_model(), datamodule=data)
        written = records(tmp_path / "first")
        assert [record["n"] for record in written if record["kind"] == "batch"] == list(range(6))
        assert len(seen.batches) == 6
        losses = [float.fromhex(record["loss"]) for record in written if record["kind"] == "step"]
        assert losses == seen.losses
        assert [record["n"] for record in written if record["kind"] == "saving"] == [3]
        assert (tmp_path / "first" / "last.ckpt").is_file()  # of a run without validation, which would save none

    @pytest.mark.parametrize(("stop_at", "micro_batches"), [(3, [4, 5]), (2, [])])
    def test_a_resumed_run_counts_on(self, tmp_path: Path, stop_at: int, micro_batches: list[int]) -> None:
        corpus = write_corpus(tmp_path / "corpus.jsonl")
        for name, resumed_from, end in (("first", None, 2), ("second", tmp_path / "first" / "last.ckpt", stop_at)):
            recorder = RunRecorder(str(tmp_path / name), stop_at=end, save_every=4)
            trainer = make_trainer(tmp_path, 50, recorder, accumulate_grad_batches=2)
            trainer.fit(make_model(), datamodule=make_data(corpus), ckpt_path=resumed_from, weights_only=True)
        written = records(tmp_path / "second")
        assert [record["n"] for record in written if record["kind"] == "batch"] == micro_batches

    def test_an_unknown_place_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(TrainingError, match="kill_in is 'sleep'; it can be batch, validation, saving"):
            RunRecorder(str(tmp_path), 3, 1, 0, "sleep")
