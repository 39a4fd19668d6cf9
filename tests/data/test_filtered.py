"""What passes a filter passes once, in its order; everything else is counted."""

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.listed import Listed, texts
from xlab.data.sources import Document, Filtered, Source, report_lines
from xlab.data.sources.digest_set import DigestSet
from xlab.errors import ConfigError


@given(st.lists(st.text(st.sampled_from("aé😀"), max_size=4), max_size=40))
def test_of_equal_documents_the_first_stays(given: list[str]) -> None:
    source = Filtered(Listed(*given), drop_duplicates=True)
    assert texts(source) == list(dict.fromkeys(given))
    assert texts(source) == list(dict.fromkeys(given))  # a second reading remembers nothing of the first
    assert source.report()["duplicates"] == len(given) - len(set(given))


@given(st.lists(st.text(max_size=8)), st.integers(0, 5), st.one_of(st.none(), st.integers(5, 8)), st.booleans())
def test_every_document_passes_or_is_counted(given: list[str], least: int, most: int | None, once: bool) -> None:
    source = Filtered(Listed(*given), max(least, 0), most, once)
    passed = [text for text in given if least <= len(text) <= (9 if most is None else most)]
    passed = list(dict.fromkeys(passed)) if once else passed
    assert texts(source) == passed
    report = source.report()
    assert report["read"] == len(given)
    assert report["kept"] == len(passed)
    assert report["too_short"] == sum(len(text) < least for text in given)
    assert sum(report[reason] for reason in ("kept", "too_short", "too_long", "duplicates")) == len(given)


def test_the_same_text_with_another_meta_is_a_duplicate() -> None:
    class Titled(Listed):
        def documents(self):
            yield from (Document("same", "first"), Document("same", "second"))

    assert list(Filtered(Titled(), drop_duplicates=True).documents()) == [Document("same", "first")]


def test_filters_of_filters_report_by_line() -> None:
    source = Filtered(Filtered(Listed("a", "bb", "bb", "c" * 2000), drop_duplicates=True), max_length=1000)
    assert texts(source) == ["a", "bb"]
    assert report_lines(source.report()) == [
        "Filtered Filtered Listed: read 3, kept 2, too short 0, too long 1, duplicates 0",
        "  Filtered Listed: read 4, kept 3, too short 0, too long 0, duplicates 1",
    ]
    assert report_lines(Listed("a").report()) == []


def test_identity_follows_the_settings_and_the_source() -> None:
    sources: list[Source] = [
        Listed("a"),
        Filtered(Listed("a")),
        Filtered(Listed("b")),
        Filtered(Listed("a"), 1),
        Filtered(Listed("a"), 0, 1),
        Filtered(Listed("a"), drop_duplicates=True),
    ]
    assert len({source.identity() for source in sources}) == len(sources)


def test_senseless_settings() -> None:
    with pytest.raises(ConfigError, match="min_length must be at least 0, got -1"):
        Filtered(Listed(), -1)
    with pytest.raises(ConfigError, match=r"max_length must be at least 1 and min_length \(9\), got 8"):
        Filtered(Listed(), 9, 8)
    with pytest.raises(ConfigError, match="max_length must be at least 1"):
        Filtered(Listed(), max_length=0)


class TestDigestSet:
    @given(
        st.lists(
            st.one_of(st.binary(min_size=16, max_size=16), st.integers(0, 9).map(lambda i: bytes(15) + bytes([i])))
        )
    )
    def test_it_is_a_set(self, digests: list[bytes]) -> None:
        mine, theirs = DigestSet(), set[bytes]()
        for digest in digests + digests:
            assert mine.add(digest) is (digest not in theirs)
            theirs.add(digest)
        assert len(mine) == len(theirs)

    def test_many_digests_in_little_memory(self) -> None:
        order = random.Random(0)
        digests = [hashlib.blake2b(str(i).encode(), digest_size=16).digest() for i in range(60_000)]
        seen = DigestSet()
        for digest in digests:
            assert seen.add(digest)
        order.shuffle(digests)
        assert not any(seen.add(digest) for digest in digests)
        assert len(seen) == 60_000
        assert 24 * 60_000 <= seen.n_bytes <= 50 * 60_000

    def test_digests_that_begin_alike(self) -> None:
        seen = DigestSet()
        digests = [bytes(8) + i.to_bytes(7, "little") + b"\x07" for i in range(1, 200)]
        assert all(seen.add(digest) for digest in digests)
        assert not any(seen.add(digest) for digest in digests)
