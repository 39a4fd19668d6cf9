"""manage.py sweep searches over the runs that ablate compares, and goes on where it was."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from stubbed import without_training, write_base

from xlab.commands.sweep import sweep

pytest.importorskip("optuna", reason="a sweep needs Optuna")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(sweep, [*map(str, arguments), "--budget=768-tokens"])


@pytest.fixture
def base(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    without_training(monkeypatch)
    return write_base(tmp_path, corpus)


def test_it_finds_and_goes_on(base: Path) -> None:
    space = ("--space", "model.optimizer.lr=1e-4..1e-1:log", "--space", "model.n_heads=1,2")
    first = call(base, *space, "--trials", 2)
    assert first.exit_code == 0, first.stderr
    second = call(base, *space, "--trials", 4)
    assert second.exit_code == 0, second.stderr
    assert not any(line.startswith(("trial_0", "trial_1")) for line in second.stderr.splitlines())
    assert "the best: --model.optimizer.lr=" in second.stdout
    other = call(base, "--space", "model.optimizer.lr=1e-4..1:log", "--trials", 6)
    assert other.exit_code == 2
    assert "was planned with space" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "there is nothing to search"),
        (["--space", "data.seed=1..3"], "data.seed: it is the trial's seed"),
        (["--space", "model.optimizer.lr=1..2", "--trials", "0"], "--trials must be at least 1"),
    ],
)
def test_what_cannot_be_is_one_line(base: Path, arguments: list[str], named: str) -> None:
    result = call(base, *arguments)
    assert result.exit_code == 2
    assert named in result.stderr


def test_a_proposal_that_changes_the_data_fails_alone(base: Path) -> None:
    result = call(base, "--space", "data.seq_len=8,32", "--trials", 1)
    assert result.exit_code == 0
    assert "failed: it changes the data: data.seq_len" in result.stderr
