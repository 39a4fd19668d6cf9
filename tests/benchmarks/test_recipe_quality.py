"""recipe_quality compares recipes at their best rate, names what it cannot run, and says what the marks speak of."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import recipe_quality
from benchmarks.recipe_quality import QUICK, RECIPES, RUNNABLE, main, run
from benchmarks.recipe_report import as_markdown, reach
from xlab.errors import ConfigError
from xlab.lab.runs import Run

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
    assert reach([ours], [rival], "tokens") == [pytest.approx(150 / 400)]
    assert reach([ours], [rival], "seconds") == [pytest.approx(3 / 8)]
    assert reach([rival], [ours], "tokens") == [float("inf")]
    assert reach([ours], [a_run(tmp_path / "other", [3.0], seed=1)], "tokens") is None


def test_a_recipe_that_lacks_parts_is_refused_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="the recipe nanochat cannot be trained yet; XLab lacks Muon"):
        run(["nanochat"], tmp_path / "out", seeds=1, budget="1k-tokens")
    assert main(["--recipes", "nanochat", "-o", str(tmp_path / "out")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert "nanochat" not in RUNNABLE


def test_every_recipe_has_three_rates_and_its_file(tmp_path: Path) -> None:
    for name in RUNNABLE:
        recipe = RECIPES[name]
        assert len(set(recipe.rates)) == 3
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
    assert first["recipes"]["xlab"]["rate"] == "0.006"  # to the stub the nearest to 0.01 is the best
    assert first["missing"].keys() == {"nanochat"}
    assert run(["xlab", "nanogpt"], tmp_path / "out", **how)["recipes"] == first["recipes"]
    page = as_markdown({**first, "command": "c"})
    assert "| nanochat | not run |" in page
    assert "the mark is 25%" in page
