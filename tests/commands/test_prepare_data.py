"""manage.py prepare-data stores a corpus as a numbered dataset, tells what is in it, and how to train from it."""

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from commands_setup import ROOT, SMALL, options

from xlab.commands.data_settings import data_of
from xlab.commands.manage import main
from xlab.data.prepared import open_prepared


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["prepare-data", *map(str, arguments)])


@pytest.fixture
def data(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The options of a run's data, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    own = {key: value for key, value in SMALL.items() if key.startswith("data.")}
    return options({**own, "data.source.paths": corpus})


def described(result: Result) -> dict[str, object]:
    assert result.exit_code == 0, result.stderr
    content, _ = json.JSONDecoder().raw_decode(result.stdout)
    assert isinstance(content, dict)
    return content


def test_it_prints_the_description_and_where_the_dataset_is(data: list[str]) -> None:
    result = call(*data, "--name", "mine")
    *_, how, path = result.stdout.splitlines()
    assert path == "datasets/mine/1"
    prepared = open_prepared(path)
    assert described(result) == prepared.description == json.loads(Path(path, "description.json").read_text())
    assert f"--data.train_data_prefix {path}/train --data.val_data_prefix {path}/val" in how
    again = call(*data, "--name", "mine")
    assert again.stdout.splitlines()[-1] == path
    assert "the same content is already there" in again.stdout
    assert call(*data, "--data.vocab_size=310", "--name", "mine").stdout.splitlines()[-1] == "datasets/mine/2"


@pytest.mark.parametrize("packing", ["ContiguousWindows", "BestFit"])
def test_samples_are_those_of_the_run(data: list[str], packing: str) -> None:
    settings = (*data, f"--data.packing={packing}")
    told = described(call(*settings))
    datamodule = data_of(settings)
    datamodule.prepare_data()
    samples = {split: len(datamodule.windows(split)) for split in ("train", "val", "test")}
    assert told["samples"] == samples | {"predict": datamodule.prepared.n_documents("predict")}
    assert told["seq_len"] == 16
    assert datamodule.fingerprint == told["fingerprint"]


def test_a_split_too_short_for_a_window_has_no_samples(data: list[str]) -> None:
    told = described(call(*data, "--data.seq_len=2000"))
    assert told["samples"]["test"] == 0  # type: ignore[index]


def test_shards_are_made_one_by_one(data: list[str]) -> None:
    assert call(*data, "--name", "whole").exit_code == 0
    tokenizer = options({"data.tokenizer": "TokenizerFile", "data.tokenizer.path": "datasets/whole/1/tokenizer.json"})
    first = call(*data, *tokenizer, "--shard", "1/2")
    assert first.stdout == "shard 1/2 is there; missing yet: 0/2\n"
    last = call(*data, *tokenizer, "--shard", "0/2")
    told = described(last)
    assert last.stdout.splitlines()[-1] == "datasets/corpus/1"
    whole = open_prepared("datasets/whole/1").description
    assert (told["shards"], told["splits"]) == (2, whole["splits"])
    assert [path.name for path in sorted(Path("datasets/corpus/1").glob("train*.bin"))] == [
        "train-00000-of-00002.bin",
        "train-00001-of-00002.bin",
    ]


def test_what_is_prepared_is_not_prepared_again(data: list[str]) -> None:
    assert call(*data).exit_code == 0
    again = call(*data, "--data.train_data_prefix=datasets/corpus/1/train", "--data.vocab_size=null")
    assert again.exit_code == 2
    assert "data.train_data_prefix names tokens that are prepared already; leave it out" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shard", "2/2"], "the shard is '2/2'; write i/n"),
        (["--shard", "0/2"], "make it first with ./manage.py train-tokenizer"),
        (["--name", "../mine"], "is no name of a folder"),
        (["--data.vocab_size=100000"], "The training texts give a vocabulary of"),
        (["--data.source.paths=nothing.jsonl"], "No file matches 'nothing.jsonl'"),
        (["--datasets-root", "file"], "set --datasets-root"),
        (["--data.meta.max_meta_len=0"], "data.meta.max_meta_len must be at least 1, got 0"),
        (["--data.meta.drop=2"], "data.meta.drop must be from 0 to 1, got 2.0"),
        (["--data.meta.drop=.nan"], "data.meta.drop must be from 0 to 1, got nan"),
    ],
)
def test_what_cannot_be_is_one_line(data: list[str], arguments: list[str], message: str) -> None:
    Path("file").write_text("")
    result = call(*data, *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if line]
    assert line.startswith("manage.py prepare-data: error: ")
    assert message.lower() in line.lower()
    assert not list(Path().glob("datasets/*/[0-9]*"))


class TestThePage:
    PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")

    def commands(self, name: str) -> list[list[str]]:
        lines = [line for line in self.PAGE.splitlines() if line.startswith(f"./manage.py {name} ")]
        return [shlex.split(line.replace("conf/", f"{ROOT}/conf/"))[1:] for line in lines]

    def test_its_commands_work(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "texts").mkdir()
        for number in range(20):
            text = "".join(f"Text {number} counts to {i} and {i * number}.\n\n" for i in range(40))
            (tmp_path / "texts" / f"{number}.txt").write_text(text)
        (tmp_path / "my.txt").write_text("".join(path.read_text() for path in sorted((tmp_path / "texts").iterdir())))
        # on a corpus of this size, not the page's vocabulary
        small = {"8192": "300", "32768": "300"}
        whole, shard = self.commands("prepare-data")
        (tokenizer,) = self.commands("train-tokenizer")
        for command in (whole, tokenizer, shard):
            result = CliRunner().invoke(main, [small.get(word, word) for word in command])
            assert result.exit_code == 0, result.stderr
        assert open_prepared("datasets/mine/1").n_documents("train") > 0
        assert result.stdout.startswith("shard 0/16 is there; missing yet: 1/16, 2/16, ")

    def test_it_describes_the_description(self, data: list[str]) -> None:
        told = described(call(*data))
        named = set(re.findall(r"`(\w+)`", self.PAGE[self.PAGE.index("| `description.json`") :].splitlines()[0]))
        unnamed = {"format_version", "corpus", "made_by"}  # by which the dataset is found again
        assert set(told) - unnamed <= named
