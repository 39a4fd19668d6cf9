"""Runs are read as they lie there, whole or half-written."""

import json
import math
import os
import socket
from pathlib import Path

import numpy as np
import pytest

from tests.lab.made_up_runs import write_run, write_trial
from xlab.errors import DataError
from xlab.lab.runs import Run, find_runs, run_folders


def test_a_series_knows_what_each_point_cost(tmp_path: Path) -> None:
    series = Run(write_run(tmp_path / "a", (3.0, 2.5))).series("val/bits_per_byte")
    assert series.values.tolist() == [3.0, 2.5]
    assert series.steps.tolist() == [10, 20]
    assert series.tokens.tolist() == [640, 1280]
    assert series.seconds.tolist() == [5, 10]
    assert series.flops.tolist() == [640_000, 1_280_000]


def test_what_lies_between_validations_is_interpolated(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", (3.0, 2.5))
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "train/loss": 9.0}\n{"step": 29, "train/loss": 1.0}\n')
    series = Run(folder).series("train/loss")
    assert series.steps.tolist() == [5, 10, 20, 30]
    assert series.tokens.tolist() == [320, 640, 1280, 1920]
    assert series.values.tolist() == [9.0, 6.0, 5.0, 1.0]


def test_an_older_run_has_tokens_by_its_settings(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    write_run(folder)
    (folder / "run.json").unlink()
    (folder / "metrics.jsonl").write_text('{"step": 9, "val/loss": 2.0}\n')
    run = Run(folder)
    series = run.series("val/loss")
    assert series.tokens.tolist() == [10 * 4 * 16]
    assert math.isnan(series.seconds[0])
    assert math.isnan(series.flops[0])
    assert run.status == "unknown"


@pytest.mark.parametrize("rest", ['{"step": 39, "val/bits_per', "", '{"step": 39}\n\n', "\x00\x00\x00"])
def test_a_half_written_end_is_passed_over(tmp_path: Path, rest: str) -> None:
    folder = write_run(tmp_path / "a")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(rest)
    run = Run(folder)
    assert run.series("val/bits_per_byte").values.tolist() == [3.0, 2.5, 2.2]


def test_broken_lines_are_counted_and_odd_values_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('oops\n[1]\n{"step": 39, "val/bits_per_byte": "two", "note": [1, [2]]}\n')
        file.write('{"val/bits_per_byte": 7}\n{"step": 49, "val/bits_per_byte": NaN}\n')
    run = Run(folder)
    assert run.broken_lines == 2
    assert run.series("val/bits_per_byte").values[:3].tolist() == [3.0, 2.5, 2.2]
    assert len(run.series("val/bits_per_byte")) == 4
    assert math.isnan(run.last("val/bits_per_byte"))
    assert "note" not in run.metrics


def test_a_metric_that_was_not_logged_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no val/x; it logged lr, "):
        Run(write_run(tmp_path / "a")).series("val/x")


def test_a_resumed_run_has_its_past(tmp_path: Path) -> None:
    write_run(tmp_path / "logs" / "version_0", (3.0, 2.5, 2.9))
    resumed = {"resumed_from": "elsewhere/logs/version_0/checkpoints/last.ckpt"}
    folder = write_run(tmp_path / "logs" / "version_1", (2.1, 2.0), first_step=20, record=resumed)
    series = Run(folder).series("val/bits_per_byte")
    assert series.steps.tolist() == [10, 20, 30, 40]
    assert series.values.tolist() == [3.0, 2.5, 2.1, 2.0]  # what was done again counts once
    assert (np.diff(series.tokens) > 0).all()


def test_a_resumed_run_is_told_with_the_tokenizer_that_it_began_with(tmp_path: Path) -> None:
    write_run(tmp_path / "logs" / "version_0", data__tokenizer__class_path="ByteLevelBPE")
    resumed = {"resumed_from": "logs/version_0/checkpoints/last.ckpt"}
    folder = write_run(
        tmp_path / "logs" / "version_1",
        first_step=30,
        record=resumed,
        data__tokenizer__class_path="CheckpointTokenizer",
        trainer__max_steps=99,
    )
    settings = Run(folder).settings
    assert settings["data"]["tokenizer"]["class_path"] == "ByteLevelBPE"
    assert settings["trainer"]["max_steps"] == 99


def test_a_run_that_names_itself_ends(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "version_0", record={"resumed_from": str(tmp_path / "version_0")})
    assert len(Run(folder).series("val/loss")) == 3


@pytest.mark.parametrize(
    ("record", "status"),
    [
        ({"status": "finished"}, "finished"),
        ({"status": "failed", "error": "x"}, "failed"),
        ({"status": "running", "host": socket.gethostname(), "process": os.getpid()}, "running"),
        ({"status": "running", "host": socket.gethostname(), "process": 2**22 + 1}, "killed"),
        ({"status": "running", "host": "somewhere else", "process": 2**22 + 1}, "running"),
    ],
)
def test_status(tmp_path: Path, record: dict[str, object], status: str) -> None:
    assert Run(write_run(tmp_path / "a", record=record)).status == status


def test_runs_are_found_in_natural_order_and_once(tmp_path: Path) -> None:
    for number in (0, 2, 10):
        write_run(tmp_path / "logs" / f"version_{number}")
    (tmp_path / ".hidden").mkdir()
    write_run(tmp_path / ".hidden" / "version_0")
    (tmp_path / "around").symlink_to(tmp_path)
    names = [folder.name for folder in run_folders(tmp_path)]
    assert names == ["version_0", "version_2", "version_10"]
    found = find_runs([tmp_path, f"{tmp_path}/logs/version_*", tmp_path / "logs" / "version_2"])
    assert [run.folder.name for run in found] == names


def test_a_trial_has_the_newest_of_its_runs(tmp_path: Path) -> None:
    trial = write_trial(tmp_path, "wide", 3, (3.0, 2.0))
    write_run(trial / "logs" / "version_1", (3.0, 1.0), seed=3)
    write_trial(tmp_path, "base", 3, (3.0, 2.5))
    (tmp_path / "late" / "seed_3").mkdir(parents=True)
    waiting = {"variant": "late", "seed": 3, "status": "waiting"}
    (tmp_path / "late" / "seed_3" / "trial.json").write_text(json.dumps(waiting))
    found = {run.name: run for run in find_runs([tmp_path])}
    assert list(found) == ["base seed 3", "late seed 3", "wide seed 3"]
    assert found["wide seed 3"].folder.name == "version_1"
    assert found["wide seed 3"].seed == 3
    assert found["late seed 3"].status == "waiting"
    (one,) = find_runs([trial / "logs" / "version_0"])  # who names a run means it
    assert (one.folder.name, one.trial is not None) == ("version_0", True)


def test_candidates_are_no_results(tmp_path: Path) -> None:
    write_trial(tmp_path, "base", 0, (3.0, 2.0))
    candidate = write_trial(tmp_path, "lr-3", 0, (3.0, 2.0))
    (candidate / "trial.json").rename(candidate / "candidate.json")
    assert [run.name for run in find_runs([tmp_path])] == ["base seed 0"]
    assert len(find_runs([candidate / "logs" / "version_0"])) == 1


def test_nothing_to_find_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no .*nowhere"):
        find_runs([tmp_path / "nowhere"])
    with pytest.raises(DataError, match="no run under"):
        find_runs([tmp_path])


def test_half_written_records_are_none(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "run.json").write_text('{"status": "fin')
    (folder / "config.yaml").write_text("model: [")
    run = Run(folder)
    assert (run.record, run.settings, run.seed) == ({}, {}, None)
    assert run.step == 30
