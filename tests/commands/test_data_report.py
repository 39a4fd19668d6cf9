"""manage.py data-report prints the figures and writes the page."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from commands_setup import SMALL, options, write_corpus

from xlab.commands.data_report import data_report
from xlab.lab.report_page import MARK


def call(*arguments: object) -> Result:
    return CliRunner().invoke(data_report, list(map(str, arguments)))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The options of a run's data, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    own = {key: value for key, value in SMALL.items() if key.startswith("data.")}
    return options({**own, "data.source.paths": write_corpus(tmp_path / "corpus.jsonl")})


def test_it_reports_on_what_fit_would_train_on(data: list[str]) -> None:
    result = call(*data)
    assert result.exit_code == 0, result.stderr
    rows = {line.split("  ")[1]: line.split() for line in result.stdout.splitlines() if line.startswith("  ")}
    assert sum(int(count) for count in rows["documents"][1:]) == 120
    assert "windows of 16" in result.stdout
    assert result.stdout.endswith("written to report.html\n")
    page = Path("report.html").read_text(encoding="utf-8")
    assert page.startswith(MARK)
    assert f"<td>{rows['tokens'][1]}</td>" in page


def test_a_page_is_replaced_and_nothing_else(data: list[str]) -> None:
    assert call(*data, "-o", "mine.html").exit_code == 0
    assert call(*data, "-o", "mine.html").exit_code == 0
    names = {path.name for path in Path().iterdir()}
    assert names == {"corpus.jsonl", "mine.html", ".cache"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.vocab_sise=9"], "vocab_sise"),
        (["-o", "nowhere/report.html"], "is in a folder that does not exist"),
        (["-o", "."], "is a folder; name a file"),
        (["-o", "notes.html"], "notes.html is there already, and no data report, so it stays"),
        (["--data.source.paths=missing.jsonl"], "missing.jsonl"),
    ],
)
def test_what_cannot_be_is_one_line(data: list[str], arguments: list[str], message: str) -> None:
    Path("notes.html").write_text("<p>my notes")
    result = call(*data, *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if line]
    assert line.startswith("manage.py data-report: error: ")
    assert message in line
    assert Path("notes.html").read_text() == "<p>my notes"
    assert not Path("report.html").exists()
