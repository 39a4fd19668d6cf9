"""manage.py plan tells what a run takes, finds what is wrong with it, and writes nothing."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from commands_setup import small

from xlab.checkpoints import read
from xlab.commands.plan import plan, settings_of


def call(*arguments: object) -> Result:
    return CliRunner().invoke(plan, list(map(str, arguments)))


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path beneath a folder, with its size and time."""
    paths = (path for path in folder.rglob("*"))
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


def test_a_plan_beside_the_run_it_is_of(there: Path, corpus: Path) -> None:
    before = snapshot(there)
    result = call("--json", "--seconds=0.1", *small(corpus))
    assert result.exit_code == 0, result.output
    assert snapshot(there) == before
    made = json.loads(result.stdout)
    record = json.loads((there / "logs" / "version_0" / "run.json").read_text())
    assert made["parameters"]["total"] == record["parameters"]
    assert made["parameters"]["non_embedding"] == record["non_embedding_parameters"]
    assert made["flops_per_token"] == record["flops_per_token"]
    assert made["run"]["steps"] == record["steps"] == 6
    assert made["run"]["validations"] == 2
    assert made["data"]["origin"] == "prepared"
    assert made["data"]["cache"] is None
    weights = sum(weight.numel() * 4 for weight in read("logs/version_0").weights.values())
    assert made["memory"]["computed"]["gradients"] == weights
    last = (there / "logs" / "version_0" / "checkpoints" / "last.ckpt").stat().st_size
    assert 0.3 * last < made["disk"]["checkpoint"] < last  # the tokenizer and Lightning's progress come on top
    whole, measured = made["time"]["whole"], made["time"]["measured"]
    assert whole["low"] <= whole["median"] <= whole["high"]
    assert whole["median"] == pytest.approx(
        measured["start"] + made["time"]["training"] + made["time"]["validations"] + made["time"]["checkpoints"]
    )
    assert made["time"]["training"] == pytest.approx(6 * measured["step"]["median"])


def test_in_words(there: Path, corpus: Path) -> None:
    result = call("--no-steps", "--token-batch=256", *small(corpus))
    assert result.exit_code == 0, result.output
    rows = dict(line.strip().split("  ", 1) for line in result.stdout.splitlines() if line.startswith("  "))
    assert rows["tokens per step"].split()[0] == "128"
    assert rows["a step"].strip() == "not measured"
    assert rows["parameters"].split()[0] == f"{sum(w.numel() for w in read('logs/version_0').weights.values()):,}"
    assert "warning: batch × accumulation × ranks: 128 tokens" in result.stdout
    assert "set trainer.accumulate_grad_batches to 2" in result.stdout


def test_strict_ends_with_status_1_where_there_is_a_warning(there: Path, corpus: Path) -> None:
    wrong = call("--no-steps", "--strict", "--token-batch=256", *small(corpus))
    assert wrong.exit_code == 1
    sound = small(corpus, data__vocab_size=300, trainer__max_steps=6, model__schedule__warmup_steps=1)
    result = call("--no-steps", "--strict", *sound)
    found = [line for line in result.stdout.splitlines() if line.startswith(("warning", "error"))]
    assert result.exit_code == (1 if found else 0)


def test_where_nothing_is_prepared_nothing_is_made(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call("--no-steps", *small(corpus))
    assert result.exit_code == 0, result.output
    assert list(tmp_path.iterdir()) == []
    assert "note: data.cache_dir: .cache holds no prepared data" in result.stdout
    (told,) = (line for line in result.stdout.splitlines() if line.split()[:1] == ["data"])
    assert told.count("estimated") == 1
    assert "not prepared yet" in told


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data.batch_size=0"], "data.batch_size must be at least 1"),
        (["--modle.d_model=16"], "there is no setting 'modle.d_model'"),
        (["--model.n_heads=3"], "n_heads"),
        (["--seconds=0"], "--seconds must be above 0"),
        (["--data.source.paths=nowhere.jsonl"], "nowhere.jsonl"),
        (["-c", "missing.yaml"], "missing.yaml"),
    ],
)
def test_bad_input_is_one_line(there: Path, corpus: Path, options: list[str], said: str) -> None:
    result = call("--no-steps", *small(corpus), *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("manage.py plan: error: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_settings_are_fit_s(there: Path, corpus: Path) -> None:
    settings = settings_of(tuple(small(corpus, trainer__accumulate_grad_batches=3)))
    assert settings.accumulated == 3
    assert settings.model["vocab_size"] == 300
    assert settings.model["max_len"] == settings.data["seq_len"] == 16
    assert settings.validates
