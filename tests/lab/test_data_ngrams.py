"""N-grams against a plain loop over words."""

import re
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xlab.lab.data_ngrams import ngrams

WORD = re.compile(r"[a-z0-9é]+|[日本語]")
texts = st.text(alphabet="abAB0é日本 .\n—”", max_size=60)


def hashed(documents: list[str], n: int) -> tuple[list[int], list[int]]:
    parts = [text.encode() for text in documents]
    starts = np.cumsum([0, *map(len, parts)])[:-1].astype(np.int64)
    found, document = ngrams(np.frombuffer(b"".join(parts), dtype=np.uint8), starts, n)
    return found.tolist(), document.tolist()


def expected(documents: list[str], n: int) -> list[tuple[int, tuple[str, ...]]]:
    grams = []
    for number, text in enumerate(documents):
        words = WORD.findall(text.replace("A", "a").replace("B", "b"))
        grams += [(number, tuple(words[i : i + n])) for i in range(len(words) - n + 1)]
    return grams


@given(st.lists(texts, max_size=6), st.integers(1, 4))
def test_they_are_those_of_a_plain_loop(documents: list[str], n: int) -> None:
    found, document = hashed(documents, n)
    wanted = expected(documents, n)
    assert document == [number for number, _ in wanted]
    # the same hash for the same words, another for others
    same = {}
    for one, (_, words) in zip(found, wanted, strict=True):
        assert same.setdefault(words, one) == one
    assert len(set(same.values())) == len(same)
    assert sorted(Counter(found).values()) == sorted(Counter(words for _, words in wanted).values())


def test_case_and_punctuation_do_not_count_but_order_does() -> None:
    (one,), _ = hashed(["The cat, the dog."], 4)
    (other,), _ = hashed(["the CAT — ”the dog“"], 4)
    (third,), _ = hashed(["the dog the cat"], 4)
    assert one == other != third


def test_hashes_do_not_depend_on_what_is_around() -> None:
    (alone,), _ = hashed(["one two three"], 3)
    among, document = hashed(["", "zero", "…one two three", "four"], 3)
    assert (among, document) == ([alone], [2])


def test_their_last_bits_are_as_good_as_random() -> None:
    text = " ".join(str(number) for number in range(4000))
    found, _ = hashed([text], 2)
    ends = np.bincount(np.array(found, dtype=np.uint64).astype(np.int64) & 7, minlength=8)
    assert ends.min() > 400
