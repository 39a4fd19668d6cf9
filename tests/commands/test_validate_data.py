"""manage.py validate-data: what it finds, where it writes it, and its exit status."""

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from commands_setup import SMALL, options, write_corpus

from xlab.commands.validate_data import validate_data


def call(*arguments: object) -> Result:
    return CliRunner().invoke(validate_data, list(map(str, arguments)))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The options of a run's data, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    own = {key: value for key, value in SMALL.items() if key.startswith("data.")}
    return options({**own, "data.source.paths": write_corpus(tmp_path / "corpus.jsonl")})


def add(*texts: str) -> None:
    with Path("corpus.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)


def test_clean_data_end_with_0(data: list[str]) -> None:
    result = call(*data, "--csv", "found.csv")
    assert result.exit_code == 0, result.stderr
    counts = {line.split()[0]: line.split() for line in result.stdout.splitlines() if "  " in line}
    assert sum(int(count) for count in counts["documents"][1:]) == 120
    for problem in ("lossy", "empty", "duplicate", "overlap"):
        assert set(counts[problem][-4:]) == {"0"}
    assert Path("found.csv").read_text() == "split,document,source,problem,detail,excerpt,digest\n"


def test_findings_end_with_1_and_are_all_in_the_csv(data: list[str]) -> None:
    first = "Document 0: the module counts 0 words, and returns the 0th of them."
    add(*["A text, that comes, so often."] * 30, " \n ", first)
    result = call(*data, "--csv", "found.csv")
    assert result.exit_code == 1, result.stderr
    with Path("found.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["problem"] for row in rows].count("duplicate") == 30
    assert [row["problem"] for row in rows].count("empty") == 1
    assert {row["excerpt"] for row in rows} == {"A text, that comes, so often.", " \n ", first}
    assert all(row["source"] == f"JsonLines {Path('corpus.jsonl').absolute()}" for row in rows)
    assert "… and 11 more; --csv FILE has them all" in result.stdout


def test_two_splits_may_hold_the_same(data: list[str]) -> None:
    add_to = Path("val.jsonl")
    add_to.write_text(Path("corpus.jsonl").read_text().splitlines()[0] + "\n")
    result = call(*data, "--data.val_source=JsonLines", "--data.val_source.paths=val.jsonl")
    assert result.exit_code == 1, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if "first as" in line]
    assert line.startswith("val 0 ")
    assert "overlap" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.vocab_sise=9"], "vocab_sise"),
        (["--csv", "nowhere/found.csv"], "is in a folder that does not exist"),
        (["--csv", "."], "is a folder; name a file"),
        (["--csv", "notes.csv"], "notes.csv is there already, and no findings, so it stays"),
        (["--data.source.paths=missing.jsonl"], "missing.jsonl"),
    ],
)
def test_what_cannot_be_is_one_line(data: list[str], arguments: list[str], message: str) -> None:
    Path("notes.csv").write_text("my notes\n")
    result = call(*data, *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if line]
    assert line.startswith("manage.py validate-data: error: ")
    assert message in line
    assert Path("notes.csv").read_text() == "my notes\n"


def test_older_findings_are_replaced(data: list[str]) -> None:
    add("Twice.", "Twice.")
    assert call(*data, "--csv", "found.csv").exit_code == 1
    before = Path("found.csv").read_text()
    assert call(*data, "--csv", "found.csv").exit_code == 1
    assert Path("found.csv").read_text() == before
    assert [path.name for path in Path().iterdir() if "found" in path.name] == ["found.csv"]


def test_damaged_tokens_are_one_line(data: list[str]) -> None:
    assert call(*data).exit_code == 0
    (stored,) = Path(".cache").glob("*/train.bin")
    with stored.open("r+b") as file:
        file.write((60_000).to_bytes(2, "little"))
    result = call(*data)
    assert result.exit_code == 2
    assert "holds token 60000" in result.stderr
