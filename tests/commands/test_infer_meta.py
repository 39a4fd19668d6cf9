"""infer.py --meta: what is known about a text stands before it, as in training."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from commands_setup import SMALL, options

from xlab import checkpoints
from xlab.commands.infer import main
from xlab.commands.lightning_cli import run
from xlab.data.meta import prompt_ids
from xlab.inference import Engine, Request


def infer(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose documents have meta."""
    folder = tmp_path_factory.mktemp("meta")
    rows = [{"text": f"Document {n} counts {n} words.", "about": f"number {n}"} for n in range(120)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"data.source.paths": "corpus.jsonl", "data.source.meta_column": "about", "data.meta.max_meta_len": 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run("fit", options({**SMALL, **source}))
    return folder / "logs" / "version_0"


def test_meta_stands_before_the_text(trained: Path) -> None:
    asked = ("Document", "-g", "-l", 9, "--json")
    result = infer(trained, *asked, "--meta", "number 17 of many")
    assert result.exit_code == 0, result.stderr
    decoder, tokenizer = checkpoints.load(trained)
    ids = prompt_ids(tokenizer, "Document", meta="number 17 of many", max_meta_len=3)
    request = Request(
        ids, max_new_tokens=9, temperature=0.0, eos_ids=[tokenizer.eos_id], banned_ids=tokenizer.marker_ids
    )
    (expected,) = Engine(decoder, tokenizer).generate([request])
    (line,) = result.stdout.splitlines()
    written = json.loads(line)
    assert written["prompt_ids"] == ids
    assert written["texts"][0]["text"] == expected.completions[0].text


def test_meta_that_the_model_does_not_know_is_refused(there: Path) -> None:
    result = infer("logs/version_0", "Document", "--meta", "x")
    assert result.exit_code == 2
    assert "--meta is for models that were trained with data.meta, and this one was not; leave it out" in result.stderr


def test_meta_has_no_place_in_a_texts_middle(trained: Path) -> None:
    result = infer(trained, "Document", "-c", "--meta", "x")
    assert result.exit_code == 2
    assert "--meta stands at a text's beginning, and -c continues its middle; leave one out" in result.stderr
