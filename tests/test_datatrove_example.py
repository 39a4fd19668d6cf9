"""The datatrove example of the documentation writes shards that train_data_prefix reads as one dataset."""

import gzip
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from xlab.data.sharded_store import open_store
from xlab.data.token_store import TokenStore
from xlab.data.tokenizers import ByteLevelBPE, Tokenizer

for needed in ("datatrove", "orjson"):
    pytest.importorskip(needed, reason=f"{needed} is not installed: pip install 'datatrove[io]'")

EXAMPLE = ROOT / "docs" / "examples" / "datatrove_pipeline.py"
PAGE = (ROOT / "docs" / "datatrove.md").read_text(encoding="utf-8")
TEXTS = [f"Document {number} tells of {number**2} things, some naïve 😀. " * (number % 4 + 1) for number in range(20)]


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tokenizer:
    """Two files of documents, one of them compressed, and a tokenizer, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    Path("texts").mkdir()
    lines = [json.dumps({"text": text}) + "\n" for text in TEXTS]
    Path("texts/a.jsonl").write_text("".join(lines[:12]), encoding="utf-8")
    with gzip.open("texts/b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(lines[12:])
    tokenizer = ByteLevelBPE().make(iter(TEXTS), 300)
    tokenizer.save("tokenizer.json")
    return tokenizer


def run(*arguments: str) -> str:
    # its workers import the pipeline anew, and find xlab as the example's reader does
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, *arguments], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def documents(store: TokenStore) -> list[list[int]]:
    return [store.document(number).tolist() for number in range(len(store))]


def test_two_tasks_write_two_shards_of_one_dataset(corpus: Tokenizer) -> None:
    run(str(EXAMPLE), "texts", "tokenizer.json", "tokens/train", "--tasks", "2", "--workers", "2")
    expected = [[corpus.sos_id, *corpus.encode(text), corpus.eos_id] for text in TEXTS]
    shards = [TokenStore(f"tokens/train-0000{number}-of-00002") for number in range(2)]
    assert [documents(shard) for shard in shards] == [expected[:12], expected[12:]]
    whole = open_store("tokens/train")
    whole.verify(len(corpus))
    assert [whole.document(number).tolist() for number in range(len(whole))] == expected
    names = {path.name for path in Path("tokens").iterdir() if path.is_file()}
    assert names == {f"train-0000{n}-of-00002.{kind}" for n in range(2) for kind in ("bin", "idx")} | {"tokenizer.json"}
    assert Tokenizer.from_file("tokens/tokenizer.json").fingerprint == corpus.fingerprint


def test_a_task_without_documents_leaves_an_empty_shard(corpus: Tokenizer) -> None:
    run(str(EXAMPLE), "texts", "tokenizer.json", "tokens/train", "--tasks", "3", "--workers", "1")
    assert len(TokenStore("tokens/train-00002-of-00003")) == 0
    assert len(open_store("tokens/train")) == len(TEXTS)


def test_datatroves_own_files_are_read_too(corpus: Tokenizer) -> None:
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "MegatronDocument" in block]
    Path("own.py").write_text(code)
    run("own.py")
    whole = open_store("tokens/train")
    whole.verify(len(corpus))
    expected = [[*corpus.encode(text), corpus.eos_id] for text in TEXTS]
    assert [whole.document(number).tolist() for number in range(len(whole))] == expected


def test_the_pages_command_has_the_examples_arguments() -> None:
    (command,) = [line for line in PAGE.splitlines() if "python docs/examples/" in line]
    given = shlex.split(command)
    assert (ROOT / given[given.index("python") + 1]).samefile(EXAMPLE)
    shown = run(str(EXAMPLE), "--help")
    assert all(option in shown for option in given if option.startswith("--"))
