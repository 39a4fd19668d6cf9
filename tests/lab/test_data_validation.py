"""What validation finds, against documents that are known to be wrong."""

import hashlib
from collections import Counter
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers

from tests.data.listed import Listed
from xlab.data.prefixes import PrefixedData
from xlab.data.sources import Source
from xlab.data.splits import Corpus
from xlab.data.token_store import TokenStoreWriter
from xlab.data.tokenizers import ByteLevelBPE, Tokenizer
from xlab.errors import DataError
from xlab.lab import data_validation
from xlab.lab.data_validation import (
    DUPLICATE,
    EMPTY,
    LOSSY,
    OVERLAP,
    Finding,
    StoredTexts,
    validate,
    verify,
)

REVERSIBLE = ByteLevelBPE().make(iter(["the cat and the dog " * 5]), 270)


def lower_casing() -> Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate("abcdt ")}, merges=[]))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    backend.decoder = decoders.Fuse()
    return Tokenizer(backend)


def findings(train: Source, tokenizer: Tokenizer = REVERSIBLE, **others: Source) -> list[Finding]:
    corpus = Corpus(None, split_sources={"train": train, **others})
    return [finding for checked in validate(corpus, tokenizer) for finding in checked.findings]


def test_clean_documents_have_no_findings() -> None:
    checked = list(validate(Corpus(None, split_sources={"train": Listed("a", "b\n"), "val": Listed("c")}), REVERSIBLE))
    assert [one.split for one in checked] == ["train", "train", "val"]
    assert [one.n_bytes for one in checked] == [1, 2, 1]
    assert not any(one.findings for one in checked)


def test_each_problem_is_named_with_its_place() -> None:
    found = findings(Listed("one", "two", " \n", "one"), val=Listed("new", "two"))
    assert [(one.split, one.document, one.problem, one.detail) for one in found] == [
        ("train", 2, EMPTY, "2 characters, all white space"),
        ("train", 3, DUPLICATE, "first as train 0"),
        ("val", 1, OVERLAP, "first as train 1"),
    ]
    assert found[1].excerpt == "one"
    assert found[1].source == "Listed"
    assert found[1].digest == hashlib.blake2b(b"one", digest_size=16).hexdigest()


def test_what_is_lost_is_shown_where_it_is_lost() -> None:
    (found,) = findings(Listed("cat", "a cat, a Tbd"), lower_casing())
    assert (found.document, found.problem) == (1, LOSSY)
    assert found.detail.startswith("from character 5: ', a Tbd' comes back as ")
    assert found.excerpt == ", a Tbd"


def test_in_a_long_document_too() -> None:
    long = "the cat and\nthe dog\n" * 20_000
    assert findings(Listed(long)) == []
    tokenizer = lower_casing()
    assert len(list(tokenizer.pieces("cat bad\n" * 20_000))) > 1
    (found,) = findings(Listed("cat " * 30_000 + "T"), tokenizer)
    assert found.detail.startswith("from character 120000: 'T'")


@given(st.lists(st.text(max_size=3), max_size=12), st.lists(st.text(max_size=3), max_size=6), st.integers(1, 9))
def test_every_document_is_looked_at_once(train: list[str], val: list[str], at_once: int) -> None:
    corpus = Corpus(None, split_sources={"train": Listed(*train), "val": Listed(*val)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_validation, "_CHARACTERS_AT_ONCE", at_once)
        checked = list(validate(corpus, REVERSIBLE))
    assert [one.split for one in checked] == ["train"] * len(train) + ["val"] * len(val)
    problems = Counter(finding.problem for one in checked for finding in one.findings)
    visible = [text for text in train + val if text and not text.isspace()]
    assert problems[EMPTY] == len(train + val) - len(visible)
    assert problems[DUPLICATE] + problems[OVERLAP] == len(visible) - len(set(visible))
    assert problems[LOSSY] == 0


class TestStored:
    """Prepared data: what is stored of the documents, and whether it can be read."""

    @pytest.fixture
    def prefix(self, tmp_path: Path) -> Path:
        for split, texts in (("train", ["the cat", "", "the dog", "the cat"]), ("val", ["the dog"])):
            with TokenStoreWriter(tmp_path / split, len(REVERSIBLE)) as store:
                for text in texts:
                    store.write([REVERSIBLE.sos_id, *REVERSIBLE.encode(text), REVERSIBLE.eos_id])
                    store.end_document()
        return tmp_path / "train"

    def test_tokens_made_elsewhere_are_validated_as_the_texts_that_they_stand_for(self, prefix: Path) -> None:
        stored = PrefixedData({"train": prefix, "val": prefix.with_name("val")}, REVERSIBLE)
        verify(stored)
        sources = {split: StoredTexts(stored.store(split), REVERSIBLE) for split in ("train", "val")}
        found = findings(sources.pop("train"), **sources)
        assert [(one.split, one.document, one.problem) for one in found] == [
            ("train", 1, EMPTY),
            ("train", 3, DUPLICATE),
            ("val", 0, OVERLAP),
        ]
        assert {one.source for one in found} == {str(prefix), str(prefix.with_name("val"))}

    def test_a_token_outside_the_vocabulary_is_refused(self, prefix: Path) -> None:
        stored = PrefixedData({"train": prefix}, REVERSIBLE)
        with Path(f"{prefix}.bin").open("r+b") as file:
            file.seek(2)
            file.write((999).to_bytes(2, "little"))
        with pytest.raises(DataError, match="holds token 999 at place 1, in document 0"):
            verify(stored)
