"""Meta stand before the text behind their separator, are cut and dropped as told, and found again in the stream."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from listed import Listed

from xlab.data.meta import Meta, MetaPlaces, body_start, prompt_ids
from xlab.data.preparation import PreparedData, prepare
from xlab.data.sources import JsonLines
from xlab.data.splits import Corpus
from xlab.data.token_store import TokenStore, TokenStoreWriter
from xlab.data.tokenizers import SEP, ByteLevelBPE, TiktokenEncoding, Tokenizer, TokenizerFile
from xlab.data.tokenizers.recipe import WithSeparator
from xlab.errors import ConfigError, DataError

SHARES = {"train": 0.6, "val": 0.4}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return WithSeparator(ByteLevelBPE()).make(iter(["about the years"] * 3), 264)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    rows = [{"text": f"Text {i}.", "meta": "" if i % 5 == 0 else f"author {i}, year {i * i}"} for i in range(200)]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Corpus(JsonLines(f"{tmp_path}/c.jsonl", meta_column="meta"), SHARES)


def prepared_with(corpus: Corpus, tmp_path: Path, meta: Meta | None) -> PreparedData:
    recipe = ByteLevelBPE() if meta is None else WithSeparator(ByteLevelBPE())
    return prepare(corpus, recipe, cache_dir=tmp_path / "cache", vocab_size=280, meta=meta)


def test_a_document_is_sos_meta_sep_text_eos(corpus: Corpus, tmp_path: Path) -> None:
    meta = Meta(max_meta_len=5)
    prepared = prepared_with(corpus, tmp_path, meta)
    tokenizer = prepared.tokenizer
    assert (len(tokenizer), tokenizer.sep_id) == (280, 279)
    for split in SHARES:
        store = prepared.store(split)
        documents = [a.document for a in corpus.documents() if a.split == split]
        for i, document in enumerate(documents):
            before = [*tokenizer.encode(document.meta)[-5:], tokenizer.sep_id] if document.meta else []
            stored = store.document(i).tolist()
            assert stored == [tokenizer.sos_id, *before, *tokenizer.encode(document.text), tokenizer.eos_id]
            assert stored[:-1] == prompt_ids(tokenizer, document.text, meta=document.meta, max_meta_len=5)
            assert stored[body_start(stored, tokenizer.sep_id, 5) : -1] == tokenizer.encode(document.text)


def test_meta_are_ignored_where_they_are_not_asked_for(corpus: Corpus, tmp_path: Path) -> None:
    prepared = prepared_with(corpus, tmp_path, None)
    assert prepared.tokenizer.sep_id is None
    text = prepared.tokenizer.decode(prepared.store("train").tokens)
    assert "author" not in text


def test_training_documents_drop_theirs_as_often_as_told(corpus: Corpus, tmp_path: Path) -> None:
    prepared = prepared_with(corpus, tmp_path, Meta(drop=0.5))
    again = prepared_with(corpus, tmp_path / "elsewhere", Meta(drop=0.5))
    assert again.store("train").tokens.tolist() == prepared.store("train").tokens.tolist()
    n_with = {split: int((prepared.store(split).tokens == prepared.tokenizer.sep_id).sum()) for split in SHARES}
    with_meta = {split: sum(a.split == split and a.document.meta != "" for a in corpus.documents()) for split in SHARES}
    assert n_with["val"] == with_meta["val"]
    assert 0.3 < n_with["train"] / with_meta["train"] < 0.7
    for drop, left in ((0.0, with_meta["train"]), (1.0, 0)):
        store = prepared_with(corpus, tmp_path, Meta(drop=drop)).store("train")
        assert int((store.tokens == prepared.tokenizer.sep_id).sum()) == left


def test_what_decides_the_tokens_decides_the_cache(corpus: Corpus, tmp_path: Path) -> None:
    settings = [None, Meta(), Meta(max_meta_len=5), Meta(drop=0.5)]
    made = [prepared_with(corpus, tmp_path, meta) for meta in settings]
    assert len({prepared.directory for prepared in made}) == len({prepared.fingerprint for prepared in made}) == 4
    assert prepared_with(corpus, tmp_path, Meta(in_loss=False)) == made[1]


def test_a_tokenizer_without_separator_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    plain = ByteLevelBPE().make(iter(["text text"]), 260)
    with pytest.raises(DataError, match=r"data.meta is set, but the tokenizer has no <\|sep\|>"):
        prepare(corpus, plain, cache_dir=tmp_path, meta=Meta())
    with pytest.raises(ConfigError, match="was trained without meta"):
        prompt_ids(plain, "text", meta="author")
    assert prompt_ids(plain, "text", meta="") == prompt_ids(plain, "text") == [plain.sos_id, *plain.encode("text")]


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"max_meta_len": 0}, "max_meta_len must be at least 1"), ({"drop": 1.5}, "drop must be from 0 to 1, got 1.5")],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Meta(**settings)  # type: ignore[arg-type]


class TestTheVocabulary:
    def test_the_size_that_is_asked_counts_the_separator(self) -> None:
        recipe = WithSeparator(ByteLevelBPE())
        assert recipe.vocab_size_of(300) == 300
        with pytest.raises(ConfigError, match=r"data.vocab_size \(259\) counts <\|sep\|> too"):
            recipe.vocab_size_of(259)
        with pytest.raises(ConfigError, match="is trained to a size"):
            recipe.vocab_size_of(None)
        with pytest.raises(DataError, match=r"Beside <\|sep\|>: The training texts give a vocabulary of 259"):
            recipe.make(iter([]), 300)

    def test_a_ready_vocabulary_grows_by_it_once(self, tmp_path: Path) -> None:
        ByteLevelBPE().make(iter(["text text"]), 260).save(tmp_path / "without.json")
        recipe = WithSeparator(TokenizerFile(f"{tmp_path}/without.json"))
        assert recipe.vocab_size_of(None) == recipe.vocab_size_of(261) == 261
        with pytest.raises(ConfigError, match=r"Without it: data\.vocab_size is 259"):
            recipe.vocab_size_of(260)
        made = recipe.make(iter([]), 261)
        assert (made.sep_id, made[SEP]) == (260, 260)
        made.save(tmp_path / "with.json")
        again = WithSeparator(TokenizerFile(f"{tmp_path}/with.json"))
        assert again.vocab_size_of(None) == 261
        assert again.make(iter([]), 261).fingerprint == made.fingerprint

    def test_the_size_of_an_encoding_is_known_without_fetching_it(self) -> None:
        assert WithSeparator(TiktokenEncoding("gpt2")).vocab_size_of(None) == 50_260

    def test_it_travels_in_the_tokenizer_and_text_never_becomes_it(self, tokenizer: Tokenizer) -> None:
        travelled = Tokenizer.from_json(tokenizer.to_json())
        assert (travelled.sep_id, travelled.fingerprint) == (263, tokenizer.fingerprint)
        assert travelled.decode(travelled.encode("a <|sep|> b")) == "a <|sep|> b"
        assert 263 not in travelled.encode("a <|sep|> b")
        assert travelled.encode_with_specials("a<|sep|>")[-1] == 263
        assert travelled.token_bytes(263) == b""
        assert tokenizer.with_separator() is tokenizer


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(-3, 60), st.integers(0, 12)), max_size=5),
)
def test_meta_are_found_from_any_place(
    tmp_path_factory: pytest.TempPathFactory, documents: list[tuple[int, int]], stretches: list[tuple[int, int]]
) -> None:
    stream: list[int] = []
    is_meta: list[bool] = []
    prefix = tmp_path_factory.mktemp("store") / "train"
    with TokenStoreWriter(prefix, vocab_size=10) as writer:
        for n_meta, n_text in documents:
            before = [*[7] * n_meta, 3] if n_meta else []
            tokens = [1, *before, *[7] * n_text, 2]
            writer.write(tokens)
            writer.end_document()
            stream += tokens
            is_meta += [False, *[True] * len(before), *[False] * (n_text + 1)]
    places = MetaPlaces(3, (1, 2), max_meta_len=4)
    store = TokenStore(prefix)
    assert places.among(np.array(stream)).tolist() == is_meta
    starts, lengths = [start for start, _ in stretches], [length for _, length in stretches]
    expected = [
        is_meta[place] if 0 <= place < len(stream) else False
        for start, length in stretches
        for place in range(start, start + length)
    ]
    assert places.within(store, starts, lengths).tolist() == expected


def test_places_need_a_separator(tokenizer: Tokenizer) -> None:
    assert MetaPlaces.of(tokenizer, Meta(max_meta_len=9)) == MetaPlaces(263, (1, 2), 9)
    with pytest.raises(DataError, match="has no"):
        MetaPlaces.of(ByteLevelBPE().make(iter([]), 259), Meta())


def test_a_corpus_without_meta_gets_no_separator(tmp_path: Path) -> None:
    corpus = Corpus(Listed("one text", "another text"), {"train": 1.0})
    prepared = prepare(corpus, WithSeparator(ByteLevelBPE()), cache_dir=tmp_path, vocab_size=262, meta=Meta())
    assert prepared.tokenizer.sep_id not in prepared.store("train").tokens.tolist()


def test_meta_that_no_document_has_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"text": f"Text {i}."}) for i in range(20)))
    corpus = Corpus(JsonLines(f"{tmp_path}/c.jsonl"), {"train": 1.0})
    prepare(corpus, WithSeparator(ByteLevelBPE()), vocab_size=260, cache_dir=tmp_path / "cache", meta=Meta())
    assert "note: data.meta is set, but no document has meta; set data.source.meta_column" in capsys.readouterr().err
