"""./manage.py runs lists what lies there, and removes nothing but runs."""

import json
import os
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.lab.made_up_runs import write_run
from xlab.commands.runs import runs


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_run(Path("logs/version_0"), (3.0, 2.0))
    write_run(Path("logs/version_1"), (3.0, 2.5, 1.5), model__d_model=64, record={"status": "interrupted"})
    write_run(Path("logs/version_10"), (3.0,), model__d_model=128, record={"status": "failed"})
    write_run(Path("logs/version_2"), (), record={"status": "failed"})
    return tmp_path


def invoke(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(runs, list(arguments), input=answer)


def names(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [line.split()[0].rpartition("/")[2] for line in result.output.splitlines()[1:]]


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], ["version_0", "version_1", "version_2", "version_10"]),
        (["--sort", "-name"], ["version_10", "version_2", "version_1", "version_0"]),
        (["--sort", "val/loss"], ["version_1", "version_0", "version_10", "version_2"]),
        (["--sort", "-val/loss"], ["version_10", "version_0", "version_1", "version_2"]),
        (["--sort", "-step"], ["version_1", "version_0", "version_10", "version_2"]),
        (["--filter", "status=failed"], ["version_2", "version_10"]),
        (["--filter", "status!=failed"], ["version_0", "version_1"]),
        (["--filter", "val/bits_per_byte<2.5"], ["version_0", "version_1"]),
        (["--filter", "model.d_model>=64", "--filter", "step > 10"], ["version_1"]),
        (["--filter", "name=*_1*"], ["version_1", "version_10"]),
        (
            ["--filter", "model.optimizer=adamw", "--filter", "seed=0"],
            ["version_0", "version_1", "version_2", "version_10"],
        ),
    ],
)
def test_sort_and_filter(there: Path, arguments: list[str], wanted: list[str]) -> None:
    assert names(invoke(*arguments)) == wanted


def test_the_table_has_what_was_reached(there: Path) -> None:
    head, first, *_ = invoke().output.splitlines()
    assert head.split() == ["run", "status", "step", "val/loss", "val/bits_per_byte", "minutes", "size"]
    assert first.split()[:6] == ["logs/version_0", "finished", "20", "4.0000", "2.0000", "0.2"]


def test_tags_and_notes_stay(there: Path) -> None:
    given = [
        "--tag",
        "logs/version_0",
        "keep",
        "--tag",
        "logs/version_0",
        "wide",
        "--note",
        "logs/version_0",
        "as in May",
    ]
    assert invoke(*given).exit_code == 0
    assert json.loads(Path("logs/version_0/notes.json").read_text()) == {"tags": ["keep", "wide"], "note": "as in May"}
    assert names(invoke("--filter", "tag=keep")) == ["version_0"]
    assert names(invoke("--filter", "tag!=keep")) == ["version_1", "version_2", "version_10"]
    assert "keep, wide  as in May" in invoke().output
    assert invoke("--untag", "logs/version_0", "keep", "--note", "logs/version_0", "").exit_code == 0
    assert json.loads(Path("logs/version_0/notes.json").read_text()) == {"tags": ["wide"], "note": ""}
    assert list(Path("logs/version_0").glob(".notes*")) == []


def test_removal_asks(there: Path) -> None:
    assert "remove logs/version_1, interrupted at step 30" in invoke("--remove", "logs/version_1", answer="n\n").output
    assert Path("logs/version_1").is_dir()
    assert "removed logs/version_1" in invoke("--remove", "logs/version_1", answer="y\n").output
    assert invoke("--remove", "logs/version_2", "--yes").exit_code == 0
    assert sorted(path.name for path in Path("logs").iterdir()) == ["version_0", "version_10"]


def test_what_is_no_run_stays(there: Path) -> None:
    Path("thesis").mkdir()
    Path("logs/version_0/chapter.tex").write_text("…")
    here = {"status": "running", "host": socket.gethostname(), "process": os.getpid()}
    write_run(Path("logs/version_3"), record=here)
    Path("link").symlink_to("logs/version_1")
    for path, why in (
        ("thesis", "is no run, so it stays"),
        ("logs", "is no run, so it stays"),
        ("nowhere", "is no run, so it stays"),
        ("logs/version_0", "also holds chapter.tex"),
        ("logs/version_3", "is running; end it first"),
        ("link", "is a link"),
    ):
        before = sorted(there.rglob("*"))
        result = invoke("--remove", "logs/version_10", "--remove", path, "--yes")
        assert result.exit_code == 2
        assert why in result.output
        assert sorted(there.rglob("*")) == before  # not even the one that could go


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "there is no folder nowhere"),
        (["--filter", "status"], "--filter 'status' cannot be read"),
        (["--sort", "moon"], "--sort moon is nothing that these runs have"),
        (["--tag", "logs", "x"], "logs is no run"),
        (["--tag", "logs/version_0", "two words"], "is no single word"),
    ],
)
def test_bad_input_is_one_line(there: Path, arguments: list[str], said: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert said in line


def test_no_run_is_such(there: Path) -> None:
    assert invoke("--filter", "status=running").output == "none of 4 runs is such\n"
