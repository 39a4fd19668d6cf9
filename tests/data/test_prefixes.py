"""Tokens that are stored already are trained on with the tokenizer they were made with, or not at all."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from xlab.data.meta import Meta
from xlab.data.prefixes import PrefixedData, tokenizer_beside
from xlab.data.preparation import PreparedData, prepare
from xlab.data.sources import JsonLines
from xlab.data.splits import Corpus
from xlab.data.token_store import TokenStoreWriter
from xlab.data.tokenizers import ByteLevelBPE, Tokenizer, TokenizerFile
from xlab.data.tokenizers.recipe import WithSeparator
from xlab.errors import ConfigError, DataError


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    rows = [json.dumps({"text": f"Text {i} of {i * i}.", "about": f"number {i}"}) for i in range(60)]
    (tmp_path / "c.jsonl").write_text("\n".join(rows))
    return Corpus(JsonLines(f"{tmp_path}/c.jsonl", meta_column="about"), {"train": 0.7, "val": 0.3})


@pytest.fixture
def prepared(corpus: Corpus, tmp_path: Path) -> PreparedData:
    return prepare(corpus, ByteLevelBPE(), vocab_size=270, cache_dir=tmp_path / "cache")


def prefixes(prepared: PreparedData) -> dict[str, str]:
    return {split: str(prepared.directory / split) for split in ("train", "val")}


def foreign(prefix: Path, *documents: list[int]) -> Path:
    with TokenStoreWriter(prefix, vocab_size=1 << 16) as writer:
        for document in documents:
            writer.write(document)
            writer.end_document()
    return prefix


class TestPrepared:
    def test_they_are_what_was_prepared(self, prepared: PreparedData) -> None:
        data = PrefixedData(prefixes(prepared), prepared.tokenizer)
        assert data.fingerprint == prepared.fingerprint  # so a run may go on from either
        assert data.tokenizer is prepared.tokenizer
        for split in ("train", "val"):
            assert data.n_documents(split) == prepared.n_documents(split)
            assert data.n_bytes(split) == prepared.n_bytes(split) == prepared.description["splits"][split]["bytes"]
            assert data.store(split).slice(0, 9).tolist() == prepared.store(split).slice(0, 9).tolist()
            described = data.description["splits"][split]
            assert described == {key: prepared.description["splits"][split][key] for key in described}
        with pytest.raises(DataError, match=r"no test documents: data\.test_data_prefix names none"):
            data.store("test")

    def test_splits_that_change_places_are_other_data(self, prepared: PreparedData) -> None:
        train, val = prefixes(prepared).values()
        swapped = PrefixedData({"train": val, "val": train}, prepared.tokenizer)
        assert swapped.fingerprint != prepared.fingerprint
        assert swapped.n_bytes("train") == prepared.n_bytes("val")

    def test_the_tokenizer_beside_them_is_found(self, prepared: PreparedData) -> None:
        recipe = tokenizer_beside(prefixes(prepared)["train"], ByteLevelBPE())
        assert isinstance(recipe, TokenizerFile)
        assert PrefixedData(prefixes(prepared), recipe).tokenizer.fingerprint == prepared.tokenizer.fingerprint
        chosen = TokenizerFile("mine.json")
        assert tokenizer_beside(prefixes(prepared)["train"], chosen) is chosen

    def test_another_tokenizer_is_refused(self, prepared: PreparedData) -> None:
        other = ByteLevelBPE().make(iter(["other text"] * 9), 265)
        with pytest.raises(DataError, match=r"train was prepared with another tokenizer .*tokenizer.json"):
            PrefixedData(prefixes(prepared), other)

    def test_stores_that_were_exchanged_are_refused(self, prepared: PreparedData) -> None:
        for end in ("bin", "idx"):
            shutil.copy(prepared.directory / f"val.{end}", prepared.directory / f"train.{end}")
        with pytest.raises(DataError, match=r"train does not hold what .*description.json tells"):
            PrefixedData(prefixes(prepared), prepared.tokenizer)

    def test_a_description_that_is_damaged_is_refused(self, prepared: PreparedData) -> None:
        (prepared.directory / "description.json").write_text('{"splits": ')
        with pytest.raises(DataError, match=r"description.json cannot be read: .*; prepare the data again"):
            PrefixedData(prefixes(prepared), prepared.tokenizer)

    @pytest.mark.parametrize("change", [{"splits": {"train": {}, "val": {}}}, {"meta": {}}, {"splits": {"train": 3}}])
    def test_a_description_of_another_form_is_refused(self, prepared: PreparedData, change: dict[str, Any]) -> None:
        path = prepared.directory / "description.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        with pytest.raises(DataError, match="is not as prepare-data writes it"):
            PrefixedData(prefixes(prepared), prepared.tokenizer)

    def test_meta_must_be_the_same(self, corpus: Corpus, prepared: PreparedData, tmp_path: Path) -> None:
        recipe, meta = WithSeparator(ByteLevelBPE()), Meta(max_meta_len=9, drop=0.25)
        with_meta = prepare(corpus, recipe, vocab_size=270, cache_dir=tmp_path / "cache", meta=meta)
        tokenizer = with_meta.tokenizer
        same = Meta(max_meta_len=9, drop=0.25, in_loss=False)
        assert PrefixedData(prefixes(with_meta), tokenizer, meta=same).fingerprint == with_meta.fingerprint
        with pytest.raises(DataError, match=r"other settings of data.meta; set it to max_meta_len 9 and drop 0.25\."):
            PrefixedData(prefixes(with_meta), tokenizer)
        with pytest.raises(DataError, match=r"data.meta is set, but the tokenizer has no"):
            PrefixedData(prefixes(prepared), prepared.tokenizer, meta=meta)


class TestForeign:
    def test_they_are_read_with_the_tokenizer_that_is_named(self, tmp_path: Path, prepared: PreparedData) -> None:
        prefix = foreign(tmp_path / "megatron", [5, 6, 7, 2], [8, 9, 2])
        data = PrefixedData({"train": prefix}, prepared.tokenizer)
        assert (data.n_documents("train"), data.n_bytes("train")) == (2, None)
        assert data.description["splits"] == {"train": {"documents": 2, "tokens": 7}}
        assert data.store("train").slice(0, 7).tolist() == [5, 6, 7, 2, 8, 9, 2]

    def test_their_fingerprint_is_their_content_s(self, tmp_path: Path, prepared: PreparedData) -> None:
        (tmp_path / "moved").mkdir()
        stores = [
            foreign(tmp_path / "a", [5, 6, 2]),
            foreign(tmp_path / "moved" / "b", [5, 6, 2]),
            foreign(tmp_path / "c", [5, 7, 2]),
            foreign(tmp_path / "d", [5, 6], [2]),
        ]
        found = [PrefixedData({"train": prefix}, prepared.tokenizer).fingerprint for prefix in stores]
        assert found[0] == found[1]
        assert len(set(found)) == 3

    @pytest.mark.parametrize(("first", "last"), [(0, 0), (200_000, 207_000), (399_999, 399_999)])
    def test_tokens_outside_the_vocabulary_are_refused(
        self, tmp_path: Path, prepared: PreparedData, first: int, last: int
    ) -> None:
        tokens = [270 if first <= place <= last else 7 for place in range(400_000)]
        prefix = foreign(tmp_path / "large", tokens)
        with pytest.raises(DataError, match=r"large holds token 270, but the vocabulary has 270: set data\.tok"):
            PrefixedData({"train": prefix}, prepared.tokenizer)

    def test_what_is_not_there_is_named(self, tmp_path: Path, prepared: PreparedData) -> None:
        with pytest.raises(DataError, match=r"data.train_data_prefix: There is no token store .*nowhere"):
            PrefixedData({"train": tmp_path / "nowhere"}, prepared.tokenizer)
        prefix = foreign(tmp_path / "half", [5, 2])
        Path(f"{prefix}.idx").unlink()
        for open_them in (
            lambda: PrefixedData({"train": prefix}, prepared.tokenizer),
            lambda: tokenizer_beside(prefix, ByteLevelBPE()),
        ):
            with pytest.raises(DataError, match=r"data.train_data_prefix: .*half.idx is missing"):
                open_them()

    def test_no_tokenizer_is_trained_on_tokens(self, tmp_path: Path) -> None:
        prefix = foreign(tmp_path / "alone", [5, 2])
        with pytest.raises(ConfigError, match=r"no tokenizer.json beside .*alone, and none can be trained on tokens"):
            tokenizer_beside(prefix, ByteLevelBPE())
        with pytest.raises(ConfigError, match="to be trained, which training from a prefix cannot do"):
            PrefixedData({"train": prefix}, ByteLevelBPE(), vocab_size=270)

    def test_others_descriptions_are_not_ours(self, tmp_path: Path, prepared: PreparedData) -> None:
        prefix = foreign(tmp_path / "theirs", [5, 2])
        (tmp_path / "description.json").write_text('{"splits": ["theirs"]}')
        assert isinstance(PrefixedData({"train": prefix}, prepared.tokenizer).tokenizer, Tokenizer)

    def test_an_empty_store_has_no_documents(self, tmp_path: Path, prepared: PreparedData) -> None:
        data = PrefixedData({"train": foreign(tmp_path / "empty")}, prepared.tokenizer)
        with pytest.raises(DataError, match="There are no train documents"):
            data.store("train")
