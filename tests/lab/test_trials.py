"""A trial trains in a process of its own, goes on where it was, and its folder always says how far it is."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from stub_trials import STEPS, trial

from xlab.errors import ConfigError
from xlab.lab.runs import find_runs
from xlab.lab.trials import Training, TrialFolder, last_words, main

ROOT = Path(__file__).parents[2]


def wait_until(holds: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.01)


def to_its_end(folder: TrialFolder) -> str:
    training = Training(folder)
    wait_until(training.ended)
    return folder.status


def test_a_trial_is_a_folder_that_says_what_it_is(tmp_path: Path) -> None:
    folder = trial(tmp_path / "base" / "seed_0")
    assert folder.status == "waiting"
    written = yaml.safe_load((folder.path / "settings.yaml").read_text())
    assert (written["seed_everything"], written["data"]["seed"], written["trainer"]["max_steps"]) == (7, 0, STEPS)
    assert to_its_end(folder) == "finished"
    record = json.loads((folder.path / "trial.json").read_text())
    assert {"variant", "seed", "overrides", "budget", "steps", "wall_seconds"} <= record.keys()
    assert folder.final("val/bits_per_byte") == pytest.approx(2.0, abs=1e-3)
    (run,) = find_runs([tmp_path])
    assert run.trial == record


def test_what_fails_keeps_the_line_that_says_why(tmp_path: Path) -> None:
    folder = trial(tmp_path / "t", fail_at=2)
    assert to_its_end(folder) == "failed"
    assert folder.record["error"] == "the loss is nan"
    assert folder.final("val/bits_per_byte") is None


def test_a_killed_run_is_known_by_its_signal_and_goes_on(tmp_path: Path) -> None:
    folder = trial(tmp_path / "t", hold_at=2, go=str(tmp_path / "go"))
    training = Training(folder)
    checkpoint = folder.path / "logs" / "version_0" / "checkpoints" / "last.ckpt"
    wait_until(lambda: checkpoint.exists() and json.loads(checkpoint.read_text())["step"] == 2)
    os.killpg(training.process, signal.SIGKILL)
    wait_until(training.ended)
    assert "killed by signal 9" in folder.record["error"]
    (tmp_path / "go").touch()
    assert to_its_end(folder) == "finished"
    run = folder.run
    assert run is not None
    assert run.series("val/loss").steps.tolist() == [1, 2, 3, 4]  # none twice, none left out
    assert run.record["first_step"] == 2


def test_one_that_is_told_to_end_is_interrupted(tmp_path: Path) -> None:
    folder = trial(tmp_path / "t", hold_at=1, go=str(tmp_path / "go"))
    training = Training(folder)
    wait_until(lambda: folder.run)
    assert folder.status == "running"
    training.interrupt()
    training.wait()
    assert folder.status == "interrupted"


def test_two_processes_never_train_the_same_trial(tmp_path: Path) -> None:
    folder = trial(tmp_path / "t", hold_at=1, go=str(tmp_path / "go"))
    training = Training(folder)
    with pytest.raises(ConfigError, match="another process trains in"):
        Training(folder)
    (tmp_path / "go").touch()
    wait_until(training.ended)
    assert not folder.is_locked()


def test_a_run_outlives_who_started_it_and_is_finished(tmp_path: Path) -> None:
    folder = trial(tmp_path / "t", hold_at=1, go=str(tmp_path / "go"))
    script = (
        f"from pathlib import Path; from xlab.lab.trials import *; import time\n"
        f"Training(TrialFolder(Path({str(folder.path)!r}))); time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    try:
        wait_until(lambda: folder.run)
    finally:
        starter.kill()
        starter.wait()
    assert folder.status == "running"
    (tmp_path / "go").touch()
    wait_until(lambda: not folder.is_locked())
    assert folder.status == "finished"


def test_a_job_trains_one_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, bad = trial(tmp_path / "t"), trial(tmp_path / "bad", fail_at=0)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main(str(folder.path)) == 0
        assert main(str(folder.path)) == 0  # a task that is started again has nothing to do
        assert main(str(bad.path)) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().out.splitlines()[-1] == "base seed 0: failed  the loss is nan"
    assert len(list(folder.path.glob("logs/*"))) == 1


def test_last_words_are_those_of_the_last_attempt(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("xlab.py fit: error: of yesterday\n")
    begin = log.stat().st_size
    log.write_text(log.read_text() + "step 1\nstep 2\n")
    assert last_words(log, begin, 1) == "step 2"
    assert last_words(log, 0, 1) == "of yesterday"
    assert last_words(log, log.stat().st_size, 1) == "without a word"


def test_what_is_no_trial_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(str(tmp_path)) == 2
    assert "is no trial's folder" in capsys.readouterr().err
