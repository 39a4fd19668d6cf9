"""A search ends what falls behind, survives what fails, and goes on where it was."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from stub_trials import COMMAND, STEPS, settings

from xlab.errors import ConfigError
from xlab.lab import sweep as sweep_module
from xlab.lab.search_space import Dimension
from xlab.lab.sweep import Sweep
from xlab.lab.trials import Trial, TrialFolder

optuna = pytest.importorskip("optuna", reason="a sweep needs Optuna")

SPACE = [Dimension("x", 0.0, 1.0)]


def make(words: Sequence[str]) -> tuple[dict[str, Any], int]:
    x = float(words[0].partition("=")[2])
    if x > 0.9:
        raise ConfigError("x is too large for a model")
    return settings(2 + x), STEPS


def search(folder: Path, n_trials: int, making: Any = make, **how: Any) -> tuple[Sweep, list[str]]:
    trial = Trial("", 0, 7, "", "4-tokens", 0, COMMAND, str(folder))
    said: list[str] = []
    found = Sweep(folder, SPACE, make=making, trial=trial, **how)
    found.train(n_trials, [{}] * 2, say=said.append)
    return found, said


def test_the_best_comes_first_and_what_fails_is_told(tmp_path: Path) -> None:
    found, said = search(tmp_path, 8, seed=1)
    trials = found.found()
    finished = [trial for trial in trials if trial.status == "finished"]
    assert [trial.figure for trial in finished] == sorted(trial.figure or 0.0 for trial in finished)
    assert finished[0].figure == pytest.approx(2 + finished[0].values["x"], abs=1e-2)
    failed = [trial for trial in trials if trial.status == "failed"]
    assert all(trial.error == "x is too large for a model" for trial in failed)
    assert len(trials) == 8
    assert sum("failed: x is too large" in line for line in said) == len(failed)


def test_it_goes_on_with_other_proposals(tmp_path: Path) -> None:
    search(tmp_path, 3)
    found, said = search(tmp_path, 5)
    assert len({trial.values["x"] for trial in found.found()}) == 5
    assert sum("--x=" in line for line in said) + sum("failed" in line for line in said) == 2
    _, said = search(tmp_path, 5)
    assert said == []


def test_what_was_interrupted_keeps_its_values(tmp_path: Path) -> None:
    found, _ = search(tmp_path, 1)
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    # seeded: one in twenty of the proposals is too large for a model
    study = optuna.load_study(study_name="sweep", storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))
    proposal = study.ask()
    word = SPACE[0].word(proposal)  # and the search was killed
    found, said = search(tmp_path, 2)
    assert said[0] == f"trial_1: {word}"
    assert {trial.status for trial in found.found()} == {"finished"}


def test_what_falls_behind_is_ended(tmp_path: Path) -> None:
    class NeverAgain(optuna.pruners.BasePruner):  # type: ignore[misc]
        def prune(self, study: Any, trial: Any) -> bool:
            return bool(trial.number == 1)

    def held(words: Sequence[str]) -> tuple[dict[str, Any], int]:
        is_second = (tmp_path / "trial_0" / "seed_0").exists()
        never = {"hold_at": 2, "go": str(tmp_path / "never")} if is_second else {}
        return settings(2.0, **never), STEPS

    found, said = search(tmp_path, 2, held, pruner=NeverAgain())
    assert {trial.number: trial.status for trial in found.found()} == {0: "finished", 1: "pruned"}
    folder = TrialFolder(tmp_path / "trial_1" / "seed_0")
    assert folder.status == "pruned"
    assert not folder.is_locked()  # its process has gone
    assert "trial_1: behind the others, ended" in said


def test_without_optuna_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match="pip install optuna"):
        sweep_module.needed()
