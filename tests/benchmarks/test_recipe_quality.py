"""recipe_quality compares recipes at their best rate and says what the marks speak of."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks import recipe_quality
from benchmarks.recipe_quality import QUICK, RECIPES, run
from benchmarks.recipe_report import as_markdown, at_equal_time, reach
from benchmarks.recipe_speed import cost, keep_speed, known_speed, time_recipes
from tests.conftest import ROOT
from xlab.errors import ConfigError
from xlab.lab.plan_time import Spread, StepTimes
from xlab.lab.runs import Run

RATE_OF = {"--model.optimizer.lr=0.008": "xlab", "--model.optimizer.lr=0.004": "nanogpt"}
STUB = Path(__file__).parents[1] / "lab" / "stub_fit.py"


def a_run(folder: Path, figures: list[float], seed: int = 0) -> Run:
    folder.mkdir()
    rows = [
        {"step": i, "val/bits_per_byte": figure, "tokens": 100 * (i + 1), "train_seconds": 2.0 * (i + 1)}
        for i, figure in enumerate(figures)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Run(folder, trial={"seed": seed})


def test_reach_is_where_the_curve_meets_the_rivals_end(tmp_path: Path) -> None:
    rival = a_run(tmp_path / "rival", [4.0, 3.5, 3.2, 3.0])
    ours = a_run(tmp_path / "ours", [4.0, 2.0, 2.5, 1.0])
    assert reach([ours], [rival]) == [pytest.approx(150 / 400)]
    assert reach([ours], [rival], costs=(2.0, 1.0)) == [pytest.approx(2 * 150 / 400)]
    assert reach([rival], [ours]) == [float("inf")]
    assert reach([ours], [a_run(tmp_path / "other", [3.0], seed=1)]) is None


def test_at_equal_time_a_slower_run_is_cut_and_a_faster_one_counts_at_its_end(tmp_path: Path) -> None:
    ours = [a_run(tmp_path / f"ours{seed}", [4.0, 2.0, 1.5, 1.0 + seed], seed=seed) for seed in range(2)]
    rival = [a_run(tmp_path / f"rival{seed}", [4.0, 3.5, 3.2, 3.0], seed=seed) for seed in range(2)]
    slower = at_equal_time(ours, rival, costs=(2.0, 1.0))
    assert slower is not None
    assert (slower.difference, slower.n) == (pytest.approx(1.0), 2)
    faster = at_equal_time(ours, rival, costs=(1.0, 2.0))
    assert faster is not None
    assert faster.difference == pytest.approx(1.5)
    assert faster.half_width is not None
    assert at_equal_time(ours, rival, costs=(8.0, 1.0)) is None
    assert at_equal_time(ours, [a_run(tmp_path / "other", [3.0], seed=7)], costs=(1.0, 1.0)) is None


def step_times(seconds: float, tokens: int = 100) -> StepTimes:
    spread = Spread(seconds, seconds, seconds, 5)
    return StepTimes(spread, tokens, None, 0.0, 0, 1.0, None, "cpu", 1)


def test_recipes_are_timed_in_turns_and_the_median_counts(tmp_path: Path) -> None:
    turns = []

    def measure(words: list[str], *, seconds: float) -> StepTimes:
        turns.append(words[0])
        return step_times(
            {"a": 1.0, "b": 3.0}[words[0]] * (10 if len(turns) == 3 else 1)
        )  # the second a met a neighbour

    speed = time_recipes({"ours": ["a"], "theirs": ["b"]}, rounds=3, measure=measure)
    assert turns == ["a", "b"] * 3
    assert cost(speed, "ours") == pytest.approx(0.01)
    assert cost(speed, "theirs") == pytest.approx(0.03)
    assert known_speed(tmp_path, ["ours"]) is None
    keep_speed(tmp_path, speed)
    assert known_speed(tmp_path, ["ours", "theirs"]) == speed
    assert known_speed(tmp_path, ["ours", "another"]) is None


def test_figures_of_time_that_cannot_be_read_are_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "speed.json").write_text("[1")
    with pytest.raises(ConfigError, match=r"speed\.json cannot be read .* time the recipes again with --speed"):
        known_speed(tmp_path, ["xlab"])


def test_peers_have_three_rates_and_their_file_and_ours_is_the_default() -> None:
    defaults = yaml.safe_load((ROOT / "conf" / "defaults.yaml").read_text(encoding="utf-8"))
    assert RECIPES["xlab"].rates == (defaults["model"]["optimizer"]["init_args"]["lr"],)
    for name, recipe in RECIPES.items():
        assert name == "xlab" or len(set(recipe.rates)) == 3
        assert recipe.file is None or (recipe_quality.RECIPES_FOLDER / recipe.file).is_file()


def test_it_runs_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_quality, "fit_command", lambda: [sys.executable, str(STUB)])
    (tmp_path / "text.txt").write_text("".join(f"The {i}th line of {i * i} says {i % 7}.\n\n" for i in range(600)))
    data = ["--data.source=TextFiles", f"--data.source.paths={tmp_path / 'text.txt'}", "--data.source.section_chars=64"]
    settings = [*data, f"--data.cache_dir={tmp_path / 'cache'}", *QUICK]
    how = {"seeds": 2, "budget": "1024-tokens", "settings": settings, "quick": True}
    first = run(["xlab", "nanogpt"], tmp_path / "out", **how)
    assert first["failed"] == []
    assert len(first["recipes"]["nanogpt"]["figures"]) == 2
    assert first["recipes"]["nanogpt"]["rate"] == "0.004"  # to the stub the nearest to 0.01 is the best
    assert first["recipes"]["xlab"]["rate"] == "0.008"
    assert first["shares"]["seconds"] is None
    untimed = as_markdown({**first, "command": "c"})
    assert "Nothing is said of time" in untimed
    trained = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("metrics.jsonl")}
    rates = {"xlab": 100, "nanogpt": 200}
    monkeypatch.setattr(
        recipe_quality,
        "time_recipes",
        lambda words, rounds: time_recipes(
            words, rounds=rounds, measure=lambda own, seconds: step_times(rates[RATE_OF[own[-1]]])
        ),
    )
    timed = run(["xlab", "nanogpt"], tmp_path / "out", **how, rounds=2)
    assert trained == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("metrics.jsonl")}
    assert timed["recipes"]["xlab"]["seconds_per_token"] == pytest.approx(1.0)
    again = run(["xlab", "nanogpt"], tmp_path / "out", **how)
    assert again["recipes"] == timed["recipes"]
    assert again["shares"]["seconds"] == pytest.approx([share / 2 for share in again["shares"]["tokens"]])
    first = again
    page = as_markdown({**first, "command": "c"})
    assert "the mark is 25%" in page
    assert "the mark is 35%" in page
    assert "nanogpt − xlab at equal time is " in page
    assert first["equal_time"]["nanogpt"]["n"] == 2
    assert "the median of 2 rounds in turns" in page
