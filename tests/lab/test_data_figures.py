"""The report's figures against a plain count over the texts."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models

from tests.data.listed import Listed as Source
from xlab.data.tokenizers import ByteFallbackBPE, ByteLevelBPE, Tokenizer
from xlab.datamodules import Splits, XLabDataModule
from xlab.lab import data_figures
from xlab.lab.data_figures import Seeker, SplitFigures, Vocabulary, measure
from xlab.lab.data_report import n_tokens_to_read, report
from xlab.lab.data_sample import Share

TEXT = "the cat and the dog and the naïve one sat on the mat "
BYTE_LEVEL = ByteLevelBPE().make(iter([TEXT * 5]), 280)
FALLBACK = ByteFallbackBPE(character_coverage=1.0).make(iter([TEXT * 5]), 290)

texts = st.lists(st.text(alphabet="the catno¿日😀\n", max_size=30), min_size=1, max_size=8)


class InMemory:
    """Texts as they are stored."""

    def __init__(self, texts: list[str], tokenizer: Tokenizer = BYTE_LEVEL) -> None:
        self._documents = [[tokenizer.sos_id, *tokenizer.encode(text), tokenizer.eos_id] for text in texts]

    def __len__(self) -> int:
        return len(self._documents)

    def document(self, i: int) -> np.ndarray:
        return np.array(self._documents[i], dtype=np.uint16)


def figures_of(texts: list[str], tokenizer: Tokenizer = BYTE_LEVEL) -> SplitFigures:
    store = InMemory(texts, tokenizer)
    return measure(store, Vocabulary(tokenizer), "train", sought={}, advance=lambda n: None)[0]


@given(texts, st.sampled_from([BYTE_LEVEL, FALLBACK]))
def test_sizes_are_those_of_the_texts(documents: list[str], tokenizer: Tokenizer) -> None:
    found = figures_of(documents, tokenizer)
    encoded = [tokenizer.encode(text) for text in documents]
    assert found.documents == len(documents)
    assert found.characters == sum(map(len, documents))
    assert found.n_bytes == sum(len(text.encode()) for text in documents)
    assert found.special_tokens == 2 * len(documents)
    assert found.text_tokens == sum(map(len, encoded))
    assert found.tokens == found.text_tokens + found.special_tokens == found.counts.sum()
    assert found.lengths == Counter(len(ids) + 2 for ids in encoded)
    n_different = len(set(documents))
    assert found.repeated_documents == Share(len(documents) - n_different, len(documents))
    assert found.quantile(0) == min(found.lengths)
    assert found.quantile(1) == max(found.lengths)


def test_the_size_of_a_block_changes_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [TEXT * 3, "", "日本😀 " * 7, TEXT, TEXT]
    whole = figures_of(documents)
    blocks = data_figures.blocks
    monkeypatch.setattr(data_figures, "blocks", lambda store: blocks(store, 16))
    in_parts = figures_of(documents)
    for name in ("documents", "characters", "n_bytes", "tokens", "byte_tokens", "lengths", "repeated_documents"):
        assert getattr(in_parts, name) == getattr(whole, name)
    assert whole.repeated_documents == Share(1, 5)


def test_byte_tokens_are_parts_of_characters() -> None:
    assert figures_of(["the cat, the mat?"]).byte_tokens == 0
    # no merge has an é, a 日 or a 😀: two, three and four bytes
    assert figures_of(["é日😀"]).byte_tokens == 9
    assert figures_of(["é日😀"], FALLBACK).byte_tokens == 9
    # a byte-fallback vocabulary knows whole characters, so even an ASCII byte is a makeshift; in another it is a letter
    assert figures_of(["Q\n"]).byte_rate == 0
    assert figures_of(["Q\n"], FALLBACK).byte_rate == 1


def test_a_unigram_vocabulary_may_fall_back_too() -> None:
    known = [("<unk>", 0.0), ("a", -1.0), ("▁", -2.0), *((f"<0x{byte:02X}>", -9.0) for byte in range(128, 256))]
    backend = tokenizers.Tokenizer(models.Unigram(known, unk_id=0, byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    assert figures_of(["aéa"], Tokenizer(backend)).byte_tokens == 2


def test_longer_than_a_window() -> None:
    found = figures_of(["", TEXT, TEXT])
    assert found.longer_than(2) == Share(2, 3)
    assert found.longer_than(1) == Share(3, 3)


class TestOverlap:
    quote = "it is a truth universally acknowledged that a single man in possession of a good fortune"  # 16 words
    own = "there was no possibility of taking a walk that day for we had been wandering indeed"

    def overlap(self, sought: list[str], trained_on: list[str]) -> data_figures.Overlap:
        vocabulary = Vocabulary(BYTE_LEVEL)

        def ignore(n_tokens: int) -> None:
            return None

        _, sample = measure(InMemory(sought), vocabulary, "val", sought={}, advance=ignore)
        seeker = Seeker(sample)
        measure(InMemory(trained_on), vocabulary, "train", sought={"val": seeker}, advance=ignore)
        return seeker.overlap(InMemory(sought), vocabulary, "val", advance=ignore)

    def test_a_copy_is_found(self) -> None:
        found = self.overlap([self.quote, self.own], ["something else", self.quote])
        assert found.documents == Share(1, 2)
        assert found.ngrams == Share(4, 8)
        assert found.covered == Share(1, 2)

    def test_a_near_copy_is_found_by_its_ngrams(self) -> None:
        found = self.overlap([self.quote], [self.quote.upper().replace(" ", ", ") + "!"])
        assert found.documents == Share(0, 1)
        assert found.ngrams == Share(4, 4)
        assert found.covered == Share(1, 1)

    def test_a_quotation_covers_little(self) -> None:
        found = self.overlap([f"{self.own} {self.quote}"], [self.quote])
        assert found.ngrams == Share(4, 20)
        assert found.covered == Share(0, 1)

    def test_nothing_in_common_is_nothing(self) -> None:
        found = self.overlap([self.quote, "too short to have any"], [self.own])
        assert (found.documents, found.ngrams, found.covered) == (Share(0, 2), Share(0, 4), Share(0, 1))


class TestReport:
    @pytest.fixture
    def datamodule(self, tmp_path: Path) -> XLabDataModule:
        documents = [f"Document {number} tells of {number % 7} cats. {TEXT}" for number in range(60)]
        datamodule = XLabDataModule(
            source=Source(*documents, documents[0], documents[0]),
            val_source=Source(documents[3], "An other text."),
            splits=Splits(1.0, 0, 0, 0),
            vocab_size=300,
            seq_len=16,
            cache_dir=str(tmp_path),
        )
        datamodule.prepare_data()
        return datamodule

    def test_it_is_of_every_split_that_has_documents(self, datamodule: XLabDataModule) -> None:
        read: list[int] = []
        found = report(datamodule, advance=read.append)
        assert sum(read) == n_tokens_to_read(datamodule)
        assert list(found.splits) == ["train", "val"]
        assert found.sources == {"divided": "Listed", "val": "Listed"}
        assert found.splits["train"].repeated_documents == Share(2, 62)
        assert found.overlaps["val"].documents == Share(1, 2)
        assert found.overlaps["val"].covered == Share(1, 1)
        assert found.packing == {split: datamodule.windows(split).report() for split in ("train", "val")}

    def test_the_vocabulary_is_used_as_train_uses_it(self, datamodule: XLabDataModule) -> None:
        found = report(datamodule).vocabulary
        tokenizer = datamodule.tokenizer
        store = datamodule.prepared.store("train")
        counts = Counter(token for i in range(len(store)) for token in store.document(i).tolist())
        for special in (tokenizer.sos_id, tokenizer.eos_id):
            del counts[special]
        assert found.used == len(counts)
        assert found.rare == sum(count < 10 for count in counts.values())
        assert [count for _, count in found.commonest] == [count for _, count in counts.most_common(24)]
        assert found.frequencies[0] == (1, max(counts.values()))
        assert found.frequencies[-1] == (found.used, min(counts.values()))
        assert all(tokenizer.encode(token) for token, _ in found.commonest)
        assert len(found.unused) == min(24, found.size - found.used)

    def test_a_split_too_short_for_a_window_says_so(self, datamodule: XLabDataModule, tmp_path: Path) -> None:
        datamodule.hparams["seq_len"] = 64
        found = report(datamodule)
        assert isinstance(found.packing["val"], str) == (found.splits["val"].tokens < 65)
        assert not isinstance(found.packing["train"], str)
