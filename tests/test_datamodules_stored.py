"""XLabDataModule over tokens that are stored already, and over documents with meta."""

import json
from pathlib import Path

import numpy as np
import pytest

from xlab.data.meta import Meta
from xlab.data.packing import IGNORED, BestFit, ContiguousWindows, Packing
from xlab.data.sources import JsonLines
from xlab.data.tokenizers import ByteLevelBPE, Tokenizer, TokenizerFile
from xlab.datamodules import Splits, XLabDataModule
from xlab.errors import ConfigError, DataError

T = 16


@pytest.fixture
def source(tmp_path: Path) -> JsonLines:
    rows = [{"text": f"Text {i} of {i * i}. " * (1 + i % 3), "about": f"number {i}, see {i // 2}"} for i in range(120)]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return JsonLines(f"{tmp_path}/c.jsonl", meta_column="about")


def of_source(source: JsonLines, tmp_path: Path, **settings: object) -> XLabDataModule:
    shares = Splits(train=0.7, val=0.2, test=0.05, predict=0.05)
    given = {"vocab_size": 280, "splits": shares, "seq_len": T, "batch_size": 4, "cache_dir": str(tmp_path / "cache")}
    return XLabDataModule(source, **{**given, **settings})  # type: ignore[arg-type]


def prefixes(datamodule: XLabDataModule) -> dict[str, str]:
    datamodule.prepare_data()
    directory = datamodule.prepared.directory  # type: ignore[attr-defined]
    return {f"{split}_data_prefix": f"{directory}/{split}" for split in ("train", "val", "test", "predict")}


class TestPrefixes:
    def test_batches_are_those_of_the_source(self, source: JsonLines, tmp_path: Path) -> None:
        made = of_source(source, tmp_path)
        stored = XLabDataModule(**prefixes(made), seq_len=T, batch_size=4)  # type: ignore[arg-type]
        assert stored.vocab_size == stored.hparams["vocab_size"] == 280
        stored.prepare_data()
        stored.setup("fit")
        assert stored.fingerprint == made.fingerprint
        for name in ("train", "val", "test", "predict"):
            ours, theirs = (list(getattr(one, f"{name}_dataloader")()) for one in (stored, made))
            assert len(ours) == len(theirs)
            for mine, other in zip(ours, theirs, strict=True):
                assert {key: value.tolist() for key, value in mine.items()} == {k: v.tolist() for k, v in other.items()}

    def test_splits_that_are_not_named_are_not_there(self, source: JsonLines, tmp_path: Path) -> None:
        train = prefixes(of_source(source, tmp_path))["train_data_prefix"]
        stored = XLabDataModule(train_data_prefix=train, seq_len=T)
        stored.prepare_data()
        assert stored.val_dataloader() == []
        with pytest.raises(DataError, match=r"data\.test_data_prefix names none"):
            stored.test_dataloader()

    def test_what_contradicts_them_is_refused(self, source: JsonLines, tmp_path: Path) -> None:
        named = prefixes(of_source(source, tmp_path))
        with pytest.raises(ConfigError, match=r"data\.val_data_prefix goes with a data\.train_data_prefix"):
            XLabDataModule(val_data_prefix=named["val_data_prefix"])
        with pytest.raises(ConfigError, match=r"data\.val_source is set beside data\.train_data_prefix"):
            XLabDataModule(val_source=source, **named)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"data\.vocab_size is 4096, but .*tokenizer\.json has 280 tokens"):
            XLabDataModule(vocab_size=4096, **named)  # type: ignore[arg-type]
        ByteLevelBPE().make(iter(["other"] * 9), 262).save(tmp_path / "other.json")
        other = XLabDataModule(tokenizer=TokenizerFile(f"{tmp_path}/other.json"), **named)  # type: ignore[arg-type]
        with pytest.raises(DataError, match="was prepared with another tokenizer"):
            other.prepare_data()


class TestMeta:
    @pytest.mark.parametrize("packing", [ContiguousWindows(), BestFit()])
    def test_they_are_left_out_of_the_loss_alone(self, source: JsonLines, tmp_path: Path, packing: Packing) -> None:
        counted = {}
        for in_loss in (True, False):
            meta = Meta(max_meta_len=6, drop=0.3, in_loss=in_loss)
            datamodule = of_source(source, tmp_path, meta=meta, packing=packing)
            datamodule.prepare_data()
            windows = datamodule.windows("train")
            batch = windows.__getitems__(range(len(windows)))
            counted[in_loss] = batch["inputs"].numpy(), batch["targets"].numpy()
        store, tokenizer = datamodule.prepared.store("train"), datamodule.tokenizer
        n_meta = 0
        for i in range(len(store)):
            document = store.document(i).tolist()
            n_meta += document.index(tokenizer.sep_id) if tokenizer.sep_id in document else 0  # and sep, without sos
        assert np.array_equal(counted[True][0], counted[False][0])
        differ = counted[True][1] != counted[False][1]
        assert (counted[False][1][differ] == IGNORED).all()
        assert differ.sum() == n_meta > 0
        assert (counted[False][1] != tokenizer.sep_id).all()

    def test_prompts_have_the_meta_before_them(self, source: JsonLines, tmp_path: Path) -> None:
        datamodule = of_source(source, tmp_path, meta=Meta(), prompt_len=3)
        datamodule.prepare_data()
        for i, prompt in enumerate(datamodule.predict_dataloader()):
            ids = prompt["prompt"][0].tolist()
            at = ids.index(datamodule.tokenizer.sep_id)
            assert ids == datamodule.prepared.store("predict").document(i).tolist()[: at + 4]

    def test_settings_are_plain_and_the_separator_is_counted(self, source: JsonLines, tmp_path: Path) -> None:
        datamodule = of_source(source, tmp_path, meta=Meta(max_meta_len=5))
        assert datamodule.hparams["meta"] == {"max_meta_len": 5, "drop": 0.0, "in_loss": True}
        datamodule.prepare_data()
        tokenizer: Tokenizer = datamodule.tokenizer
        assert (len(tokenizer), tokenizer.sep_id, datamodule.vocab_size) == (280, 279, 280)
