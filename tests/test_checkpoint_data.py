"""From a checkpoint to the tokenizer, the documents and the batches of its run."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tiny import BATCH_SIZE, LIGHTNING_NOISE, SEQ_LEN, VOCAB_SIZE, documents, make_data, write_corpus
from tests.tiny_data import checkpoint_of, ready, rows
from xlab.data.sources import HubDataset, JsonLines, PythonDocs, TextFiles
from xlab.datamodules import Splits, XLabDataModule
from xlab.errors import ConfigError, DataError

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data") / "corpus.jsonl")


@pytest.fixture(scope="module")
def prepared(corpus: Path) -> XLabDataModule:
    datamodule = make_data(corpus)
    datamodule.prepare_data()
    datamodule.setup("fit")
    return datamodule


def test_a_checkpoint_brings_the_tokenizer_and_reads_no_corpus(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl", n=60)
    trained = ready(corpus)
    path = checkpoint_of(trained, trained.tokenizer, tmp_path / "a.ckpt")
    corpus.unlink()
    loaded = XLabDataModule.load_from_checkpoint(path)
    assert loaded.tokenizer.to_json() == trained.tokenizer.to_json()
    assert loaded.vocab_size == VOCAB_SIZE
    with pytest.raises(DataError, match=r"corpus\.jsonl"):
        loaded.prepare_data()


def test_a_checkpoint_gives_the_very_batches(corpus: Path, prepared: XLabDataModule, tmp_path: Path) -> None:
    path = checkpoint_of(prepared, prepared.tokenizer, tmp_path / "a.ckpt")
    loaded = XLabDataModule.load_from_checkpoint(path)
    loaded.prepare_data()
    assert loaded.fingerprint == prepared.fingerprint
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        assert rows(getattr(loaded, loader)()) == rows(getattr(ready(corpus), loader)())


def test_the_checkpoint_s_tokenizer_is_kept_when_the_corpus_changes(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl", n=60)
    trained = ready(corpus)
    path = checkpoint_of(trained, trained.tokenizer, tmp_path / "a.ckpt")
    corpus.write_text("".join(json.dumps({"body": f"{n} other words altogether, {n * n}"}) + "\n" for n in range(99)))
    loaded = XLabDataModule.load_from_checkpoint(path)
    loaded.prepare_data()
    assert loaded.prepared.tokenizer.to_json() == trained.tokenizer.to_json()
    assert loaded.fingerprint != trained.fingerprint


def _text_files(folder: Path) -> TextFiles:
    (folder / "a.txt").write_text("".join(f"{text}---\n" for text in documents(40)))
    return TextFiles([f"{folder}/*.txt"], end_of_document="---", section_chars=200)


def _json_lines(folder: Path) -> JsonLines:
    return JsonLines(str(write_corpus(folder / "a.jsonl", n=40)), text_column="body", meta_column="meta")


def _hub_dataset(folder: Path) -> HubDataset:
    (folder / "hub").mkdir()
    pq.write_table(pa.table({"body": list(documents(40)), "title": ["x"] * 40}), folder / "hub" / "train-0.parquet")
    return HubDataset(str(folder / "hub"), split="train[:90%]", text_column="body", meta_column="title")


def _python_docs(folder: Path) -> PythonDocs:
    return PythonDocs()


@pytest.mark.parametrize("make", [_text_files, _json_lines, _hub_dataset, _python_docs])
@pytest.mark.parametrize("place", ["source", "val_source", "test_source", "predict_source"])
def test_a_source_from_python_comes_back_from_a_checkpoint(
    make: Any, place: str, prepared: XLabDataModule, tmp_path: Path
) -> None:
    source = make(tmp_path)
    datamodule = XLabDataModule(**{place: source}, splits=Splits(0.5, 0.25, 0.25, 0), vocab_size=VOCAB_SIZE, seed=7)
    loaded = XLabDataModule.load_from_checkpoint(checkpoint_of(datamodule, prepared.tokenizer, tmp_path / "a.ckpt"))
    again = loaded.corpus.source if place == "source" else loaded.corpus.split_sources[place.removesuffix("_source")]
    assert type(again) is type(source)
    assert again.identity() == source.identity()
    assert loaded.corpus.shares == datamodule.corpus.shares
    kept = {name: value for name, value in datamodule.hparams.items() if name != "tokenizer"}
    assert {name: loaded.hparams[name] for name in kept} == kept


@pytest.mark.parametrize("make", [_text_files, _json_lines, _hub_dataset])
def test_its_documents_come_back_too(make: Any, prepared: XLabDataModule, tmp_path: Path) -> None:
    source = make(tmp_path)
    datamodule = XLabDataModule(source=source, vocab_size=VOCAB_SIZE)
    loaded = XLabDataModule.load_from_checkpoint(checkpoint_of(datamodule, prepared.tokenizer, tmp_path / "a.ckpt"))
    assert loaded.corpus.source is not None
    read = list(loaded.corpus.source.documents())
    assert read == list(source.documents())
    assert read


def test_settings_can_be_changed_but_not_the_tokenizer(prepared: XLabDataModule, tmp_path: Path) -> None:
    path = checkpoint_of(prepared, prepared.tokenizer, tmp_path / "a.ckpt")
    loaded = XLabDataModule.load_from_checkpoint(path, seq_len=2 * SEQ_LEN, cache_dir=str(tmp_path / "cache"))
    loaded.prepare_data()
    assert next(iter(loaded.val_dataloader()))["inputs"].shape == (BATCH_SIZE, 2 * SEQ_LEN)
    with pytest.raises(ConfigError, match=r"data\.vocab_size is 999"):
        XLabDataModule.load_from_checkpoint(path, vocab_size=999)
