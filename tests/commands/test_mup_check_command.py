"""manage.py mup-check prints a table and a verdict, and ends with the status that says the same."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from commands_setup import small

from xlab.commands.mup_check import mup_check

MUP = [
    "--model.initialisation=MuPInitialisation",
    "--model.initialisation.base_width=16",
    "--model.tie_embeddings=false",
    "--model.optimizer.init_args.lr=0.01",
]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(mup_check, list(map(str, arguments)))


def test_in_words(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = call("--widths=256,16,64", "--steps=3", "--seeds=1", *small(corpus))
    assert result.exit_code == 1, result.output
    assert "it grows from width 16 to 256: " in result.stdout.splitlines()[-1]
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith("  logits")]
    assert [len(row) for row in rows] == [1 + 3, 1 + 4]  # by width, and by step
    assert list(tmp_path.iterdir()) == []


def test_as_data(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = call("--json", "--widths=16,64,256", "--steps=3", "--seeds=1", *small(corpus), *MUP)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["growing"] == []
    assert found["initialisation"] == "MuPInitialisation"
    assert found["widths"] == [16, 64, 256]
    assert {len(table) for table in found["mean_abs_activation"].values()} == {4}
    assert found["verdict"].startswith("nothing grows")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--widths=16"], "--widths '16': give two different ones"),
        (["--widths=16,16"], "give two different ones at least, each once"),
        (["--widths=16,wide"], "are no whole numbers; give them as 64,128,256"),
        (["--widths=16,17"], "--widths 17: 2 heads at width 16 are no whole number there; give multiples of 8"),
        (["--widths=16,16000000"], "the model would take "),
        (["--widths=16,32", "--model.optimizer=Muon"], "model.optimizer: Muon only supports 2D parameters"),
        (
            ["--widths=16,32", "--model.optimizer.lr=1e30"],
            "at width 16 the loss is nan after step 1, and nothing can be",
        ),
        (["--widths=16,32", "--model.lora=LoRA", "--model.feed_forwards=3"], "there is no setting"),
    ],
)
def test_bad_input_is_one_line(corpus: Path, options: list[str], said: str) -> None:
    result = call(*options, *small(corpus))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert said in result.stderr
    assert result.stderr.splitlines()[-1].startswith("manage.py mup-check: error: ")
