"""From settings to batches."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import BATCH_SIZE, LIGHTNING_NOISE, SHARES, VOCAB_SIZE, documents, make_data, write_corpus
from tests.tiny_data import Untouchable, checkpoint_of, on_rank, ready, rows
from xlab.checkpoint_writing import write
from xlab.data.packing import IGNORED, BestFit, ContiguousWindows, OneDocument, Packing, TokenBudget
from xlab.data.sources import JsonLines, PythonDocs
from xlab.data.tokenizers import ByteLevelBPE, TokenizerFile
from xlab.datamodules import Splits, XLabDataModule
from xlab.errors import CheckpointError, ConfigError, DataError

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Path:
    return write_corpus(folder / "corpus.jsonl")


@pytest.fixture(scope="module")
def prepared(corpus: Path) -> XLabDataModule:
    datamodule = make_data(corpus)
    datamodule.prepare_data()
    datamodule.setup("fit")
    return datamodule


# --- construction


def test_the_constructor_reads_no_corpus(folder: Path) -> None:
    XLabDataModule(source=Untouchable(), val_source=Untouchable(), vocab_size=300)
    make_data(folder / "no such file.jsonl")


def test_a_missing_corpus_is_found_when_it_is_prepared(folder: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.jsonl"):
        ready(folder / "absent.jsonl")


def test_the_size_of_a_vocabulary_is_the_one_asked_for(corpus: Path) -> None:
    assert make_data(corpus, vocab_size=777).vocab_size == 777
    with pytest.raises(ConfigError, match=r"set data\.vocab_size"):
        make_data(corpus, vocab_size=None)


def test_the_size_of_a_vocabulary_is_the_ready_tokenizer_s(
    corpus: Path, prepared: XLabDataModule, folder: Path
) -> None:
    file = folder / "tokenizer.json"
    prepared.tokenizer.save(file)
    assert make_data(corpus, tokenizer=TokenizerFile(str(file)), vocab_size=None).vocab_size == VOCAB_SIZE
    assert make_data(corpus, tokenizer=TokenizerFile(str(file)), vocab_size=VOCAB_SIZE).vocab_size == VOCAB_SIZE
    with pytest.raises(ConfigError, match=r"data\.vocab_size is 301, but .* has 300"):
        make_data(corpus, tokenizer=TokenizerFile(str(file)), vocab_size=301)


def test_a_corpus_that_cannot_give_the_vocabulary_fails_in_preparation_only(corpus: Path) -> None:
    datamodule = make_data(corpus, vocab_size=50_000)
    assert datamodule.vocab_size == 50_000
    with pytest.raises(DataError, match=r"not 50000. Set data\.vocab_size to at most \d+"):
        datamodule.prepare_data()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"seq_len": 0}, "data.seq_len must be at least 1, got 0"),
        ({"batch_size": 0}, "data.batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, "data.num_workers must be at least 0, got -1"),
        ({"prompt_len": -1}, "data.prompt_len must be at least 0, got -1"),
        ({"max_new_tokens": -1}, "data.max_new_tokens must be at least 0, got -1"),
        ({"vocab_size": 5}, "data.vocab_size must be at least 259"),
        ({"splits": Splits(train=0.9, val=0.2)}, "shares sum to"),
        ({"splits": Splits(train=0)}, "nothing to train on"),
        ({"splits": Splits(val=-0.1)}, "share of val is -0.1"),
    ],
)
def test_settings_that_cannot_be_are_refused(corpus: Path, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make_data(corpus, **settings)
    assert says in str(refused.value)


def test_the_settings_are_plain_data(corpus: Path) -> None:
    settings = dict(make_data(corpus, val_source=PythonDocs(), tokenizer=ByteLevelBPE(3)).hparams)
    assert json.loads(json.dumps(settings)) == settings
    assert settings["splits"] == {"train": 0.6, "val": 0.2, "test": 0.1, "predict": 0.1}
    assert settings["source"]["init_args"]["text_column"] == "body"
    assert settings["tokenizer"]["init_args"]["min_frequency"] == 3
    assert settings["packing"]["init_args"] == {"step_size": None}
    assert settings["document_mask"] is False


def test_nothing_is_there_before_it_is_prepared(corpus: Path) -> None:
    datamodule = make_data(corpus)
    for use in (lambda: datamodule.tokenizer, lambda: datamodule.fingerprint, datamodule.train_dataloader):
        with pytest.raises(DataError, match=r"not prepared yet; call prepare_data\(\)"):
            use()


# --- splits and windows


def test_every_document_is_in_one_split(corpus: Path, prepared: XLabDataModule) -> None:
    decode = prepared.tokenizer.decode
    texts = []
    for split in ("train", "val", "test", "predict"):
        store = prepared.prepared.store(split)
        texts += [decode(store.document(index).tolist()) for index in range(len(store))]
    assert sorted(texts) == sorted(documents())


def test_a_split_with_a_source_of_its_own_takes_no_share(corpus: Path, folder: Path) -> None:
    others = write_corpus(folder / "others.jsonl", n=30, seed=5)
    datamodule = ready(corpus, val_source=JsonLines(str(others), "body"), splits=Splits(0.8, 0, 0.1, 0.1))
    assert datamodule.prepared.n_documents("val") == 30
    assert sum(datamodule.prepared.n_documents(split) for split in ("train", "test", "predict")) == 160


def test_a_batch_is_windows_and_what_follows_them(prepared: XLabDataModule) -> None:
    store, tokenizer = prepared.prepared.store("val"), prepared.tokenizer
    stream = torch.cat([torch.tensor(store.document(index).tolist()) for index in range(len(store))])
    batches = list(prepared.val_dataloader())
    inputs = torch.cat([batch["inputs"] for batch in batches]).flatten()[: len(stream) - 1]
    targets = torch.cat([batch["targets"] for batch in batches]).flatten()
    assert torch.equal(inputs, stream[:-1])
    expected = stream[1:].masked_fill(stream[1:] == tokenizer.sos_id, IGNORED)
    assert torch.equal(targets[: len(expected)], expected)
    assert set(targets[len(expected) :].tolist()) <= {IGNORED}
    n_bytes = sum(len(tokenizer.decode(store.document(index).tolist()).encode()) for index in range(len(store)))
    assert sum(int(batch["n_bytes"].sum()) for batch in batches) == n_bytes


def test_two_ranks_see_disjoint_windows_and_together_the_batches_of_one(corpus: Path) -> None:
    whole = list(on_rank(ready(corpus, batch_size=2 * BATCH_SIZE), 0, 1).train_dataloader())
    ranks = [list(on_rank(ready(corpus), rank, 2).train_dataloader()) for rank in range(2)]
    seen = [{tuple(row) for batch in rank for row in batch["inputs"].tolist()} for rank in ranks]
    assert not seen[0] & seen[1]
    assert len(whole) == len(ranks[0]) == len(ranks[1])
    for both, one, two in zip(whole, *ranks, strict=True):
        for name in ("inputs", "targets", "n_bytes"):
            assert torch.equal(both[name], torch.cat([one[name], two[name]]))


@pytest.mark.parametrize("packing", [ContiguousWindows(), ContiguousWindows(5), BestFit(), TokenBudget(40)])
def test_ranks_evaluate_every_target_once(packing: Packing, corpus: Path, prepared: XLabDataModule) -> None:
    alone = sum(int((batch["targets"] != IGNORED).sum()) for batch in prepared.val_dataloader())
    for ranks in (1, 2, 3):
        data = [on_rank(ready(corpus, packing=packing), rank, ranks) for rank in range(ranks)]
        loaders = [list(each.val_dataloader()) for each in data]
        assert len({len(loader) for loader in loaders}) == 1
        assert sum(int((batch["targets"] != IGNORED).sum()) for loader in loaders for batch in loader) == alone


def test_the_seed_decides_the_order_and_nothing_else(corpus: Path) -> None:
    orders = [rows(ready(corpus, seed=seed, batch_size=1).train_dataloader()) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


def test_worker_processes_give_the_same_batches(corpus: Path, prepared: XLabDataModule) -> None:
    assert rows(ready(corpus, num_workers=1).val_dataloader()) == rows(prepared.val_dataloader())


def test_prompts_are_the_beginnings_of_documents(corpus: Path, prepared: XLabDataModule) -> None:
    datamodule = ready(corpus, prompt_len=5, max_new_tokens=7)
    store = prepared.prepared.store("predict")
    batches = list(datamodule.predict_dataloader())
    assert len(batches) == len(store)
    for index, batch in enumerate(batches):
        assert batch["prompt"].tolist() == [store.document(index)[:6].tolist()]
        assert (int(batch["max_new_tokens"]), int(batch["eos_id"])) == (7, prepared.tokenizer.eos_id)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_too_small_for_a_window_is_named(corpus: Path, split: str) -> None:
    datamodule = ready(corpus, seq_len=5000)
    with pytest.raises(DataError, match=rf"The {split} split has \d+ tokens, too few .*data\.seq_len to at most \d+"):
        getattr(datamodule, f"{split}_dataloader")()


def test_an_empty_split_is_named(folder: Path) -> None:
    few = write_corpus(folder / "few.jsonl", n=12)
    datamodule = ready(few, vocab_size=259, splits=Splits(0.99, 0.002, 0.002, 0.002))
    for loader in (datamodule.val_dataloader, datamodule.test_dataloader, datamodule.predict_dataloader):
        with pytest.raises(DataError, match="split has no documents; give it a larger share"):
            loader()


def test_a_run_may_do_without_validation_data(corpus: Path) -> None:
    assert ready(corpus, splits=Splits(1, 0, 0, 0)).val_dataloader() == []


def test_too_few_windows_for_a_batch_are_said(corpus: Path) -> None:
    with pytest.raises(DataError, match=r"too few for one batch of 4000 .*data\.batch_size to at most"):
        ready(corpus, batch_size=4000).train_dataloader()


# --- packing

PACKINGS = [ContiguousWindows(step_size=5), BestFit(), OneDocument(3), TokenBudget(40, min_sample_length=3)]


@pytest.mark.parametrize("packing", PACKINGS, ids=lambda packing: type(packing).__name__)
def test_a_packing_comes_back_from_a_checkpoint(
    packing: Packing, corpus: Path, prepared: XLabDataModule, tmp_path: Path
) -> None:
    datamodule = ready(corpus, packing=packing, document_mask=True)
    assert json.loads(json.dumps(datamodule.hparams["packing"]))["init_args"] == vars(packing)
    loaded = XLabDataModule.load_from_checkpoint(checkpoint_of(datamodule, prepared.tokenizer, tmp_path / "a.ckpt"))
    loaded.prepare_data()
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        both = [list(getattr(data, loader)()) for data in (datamodule, loaded)]
        for one, other in zip(*both, strict=True):
            assert one.keys() == other.keys() == {"inputs", "targets", "n_bytes", "documents"}
            assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("packing", ["BestFit", JsonLines("a.jsonl")])
def test_what_is_no_packing_is_refused(packing: Any, corpus: Path, prepared: XLabDataModule, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.packing is .*; give a packing"):
        make_data(corpus, packing=packing)
    path = checkpoint_of(prepared, prepared.tokenizer, tmp_path / "a.ckpt")
    content = torch.load(path, weights_only=True)
    given = packing if isinstance(packing, str) else {"class_path": "xlab.data.sources.PythonDocs"}
    content["xlab"]["data"]["packing"] = given
    write(content, path)
    with pytest.raises(CheckpointError, match=r"data\.packing is .*, which is no packing"):
        XLabDataModule.load_from_checkpoint(path)


def test_plans_are_made_when_the_data_are_prepared(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    datamodule = ready(corpus, packing=BestFit())
    assert len(list((tmp_path / "cache").glob("*.plan"))) == 3  # train, val and test
    datamodule.train_dataloader()
    assert len(list((tmp_path / "cache").glob("*.plan"))) == 3


def test_a_budget_says_that_the_batch_size_is_not_used(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ready(corpus, packing=TokenBudget(40)).setup("fit")
    assert "TokenBudget makes the batches; data.batch_size is not used" in capsys.readouterr().err
    ready(corpus, packing=BestFit()).setup("fit")
    assert "not used" not in capsys.readouterr().err


@pytest.mark.parametrize("packing", PACKINGS, ids=lambda packing: type(packing).__name__)
@pytest.mark.parametrize(("ranks", "workers"), [(1, 1), (2, 0), (3, 0)])
def test_any_ranks_and_workers_see_the_same_steps(packing: Packing, ranks: int, workers: int, corpus: Path) -> None:
    settings = {"packing": packing, "batch_size": 6 // ranks, "num_workers": workers, "document_mask": True}
    of_ranks = [on_rank(ready(corpus, **settings), rank, ranks, accumulated=6 // ranks) for rank in range(ranks)]
    alone = on_rank(ready(corpus, packing=packing, batch_size=6), 0, 1, accumulated=6)
    if not isinstance(packing, TokenBudget):  # the global batch is a number of windows, not of batches
        alone.trainer.accumulate_grad_batches = 6 // ranks
    together = [rows(batches) for batches in zip(*(data.train_dataloader() for data in of_ranks), strict=True)]
    assert [row for step in together for row in step] == rows(alone.train_dataloader())


# --- the cache


def test_a_changed_corpus_is_prepared_anew(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl", n=60)
    before = ready(corpus)
    with corpus.open("a") as file:
        file.write(json.dumps({"body": "a line that was not there before", "meta": ""}) + "\n")
    after = ready(corpus)
    assert after.fingerprint != before.fingerprint
    counts = [sum(data.prepared.n_documents(split) for split in SHARES.__dict__) for data in (before, after)]
    assert counts == [60, 61]


def test_the_same_corpus_is_prepared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl", n=60)
    first = ready(corpus)
    monkeypatch.setattr(JsonLines, "documents", Untouchable.documents)
    assert ready(corpus, batch_size=2, seq_len=8).fingerprint == first.fingerprint
