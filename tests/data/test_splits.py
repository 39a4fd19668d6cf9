"""Splits are disjoint, repeatable, and stable when documents are added."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xlab.data.digest import digest
from xlab.data.sources import Document, Source
from xlab.data.splits import Corpus
from xlab.errors import ConfigError

SHARES = {"train": 0.6, "val": 0.2, "test": 0.1, "predict": 0.1}


class Texts(Source):
    def __init__(self, texts: list[str]) -> None:
        self._texts = texts

    def documents(self) -> Iterator[Document]:
        return map(Document, self._texts)

    def identity(self) -> str:
        return digest(self._texts)


def split_of(corpus: Corpus) -> dict[str, str]:
    return {assigned.document.text: assigned.split for assigned in corpus.documents()}


@given(st.lists(st.text(min_size=1), unique=True), st.lists(st.text(min_size=1)))
@settings(deadline=None, max_examples=50)
def test_adding_documents_moves_none(texts: list[str], more: list[str]) -> None:
    before = split_of(Corpus(Texts(texts), SHARES))
    after = split_of(Corpus(Texts(more + texts), SHARES))
    assert set(before) == set(texts)
    assert before == {text: after[text] for text in texts}


def test_shares_come_out() -> None:
    texts = [f"document {i}" for i in range(4000)]
    splits = list(split_of(Corpus(Texts(texts), SHARES)).values())
    for name, share in SHARES.items():
        # four standard deviations of a binomial; the hash is fixed, so this holds always or never
        assert abs(splits.count(name) - 4000 * share) < 4 * (4000 * share * (1 - share)) ** 0.5


def test_what_is_left_over_is_not_used() -> None:
    texts = [f"document {i}" for i in range(1000)]
    splits = split_of(Corpus(Texts(texts), {"train": 0.3, "val": 0.1}))
    assert 330 < len(splits) < 470


def test_the_meta_counts_too() -> None:
    class Pages(Texts):
        def documents(self) -> Iterator[Document]:
            return (Document("same", meta=str(i)) for i in range(200))

    assert len({assigned.split for assigned in Corpus(Pages([]), SHARES).documents()}) == 4


def test_a_split_with_its_own_source_leaves_its_share_to_the_others() -> None:
    texts = [f"document {i}" for i in range(300)]
    corpus = Corpus(Texts(texts), {"train": 0.9, "val": 0.1}, {"val": Texts(["mine", "too"])})
    splits = split_of(corpus)
    assert [splits.pop("mine"), splits.pop("too")] == ["val", "val"]
    assert set(splits) == set(texts)
    assert set(splits.values()) == {"train"}


@pytest.mark.parametrize(
    "own", [{}, {"val": Texts(["v"])}, {"train": Texts(["t"])}, {"train": Texts(["t"]), "val": Texts(["v"])}]
)
def test_training_documents_are_the_same_alone(own: dict[str, Source]) -> None:
    corpus = Corpus(Texts([f"document {i}" for i in range(50)]), SHARES, own)
    everything = [a.document.text for a in corpus.documents() if a.split == "train"]
    alone = [a.document.text for a in corpus.for_training().documents() if a.split == "train"]
    assert alone == everything


def test_every_split_may_have_its_own_source() -> None:
    corpus = Corpus(None, {}, {"train": Texts(["a"]), "test": Texts(["b"])})
    assert split_of(corpus) == {"a": "train", "b": "test"}
    assert corpus.n_bytes() is None


@pytest.mark.parametrize(
    ("shares", "says"),
    [
        ({"train": 0.9, "val": 0.2}, r"shares sum to 1\.1 \(0\.9 \+ 0\.2\); make them at most 1"),
        ({"train": 1.0, "val": -0.1}, r"share of val is -0\.1; it must be 0 or more"),
        ({"train": float("nan")}, r"share of train is nan"),
        ({"train": 0.9, "dev": 0.1}, r"no split 'dev'; there are train, val, test, predict"),
        ({"val": 1.0}, r"nothing to train on"),
    ],
)
def test_senseless_shares_are_refused(shares: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Corpus(Texts(["a"]), shares)
