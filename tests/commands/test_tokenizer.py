"""manage.py train-tokenizer writes the tokenizer that fit would make; docs/tokenizers.md says what is so."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from commands_setup import ROOT, SMALL, options

from xlab import checkpoints, factories
from xlab.commands.lightning_cli import run
from xlab.commands.tokenizer import data_of, train_tokenizer
from xlab.data.tokenizers import ByteLevelBPE, Tokenizer, TokenizerRecipe

PAGE = (ROOT / "docs" / "tokenizers.md").read_text(encoding="utf-8")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(train_tokenizer, list(map(str, arguments)))


@pytest.fixture
def data(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The options of a run's data, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    own = {key: value for key, value in SMALL.items() if key.startswith("data.")}
    return options({**own, "data.source.paths": corpus})


def test_it_is_the_tokenizer_that_fit_made(there: Path, corpus: Path, tmp_path: Path) -> None:
    made_by_fit = checkpoints.restore_tokenizer(checkpoints.read("logs/version_0"))
    result = call("-c", "logs/version_0/config.yaml", "-o", tmp_path / "alone.json")
    assert result.exit_code == 0, result.stderr
    alone = Tokenizer.from_file(tmp_path / "alone.json")
    assert alone.fingerprint == made_by_fit.fingerprint
    size, fertility, place = result.stdout.splitlines()
    assert size.split() == ["tokens", "300"]
    texts = [json.loads(line)["text"] for line in corpus.read_text().splitlines()]
    n_bytes = sum(len(text.encode()) for text in texts)
    n_tokens = sum(map(len, alone.encode_batch(texts)))
    assert re.fullmatch(
        rf"bytes per token +{n_bytes / n_tokens:.3f} \(of the corpus' first {n_bytes:,} bytes\)", fertility
    )
    assert place.endswith(str(tmp_path / "alone.json"))
    assert [path.name for path in tmp_path.iterdir()] == ["alone.json"]


def test_what_it_wrote_trains_a_model(data: list[str], tmp_path: Path) -> None:
    kept = [option for option in data if "vocab_size" not in option]
    recipe = {"data.vocab_size": 320, "data.tokenizer": "ByteFallbackBPE", "data.tokenizer.digits": 1}
    assert call(*kept, *options(recipe)).exit_code == 0
    model = {key: value for key, value in SMALL.items() if not key.startswith("data.")}
    ready = {"data.vocab_size": 320, "data.tokenizer": "TokenizerFile", "data.tokenizer.path": "tokenizer.json"}
    run("fit", [*kept, *options(ready | model | {"trainer.max_steps": 2, "trainer.val_check_interval": 2})])
    decoder, tokenizer = checkpoints.load("logs/version_0")
    assert decoder is not None
    assert decoder.vocab_size == len(tokenizer) == 320
    assert tokenizer.fingerprint == Tokenizer.from_file("tokenizer.json").fingerprint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.vocab_sise=9"], "vocab_sise"),
        (["--data.vocab_size=100000"], "The training texts give a vocabulary of"),
        (["--data.tokenizer=ByteLevelBPE", "--data.tokenizer.pattern=gtp2"], "did you mean 'gpt2'"),
        (["-o", "nowhere/tokenizer.json"], "is in a folder that does not exist"),
        (["-o", "."], "is a folder; name a file"),
        (["-o", "mine.txt"], "mine.txt is there already, and stays"),
    ],
)
def test_what_cannot_be_is_one_line(data: list[str], arguments: list[str], message: str) -> None:
    Path("mine.txt").write_text("my notes")
    result = call(*data, *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if line]
    assert line.startswith("manage.py train-tokenizer: error: ")
    assert message in line
    assert Path("mine.txt").read_text() == "my notes"
    assert not Path("tokenizer.json").exists()


class TestThePage:
    def test_the_example_of_a_tokenizer_works(
        self, data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (code,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "class Bytes" in block]
        (tmp_path / "my_tokenizers.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        (command,) = [line for line in PAGE.splitlines() if "my_tokenizers.Bytes" in line]
        settings = shlex.split(command)[2:]
        datamodule = data_of((*data, *settings))
        assert datamodule.vocab_size == 259
        datamodule.prepare_data()
        tokenizer = datamodule.tokenizer
        text = "naïve <|eos|> 😀\n"
        assert len(tokenizer.encode(text)) == len(text.encode())
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert call(*data, *settings).exit_code == 0
        assert Tokenizer.from_file("tokenizer.json").fingerprint == tokenizer.fingerprint

    def test_its_yaml_builds(self) -> None:
        recipes = [
            factories.build(yaml.safe_load(block)["data"]["tokenizer"])
            for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
        ]
        assert len(recipes) == 2
        assert all(isinstance(recipe, TokenizerRecipe) for recipe in recipes)

    def test_it_names_every_recipe(self) -> None:
        from xlab.data import tokenizers

        kinds = [getattr(tokenizers, name) for name in tokenizers.__all__]
        recipes = {kind for kind in kinds if isinstance(kind, type) and issubclass(kind, TokenizerRecipe)}
        named = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
        assert {kind.__name__ for kind in recipes} - {"TokenizerRecipe"} <= named

    def test_paths_of_older_checkpoints_still_lead_there(self) -> None:
        for path in (
            "xlab.data.tokenizers.ByteLevelBPE",
            "ByteLevelBPE",
            "xlab.data.tokenizers.byte_level.ByteLevelBPE",
        ):
            assert factories.find_class(path) is ByteLevelBPE
