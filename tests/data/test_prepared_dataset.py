"""A dataset gets a new number for new content only, is whole or not there, and is the same from shards."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_preparation import SHARES

from xlab.data.encoding import Shard
from xlab.data.meta import Meta
from xlab.data.prepared import PreparedData, open_prepared
from xlab.data.prepared_dataset import prepare_dataset, prepare_shard
from xlab.data.sources import Document, JsonLines
from xlab.data.splits import Corpus
from xlab.data.store_writing import Lengths
from xlab.data.tokenizers import ByteLevelBPE, Tokenizer, TokenizerFile
from xlab.errors import ConfigError, DataError

N = 3


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    rows = [json.dumps({"text": f"Document {i} counts to {i * i}.\n" * (1 + i % 7)}) for i in range(80)]
    path.write_text("\n".join(rows))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "datasets" / "mine"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return ByteLevelBPE().make(iter(["Document counts to"] * 9), 270)


def corpus(lines: Path) -> Corpus:
    return Corpus(JsonLines(str(lines)), SHARES)


def prepare(lines: Path, folder: Path, vocab_size: int = 270) -> tuple[PreparedData, bool]:
    return prepare_dataset(corpus(lines), ByteLevelBPE(), folder=folder, vocab_size=vocab_size)


def numbers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.isdecimal())


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / ".preparing").iterdir() if path.suffix != ".lock")


class TestWhole:
    def test_what_is_there_is_found_without_reading(
        self, lines: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, is_new = prepare(lines, folder)
        assert (first.directory, is_new) == (folder / "1", True)
        monkeypatch.setattr(JsonLines, "documents", None)
        assert prepare(lines, folder) == (first, False)
        assert leftovers(folder) == []

    def test_other_content_gets_the_next_number_and_the_same_content_none(self, lines: Path, folder: Path) -> None:
        first, _ = prepare(lines, folder)
        assert prepare(lines, folder, 275)[0].directory.name == "2"
        os.utime(lines, ns=(5, 5))  # it might be another corpus
        assert prepare(lines, folder) == (first, False)
        lines.write_text(lines.read_text() + '\n{"text": "and one more"}')
        assert prepare(lines, folder)[0].directory.name == "3"
        shutil.rmtree(folder / "2")
        assert prepare(lines, folder, 280)[0].directory.name == "4"
        assert leftovers(folder) == []

    def test_the_description_tells_what_is_in_the_stores(self, lines: Path, folder: Path, tmp_path: Path) -> None:
        def tell(prepared: PreparedData) -> dict[str, object]:
            return {"longest": max(len(prepared.store("train").document(i)) for i in range(3))}

        prepared, _ = prepare_dataset(
            corpus(lines), ByteLevelBPE(), folder=folder, vocab_size=270, meta=None, tell=tell
        )
        written = json.loads((folder / "1" / "description.json").read_text())
        assert written == prepared.description
        assert written["longest"] > 0
        assert written["separators"] == {"sos": "<|sos|>", "eos": "<|eos|>"}
        assert written["sources"]["divided"]["source"] == f"JsonLines {lines}"
        for split in SHARES:
            store = prepared.store(split)
            sizes = [len(store.document(i)) for i in range(len(store))]
            lengths = written["splits"][split]["lengths"]
            assert (lengths["shortest"], lengths["longest"]) == (min(sizes), max(sizes))
            for up_to, n in lengths["histogram"].items():
                assert n == sum(int(up_to) // 2 < size <= int(up_to) for size in sizes)

    def test_a_damaged_dataset_is_not_believed(self, lines: Path, folder: Path) -> None:
        first, _ = prepare(lines, folder)
        os.truncate(first.directory / "train.bin", 10)
        again, is_new = prepare(lines, folder)
        assert (again.directory.name, is_new) == ("2", True)

    def test_a_full_disk_leaves_nothing(self, lines: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("xlab.data.token_store.TokenStoreWriter.end_document", fail)
            with pytest.raises(DataError, match=r"disk of .* is full; nothing was kept. .* set --datasets-root"):
                prepare(lines, folder)
        assert (numbers(folder), leftovers(folder)) == ([], [])
        assert prepare(lines, folder)[0].directory.name == "1"

    def test_settings_of_meta_make_another(self, lines: Path, folder: Path, tokenizer: Tokenizer) -> None:
        separated = tokenizer.with_separator()
        for number, meta in enumerate((None, Meta(), Meta(drop=0.5), Meta(drop=0.5, in_loss=False)), 1):
            prepared, _ = prepare_dataset(corpus(lines), separated, folder=folder, meta=meta)
            assert prepared.directory.name == str(min(number, 3))


class TestShards:
    def shard(
        self, lines: Path, folder: Path, tokenizer: Tokenizer, index: int
    ) -> tuple[PreparedData | None, list[int]]:
        return prepare_shard(corpus(lines), tokenizer, Shard(index, N), folder=folder)

    def test_the_last_job_makes_them_one(self, lines: Path, folder: Path, tokenizer: Tokenizer) -> None:
        assert self.shard(lines, folder, tokenizer, 1) == (None, [0, 2])
        assert self.shard(lines, folder, tokenizer, 1) == (None, [0, 2])
        assert self.shard(lines, folder, tokenizer, 2) == (None, [0])
        assert numbers(folder) == []
        prepared, missing = self.shard(lines, folder, tokenizer, 0)
        assert prepared is not None
        assert (prepared.directory, missing) == (folder / "1", [])
        assert self.shard(lines, folder, tokenizer, 2) == (prepared, [])
        assert leftovers(folder) == []
        names = {path.name for path in prepared.directory.iterdir()}
        stores = {f"{split}-{i:05}-of-00003.{end}" for split in SHARES for i in range(N) for end in ("bin", "idx")}
        assert names == stores | {"tokenizer.json", "description.json"}

    def test_shards_hold_every_document_once_in_its_split(
        self, lines: Path, folder: Path, tokenizer: Tokenizer
    ) -> None:
        whole, _ = prepare_dataset(corpus(lines), tokenizer, folder=folder)
        for index in range(N):
            prepared, _ = self.shard(lines, folder, tokenizer, index)
        assert prepared is not None
        assert prepared.directory.name == "2"
        assert prepared.fingerprint != whole.fingerprint  # the order is another
        assert prepared.description["splits"] == whole.description["splits"]
        for split in SHARES:
            stores = [one.store(split) for one in (prepared, whole)]
            documents = [sorted(store.document(i).tolist() for i in range(len(store))) for store in stores]
            assert documents[0] == documents[1]

    def test_more_shards_than_documents(self, tmp_path: Path, folder: Path, tokenizer: Tokenizer) -> None:
        (tmp_path / "few.jsonl").write_text('{"text": "one"}\n{"text": "two"}')
        few = Corpus(JsonLines(f"{tmp_path}/few.jsonl"), {"train": 1.0})
        done = [prepare_shard(few, tokenizer, Shard(i, 4), folder=folder) for i in range(4)]
        prepared = done[-1][0]
        assert prepared is not None
        assert [tokenizer.decode(prepared.store("train").document(i)) for i in range(2)] == ["one", "two"]

    def test_a_shard_that_is_lost_is_named(self, lines: Path, folder: Path, tokenizer: Tokenizer) -> None:
        for index in range(N):
            self.shard(lines, folder, tokenizer, index)
        for end in ("bin", "idx"):
            (folder / "1" / f"train-00001-of-00003.{end}").unlink()
        with pytest.raises(DataError, match="train-00001-of-00003 is missing from a set of 3 shards"):
            open_prepared(folder / "1")

    def test_parts_that_were_damaged_get_no_number(self, lines: Path, folder: Path, tokenizer: Tokenizer) -> None:
        self.shard(lines, folder, tokenizer, 0)
        (damaged,) = folder.glob(".preparing/*/train-00000-of-00003.bin")
        damaged.unlink()
        self.shard(lines, folder, tokenizer, 1)
        with pytest.raises(DataError, match="The parts were damaged after they had been made; make every part again"):
            self.shard(lines, folder, tokenizer, 2)
        assert numbers(folder) == []
        for index in range(N):
            prepared, missing = self.shard(lines, folder, tokenizer, index)
        assert (prepared is not None, missing) == (True, [])

    def test_a_shard_that_fails_leaves_nothing(
        self, lines: Path, folder: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def documents(self: JsonLines) -> Iterator[Document]:
            yield Document("one")
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(JsonLines, "documents", documents)
            with pytest.raises(KeyboardInterrupt):
                self.shard(lines, folder, tokenizer, 0)
        assert [list(folder.glob(f".preparing/*/{name}*")) for name in ("train", "part")] == [[], []]
        assert self.shard(lines, folder, tokenizer, 1) == (None, [0, 2])

    def test_an_empty_corpus_is_refused_when_the_shards_are_joined(
        self, tmp_path: Path, folder: Path, tokenizer: Tokenizer
    ) -> None:
        (tmp_path / "empty.jsonl").write_text("")
        empty = Corpus(JsonLines(f"{tmp_path}/empty.jsonl"), {"train": 1.0})
        prepare_shard(empty, tokenizer, Shard(0, 2), folder=folder)
        with pytest.raises(DataError, match="The corpus is empty"):
            prepare_shard(empty, tokenizer, Shard(1, 2), folder=folder)
        assert numbers(folder) == []

    def test_the_tokenizer_must_be_ready(self, lines: Path, folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"is to be trained, which a shard cannot do: .* train-tokenizer"):
            prepare_shard(corpus(lines), ByteLevelBPE(), Shard(0, N), folder=folder, vocab_size=270)
        tokenizer.save(tmp_path / "t.json")
        recipe = TokenizerFile(f"{tmp_path}/t.json")
        assert prepare_shard(corpus(lines), recipe, Shard(0, N), folder=folder)[1] == [1, 2]
        assert self.shard(lines, folder, tokenizer, 1) == (None, [2])

    @pytest.mark.parametrize("text", ["3/3", "1", "-1/2", "a/b", "0/0", "1 / 2"])
    def test_what_is_no_shard_is_refused(self, text: str) -> None:
        with pytest.raises(ConfigError, match="write i/n with i from 0 to n - 1"):
            Shard.from_text(text)
        assert Shard.from_text("2/3") == Shard(2, 3)


def test_lengths_are_joined_as_if_counted_together() -> None:
    lengths = [1, 2, 3, 4, 5, 8, 9, 1000]
    whole, parts = Lengths(), [Lengths(), Lengths(), Lengths()]
    for i, length in enumerate(lengths):
        whole.add(length)
        parts[i % 2].add(length)
    assert Lengths.joined([part.description() for part in parts]).description() == whole.description()
    assert whole.description()["histogram"] == {"1": 1, "2": 1, "4": 2, "8": 2, "16": 1, "1024": 1}
