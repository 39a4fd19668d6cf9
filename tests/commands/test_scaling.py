"""manage.py scaling fits small runs, promises, and shows by how much it missed."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from stubbed import without_training, write_base

from xlab.commands.scaling import scaling

BASE = ("--model.d_model=64", "--model.n_heads=8")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(scaling, list(map(str, arguments)))


@pytest.fixture
def base(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    without_training(monkeypatch)
    return write_base(tmp_path, corpus)


def test_the_law_of_the_runs_is_found_and_checked(base: Path) -> None:
    how = (base, *BASE, "--widths", "16,24,32,48", "--seeds", 2, "--budget", "768-tokens", "--over", "flops")
    result = call(*how)
    assert result.exit_code == 0, result.stderr
    assert "width 64 is promised a loss of" in result.stdout
    assert not Path("scaling/base/base").exists()
    result = call(*how, "--check")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("finished") == 2  # BASE's alone
    assert "it came to" in result.stdout
    found = json.loads(Path("scaling/base/scaling.json").read_text())
    assert len(found["points"]) == 8
    assert len(found["prediction"]["seen"]) == 2
    assert abs(found["prediction"]["miss"]) < 0.1
    assert Path("scaling/base/scaling.html").is_file()


def test_a_budget_can_follow_the_size(base: Path) -> None:
    how = ("--widths", "16,32", "--budget", "1-tokens-per-parameter", "--floor", 3)
    assert call(base, *BASE, *how).exit_code == 0
    plan = json.loads(Path("scaling/base/plan.json").read_text())["variants"]
    steps = [plan[name]["-"]["steps"] for name in ("width-16", "width-32", "base")]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--widths", "16,20", "--budget", "768-tokens"], "--widths 20 is no multiple of 8"),
        (["--widths", "16,128", "--budget", "768-tokens"], "--widths 128 is not below 64"),
        (["--widths", "16", "--budget", "768-tokens"], "give two different ones at least"),
        (["--widths", "16,x", "--budget", "768-tokens"], "are no whole numbers"),
        (["--widths", "16,32", "--budget", "1e9-flops"], "runs of equal flops trade tokens for size"),
        (["--widths", "16,32", "--budget", "768-tokens", "--seeds", "0"], "--seeds must be at least 1"),
    ],
)
def test_what_cannot_be_is_one_line(base: Path, arguments: list[str], named: str) -> None:
    result = call(base, *BASE, *arguments)
    assert result.exit_code == 2
    assert named in result.stderr
