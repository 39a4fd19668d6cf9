"""manage.py ablate trains what it says, and says in one line what cannot be."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from stubbed import without_training, write_base

from xlab.commands.ablate import ablate
from xlab.lab.overrides import run_seed
from xlab.lab.runs import find_runs

BUDGET = "--budget=768-tokens"  # six steps of 8 × 16


def call(*arguments: object) -> Result:
    return CliRunner().invoke(ablate, list(map(str, arguments)))


@pytest.fixture
def base(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_base(tmp_path, corpus)


def test_runs_of_fit_are_compared(base: Path) -> None:
    result = call(base, "--variant", "same=", "--seeds", 1, BUDGET)
    assert result.exit_code == 0, result.stderr
    assert [line.split()[2] for line in result.stdout.splitlines()[:3]] == ["status", "finished", "finished"]
    assert "One seed only" in result.stdout
    runs = {run.trial["variant"]: run for run in find_runs(["ablations/base"]) if run.trial}
    for name, run in runs.items():
        assert run.record["steps"] == 6  # which the schedule takes its end from
        assert run.settings["trainer"]["max_steps"] == 6
        assert run.settings["data"]["seed"] == 0
        assert run.settings["seed_everything"] == run_seed(0, name)
    assert runs["base"].last("val/loss") != runs["same"].last("val/loss")
    assert runs["base"].data_fingerprint == runs["same"].data_fingerprint


def test_a_variant_that_fails_leaves_the_others(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_training(monkeypatch)
    how = (base, "--variant", "bad=--model.optimizer.lr 1e3", "--variant", "same=", "--seeds", 1, BUDGET)
    first, again = call(*how), call(*how)
    assert first.exit_code == 0, first.stderr
    assert [line.split()[:3] for line in first.stdout.splitlines()[1:4]] == [
        *(["base", "0", "finished"], ["bad", "0", "failed"], ["same", "0", "finished"])
    ]
    assert "the loss is nan" in first.stdout
    assert "what failed is trained again with --retry" in first.stdout
    assert again.stderr == ""  # nothing is trained twice
    assert again.stdout == first.stdout


def test_a_grid_and_leaving_out(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_training(monkeypatch)
    words = "wide=--model.d_model 64 --model.n_heads 4"
    how = ("--no-base", "--grid", "model.optimizer.lr=1e-3,1e-2", "--leave-one-out", "--seeds", 2, BUDGET, "-o", "out")
    result = call(base, "--variant", words, *how)
    assert result.exit_code == 0, result.stderr
    assert "wide, on seed 0: lr=1e-3 1.7" in result.stdout
    trials = [json.loads(path.read_text()) for path in Path("out").glob("*/seed_*/trial.json")]
    names = ("wide", "wide-without-d_model", "wide-without-n_heads")
    assert sorted((trial["variant"], trial["seed"]) for trial in trials) == [(n, s) for n in names for s in (0, 1)]
    assert all(trial["overrides"].endswith("--model.optimizer.lr=1e-2") for trial in trials)
    assert "wide-without-d_model is worse by 0.125" in result.stdout
    settings = yaml.safe_load(Path("out/wide-without-n_heads/seed_1/settings.yaml").read_text())
    assert (settings["model"]["d_model"], settings["model"]["n_heads"], settings["data"]["seed"]) == (64, 2, 1)


def test_equal_operations_are_fewer_steps_of_a_larger_model(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_training(monkeypatch)
    assert call(base, "--variant", "wide=--model.d_model 64", "--budget", "1e9-flops", "-o", "out").exit_code == 0
    plan = json.loads(Path("out/plan.json").read_text())["variants"]
    assert 1 <= plan["wide"]["-"]["steps"] < plan["base"]["-"]["steps"]


def test_a_budget_of_many_epochs_is_noted_once(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_training(monkeypatch)
    result = call(base, "--variant", "same=", "--seeds", 1, "--budget=100k-tokens")
    assert result.exit_code == 0, result.stderr
    (note,) = [line for line in result.stderr.splitlines() if line.startswith("note: --budget 100k-tokens reads")]
    assert "times; beyond 4 epochs" in note


def test_equal_time_is_measured_once_for_what_takes_the_same(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_training(monkeypatch)
    measured: list[object] = []

    class Times:
        seconds_per_step = 0.5

    monkeypatch.setattr("xlab.lab.plan_time.measure", lambda words, modules: measured.append(words) or Times())
    wide = ("--variant", "wide=--model.d_model 64", "--variant", "low=--model.optimizer.lr 1e-4")
    assert call(base, *wide, "--budget", "3s", "-o", "out").exit_code == 0
    assert len(measured) == 2
    other = call(base, *wide, "--budget", "3s", "-o", "out", "--data.batch_size", 4)
    assert other.exit_code == 2
    assert "was planned with data.batch_size of base 8, now 4; name another folder with -o" in other.stderr
    monkeypatch.setattr(Times, "seconds_per_step", 0.25)  # another day
    assert call(base, *wide, "--budget", "3s", "-o", "out").exit_code == 0
    plan = json.loads(Path("out/plan.json").read_text())["variants"]
    assert {place["-"]["steps"] for place in plan.values()} == {6}


def test_an_array_job_is_written_and_not_handed_in(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = call(base, "--variant", "same=", "--seeds", 2, "--slurm", "--parallel", 4, BUDGET, "-o", "out")
    assert result.exit_code == 0, result.stderr
    assert "4 trials wait; hand them in with: sbatch" in result.stdout
    assert "#SBATCH --array=0-3%4" in Path("out/array.sbatch").read_text()
    assert not list(Path("out").glob("**/logs"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--variant", "a=--data.seq_len 8"], "a: it changes the data: data.seq_len is 8, in the base 16"),
        (["--variant", "a=--trainer.max_steps 9"], "a: trainer.max_steps cannot be set to 9"),
        (["--variant", "a=--model.d_modle 9"], "a: there is no setting 'model.d_modle'; did you mean 'model.d_model'"),
        (["--variant", "a=--model.n_heads 3"], "a: d_model must be divisible by n_heads"),
        (["--variant", "a=", "--variant", "a="], "two variants are called a"),
        ([], "there is nothing to compare; name a variant"),
        (["--variant", "a=", "--seeds", "0"], "--seeds must be at least 1"),
        (["--variant", "a=", "--budget", "100-tokens"], "base: --budget 100-tokens does not pay for one optimiser"),
        (["--variant", "a=", "--trainer.max_epochs", "1", "--budget", "1M-tokens"], "trainer.max_epochs 1 allows"),
        (["--variant", "a=", "--trainer.max_time", "00:00:01:00"], "trainer.max_time may end trials"),
        (["--variant", "a=", "--trainer.limit_val_batches", "0"], "compared by their validation, and there is none"),
        (["--variant", "a=", "--budget", "128-tokens"], "warmup_steps is 1, which does not fit into a run of 1 steps"),
    ],
)
def test_what_cannot_be_is_one_line(base: Path, arguments: list[str], named: str) -> None:
    result = call(base, BUDGET, *arguments)
    assert result.exit_code == 2
    assert named in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("manage.py")]) == 1
    assert not list(Path().glob("ablations/*/plan.json"))


def test_a_base_comes_first(base: Path) -> None:
    for arguments in ([], ["none.yaml"], ["--data.seq_len", "8", base]):
        result = call(BUDGET, "--variant", "a=", *arguments)
        assert result.exit_code == 2
        assert "name the configuration to start from first" in result.stderr
