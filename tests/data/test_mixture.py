"""A mixture keeps its proportions over every stretch, and says what became of every source."""

import json
from collections import Counter
from fractions import Fraction
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.listed import Listed, texts
from xlab import factories
from xlab.data.preparation import prepare
from xlab.data.sources import (
    ArrowFiles,
    Filtered,
    HubDataset,
    Mixture,
    ParquetFiles,
    Source,
    TextFiles,
    report_lines,
)
from xlab.data.sources.mixture import Turns
from xlab.data.splits import Corpus
from xlab.data.tokenizers import ByteLevelBPE
from xlab.errors import ConfigError, DataError

weight_lists = st.lists(st.integers(1, 1000), min_size=1, max_size=8)


def harmonic(n: int) -> Fraction:
    return sum((Fraction(1, i) for i in range(1, n + 1)), Fraction(0))


class TestTurns:
    @given(weight_lists, st.lists(st.integers(0, 50), min_size=1, max_size=120))
    @settings(max_examples=60)
    def test_every_stretch_is_within_the_bound(self, weights: list[int], sizes: list[int]) -> None:
        turns = Turns([Fraction(weight) for weight in weights])
        shares = [Fraction(weight, sum(weights)) for weight in weights]
        ahead = [[Fraction(0)] for _ in weights]  # what each was given beyond its share, after every document
        largest = 0
        for size in sizes:
            turn = turns.next()
            turns.took(turn, size)
            largest = max(largest, size)
            for i, share in enumerate(shares):
                ahead[i].append(ahead[i][-1] - share * size + (size if i == turn else 0))
                assert -largest * harmonic(len(weights) - 1) <= ahead[i][-1] <= largest
        # a stretch is what lies between two moments
        bound = largest * (1 + harmonic(len(weights) - 1))
        assert all(max(moments) - min(moments) <= bound for moments in ahead)

    @given(weight_lists)
    def test_a_cycle_of_documents_is_exact(self, weights: list[int]) -> None:
        turns = Turns([Fraction(weight) for weight in weights])
        given = []
        for _ in range(sum(turns.weights)):
            given.append(turns.next())
            turns.took(given[-1], 1)
        assert [given.count(i) for i in range(len(weights))] == turns.weights

    def test_after_one_left_the_others_keep_their_ratio(self) -> None:
        turns = Turns([Fraction(5), Fraction(2), Fraction(1)])
        turns.leave(0)
        given: Counter[int] = Counter()
        for _ in range(300):
            turn = turns.next()
            turns.took(turn, 1)
            given[turn] += 1
        assert given == {1: 200, 2: 100}


def letters(letter: str, n: int, length: int = 1) -> Listed:
    return Listed(*[f"{letter}{i:0{length}}" for i in range(n)])


def mixed(*sources: Source, weights: list[float], exhausted: str = "stop", unit: str = "documents") -> Mixture:
    return Mixture(list(sources), weights, unit=unit, exhausted=exhausted)  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 5)), min_size=1, max_size=4),
    st.sampled_from(["documents", "bytes"]),
)
@settings(max_examples=60)
def test_what_happens_when_a_source_runs_out(given: list[tuple[int, int]], unit: str) -> None:
    sources = [letters("abcd"[i], n) for i, (n, _) in enumerate(given)]
    weights = [float(weight) for _, weight in given]
    whole = [texts(source) for source in sources]
    stop, go_on, repeat = (
        texts(mixed(*sources, weights=weights, exhausted=how, unit=unit)) for how in ("stop", "continue", "repeat")
    )
    for letter, everything in zip("abcd", whole, strict=False):
        # each source's documents come in their order
        assert [text for text in go_on if text[0] == letter] == everything
        some = [text for text in stop if text[0] == letter]
        assert some == everything[: len(some)]
        again = [text for text in repeat if text[0] == letter]
        assert len(again) >= len(everything)
        assert again == [everything[i % len(everything)] for i in range(len(again))]
    assert go_on[: len(stop)] == repeat[: len(stop)] == stop
    assert any(set(everything) <= set(stop) for everything in whole)  # it stopped because one had ended


def test_bytes_and_documents_differ() -> None:
    sources = [Listed(*["x" * 10] * 400), Listed(*["y" * 90] * 400)]
    by_documents = Counter(text[0] for text in islice(texts(mixed(*sources, weights=[1, 1])), 200))
    assert by_documents == {"x": 100, "y": 100}
    by_bytes = "".join(texts(mixed(*sources, weights=[1, 1], unit="bytes")))
    assert abs(by_bytes.count("x") - by_bytes.count("y")) <= 180


def test_the_report_tells_every_source() -> None:
    once = Filtered(letters("a", 30), min_length=3)
    source = mixed(once, letters("b", 40), weights=[0.5, 1.5], exhausted="repeat")
    texts(source)
    report = source.report()
    assert report["documents"] == sum(each["documents"] for each in report["sources"])
    assert [each["weight"] for each in report["sources"]] == [0.25, 0.75]
    assert [each["documents"] for each in report["sources"]] == [20, 61]  # the 61st, and then the end of the first
    assert [each["times_read_whole"] for each in report["sources"]] == [1, 1]
    assert [each["share"] for each in report["sources"]] == [20 / 81, 61 / 81]
    assert report["sources"][0]["too_short"] == 10
    assert json.loads(json.dumps(report)) == report
    assert report_lines(report)[0].startswith("Mixture: documents 81, bytes ")
    assert report_lines(report)[2].startswith("  Listed: weight 0.75, share 0.7531, documents 61")


def test_filters_of_a_repeated_source_count_it_once() -> None:
    once = Filtered(letters("a", 5), min_length=3)
    with pytest.raises(DataError, match="Filtered Listed gives no document with text, so it cannot be part"):
        texts(mixed(once, letters("b", 3), weights=[1, 1]))
    few = Filtered(letters("a", 12), min_length=3)
    assert len(texts(mixed(few, letters("b", 40), weights=[1, 1], exhausted="repeat"))) == 81
    assert few.report()["read"] == 12


def test_mixtures_of_mixtures() -> None:
    inner = mixed(letters("a", 100), letters("b", 100), weights=[1, 1])
    assert Counter(text[0] for text in islice(texts(mixed(inner, letters("c", 99), weights=[2, 1])), 150)) == {
        "a": 50,
        "b": 50,
        "c": 50,
    }


def test_settings_travel_as_plain_data() -> None:
    files = [TextFiles(["a/*.txt", "b.txt"]), Filtered(ParquetFiles("c.parquet"), 10, None, True)]
    inner = Mixture([ArrowFiles("d.arrow"), HubDataset("some/thing", streaming=True, max_documents=9)], [1, 2.5])
    settings = factories.plain(Mixture([*files, inner], [0.5, 0.3, 0.2], "documents", "repeat"))
    assert factories.plain(factories.build(json.loads(json.dumps(settings)))) == settings


def test_identity_follows_all_that_changes_the_documents() -> None:
    a, b = letters("a", 3), letters("b", 3)
    mixtures = [
        mixed(a, b, weights=[1, 2]),
        mixed(a, b, weights=[2, 1]),
        mixed(b, a, weights=[1, 2]),
        mixed(a, b, weights=[1, 2], unit="bytes"),
        mixed(a, b, weights=[1, 2], exhausted="repeat"),
        mixed(a, letters("b", 4), weights=[1, 2]),
    ]
    assert len({mixture.identity() for mixture in mixtures}) == len(mixtures)
    assert mixed(a, b, weights=[0.1, 0.2]).identity() == mixtures[0].identity()  # the same documents


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_weight_must_be_above_0(weight: float) -> None:
    with pytest.raises(ConfigError, match=rf"Mixture's weight of Listed is {weight}; make it above 0, or drop both\."):
        mixed(Listed("a"), Listed("b"), weights=[1, weight])


def test_senseless_settings() -> None:
    with pytest.raises(ConfigError, match="Mixture has 1 sources and 2 weights; give one weight each"):
        mixed(Listed("a"), weights=[1, 2])
    with pytest.raises(ConfigError, match="Mixture has 0 sources"):
        mixed(weights=[])
    with pytest.raises(ConfigError, match="exhausted is 'end'; it can be stop, continue, repeat"):
        mixed(Listed("a"), weights=[1], exhausted="end")
    with pytest.raises(ConfigError, match="unit is 'tokens'; it can be bytes, documents"):
        mixed(Listed("a"), weights=[1], unit="tokens")
    with pytest.raises(ConfigError, match="'PythonDocs', which is no source"):
        Mixture(["PythonDocs"], [1])  # type: ignore[list-item]


def test_an_estimate_of_bytes() -> None:
    a, b = letters("a", 10), letters("b", 20)  # 20 and 50 bytes
    for exhausted in ("stop", "continue", "repeat"):
        source = mixed(a, b, weights=[1, 1], unit="bytes", exhausted=exhausted)
        estimate = source.n_bytes()
        assert estimate is not None
        assert abs(estimate - sum(map(len, texts(source)))) <= 6
    assert mixed(a, b, weights=[1, 1]).n_bytes() is None


def test_preparation_reports_and_holds_the_proportions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = mixed(letters("a", 300), Filtered(letters("b", 900), drop_duplicates=True), weights=[1, 2])
    corpus = Corpus(source, {"train": 0.8, "val": 0.2})
    prepared = prepare(corpus, ByteLevelBPE(), vocab_size=259, cache_dir=tmp_path)
    described = prepared.description["sources"]["divided"]
    assert [each["documents"] for each in described["sources"]] == [300, 601]
    assert prepared.n_documents("train") + prepared.n_documents("val") == described["documents"] == 901
    assert "Filtered Listed: read 6" in capsys.readouterr().err
