"""./manage.py report writes a card of whatever a run has left."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from tests.lab.made_up_runs import write_run
from tests.tiny import LIGHTNING_NOISE
from xlab.commands.report import report

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(report, list(arguments))


def test_a_card_of_a_trained_run(there: Path, tmp_path: Path) -> None:
    result = invoke("logs/version_0", "-o", str(tmp_path / "card"), "--test", "--prompt", "Document")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "card" / "model_card.md").read_text()
    record = json.loads(Path("logs/version_0/run.json").read_text())
    for said in (
        record["data_fingerprint"],
        record["versions"]["torch"],
        "JsonLines",
        "validation, best | test",
        "xlab.py fit -c",
    ):
        assert said in text.replace("validation, last | ", "")
    assert text.count("```text\nDocument") == 2
    page = (tmp_path / "card" / "model_card.html").read_text()
    assert page.count("<blockquote>") == 2
    for heading in ("Data", "Recipe", "Figures", "Curves", "Samples", "Environment", "How to make it again"):
        assert f"## {heading}\n" in text
        assert f"<h2>{heading}</h2>" in page
    for picture in ("val_loss.svg", "val_bits_per_byte.svg"):
        assert f"]({picture})" in text
        root = ElementTree.fromstring((tmp_path / "card" / picture).read_text())
        assert root.tag == "{http://www.w3.org/2000/svg}svg"


def test_a_card_lies_in_the_run_and_is_replaced(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "version_0")
    for _ in range(2):
        result = invoke(str(folder))
        assert result.exit_code == 0, result.output
    assert "! It kept no checkpoint." in result.output
    assert (folder / "card" / "model_card.md").is_file()


def test_figures_of_a_test_that_was_run(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "version_0")
    figures = tmp_path / "test.json"
    figures.write_text('{"split": "test", "loss": 1.25, "bits_per_byte": 0.75}')
    assert invoke(str(folder), "--figures", str(figures)).exit_code == 0
    assert "| bits per byte | 2.2000 | 2.2000 | 0.7500 |" in (folder / "card" / "model_card.md").read_text()


def test_a_run_of_an_older_xlab(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "version_0")
    (folder / "run.json").unlink()
    (folder / "config.yaml").write_text("model: [")
    result = invoke(str(folder))
    assert result.exit_code == 0, result.output
    assert "It has no run.json" in result.output
    assert "## Curves" in (folder / "card" / "model_card.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--test", "--figures", "x"], "give one of them"),
        (["--test"], "kept no checkpoint to --test"),
        (["--samples", "-1"], "--samples -1 cannot be"),
        (["--figures", "config.yaml"], "is no JSON"),
        (["--figures", "run.json"], "holds no figures of a test"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "version_0")
    monkeypatch.chdir(folder)
    result = invoke(".", *arguments)
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert said in line


def test_what_cannot_be_told_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "version_0").mkdir()
    (tmp_path / "version_0" / "metrics.jsonl").write_text('{"step": 9, "val')
    result = invoke(str(tmp_path))
    assert result.exit_code == 2
    assert "nothing to report on" in result.output
    assert not (tmp_path / "version_0" / "card").exists()


def test_one_run_at_a_time(tmp_path: Path) -> None:
    for number in (0, 1):
        write_run(tmp_path / f"version_{number}")
    result = invoke(str(tmp_path))
    assert result.exit_code == 2
    assert "there are 2 runs under" in result.output
