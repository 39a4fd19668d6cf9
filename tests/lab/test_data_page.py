"""The page opens offline and tells what the terminal tells."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.listed import Listed
from xlab.data.packing import BestFit, OneDocument, Packing
from xlab.datamodules import Splits, XLabDataModule
from xlab.lab import report_page, report_rows, report_terminal
from xlab.lab.data_report import DataReport, report
from xlab.lab.data_sample import Share
from xlab.lab.report_plots import curve, histogram, short

VOID = {"meta", "!doctype"}


class Reader(HTMLParser):
    """Collects text and addresses, and sees that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> DataReport:
    documents = [f"Document {number} <b>tells</b> of {number % 7} cats & dogs.\n" * 3 for number in range(60)]
    datamodule = XLabDataModule(
        source=Listed(*documents, documents[0]),
        val_source=Listed(documents[5], "Another text, of a few words only."),
        splits=Splits(1.0, 0, 0, 0),
        vocab_size=300,
        seq_len=16,
        cache_dir=str(tmp_path_factory.mktemp("cache")),
    )
    datamodule.prepare_data()
    return report(datamodule)


@pytest.fixture(scope="module")
def page(found: DataReport) -> Reader:
    reader = Reader()
    reader.feed(report_page.page(found))
    reader.close()
    return reader


def test_it_is_whole_and_asks_for_nothing(found: DataReport, page: Reader) -> None:
    assert page.open == []
    assert page.addresses == []
    assert not page.tags & {"script", "link", "img", "iframe", "object", "b" * 2}
    style = report_page.page(found).split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style


def cells(found: DataReport) -> Iterator[str]:
    for rows in (report_rows.sizes, report_rows.lengths, report_rows.packing, report_rows.repetitions):
        for label, row in rows(found):
            yield from (label, *row)


def test_page_and_terminal_have_every_figure(found: DataReport, page: Reader) -> None:
    terminal = "\n".join(report_terminal.lines(found))
    for cell in cells(found):
        assert cell in page.texts
        assert cell in terminal
    for remark in report_rows.remarks(found):
        assert remark in page.texts
        assert remark in terminal


def test_text_of_the_corpus_is_text_on_the_page(found: DataReport) -> None:
    tokens = [token for token, _ in found.vocabulary.commonest + found.vocabulary.rarest]
    assert any("<" in token or "&" in token for token in tokens)
    written = report_page.page(found)
    assert "<b>tells" not in written
    assert re.search(r'<ul class="tokens"><li>', written)


def test_remarks_name_what_deserves_a_look(found: DataReport) -> None:
    remarks = "\n".join(report_rows.remarks(found))
    assert "50.0 % of the val documents are in train, word for word" in remarks
    assert "of the train documents repeat an earlier one" in remarks


def test_a_packing_is_not_advised_where_it_packs_already(tmp_path: Path) -> None:
    def padding(packing: Packing) -> str:
        datamodule = XLabDataModule(
            source=Listed(*(f"{number} the cat sees the dog" for number in range(9))),
            splits=Splits(1.0, 0, 0, 0),
            vocab_size=264,
            seq_len=64,
            packing=packing,
            cache_dir=str(tmp_path),
        )
        datamodule.prepare_data()
        return next(remark for remark in report_rows.remarks(report(datamodule)) if "is padding" in remark)

    assert "BestFit" in padding(OneDocument())
    assert "BestFit" not in padding(BestFit())


@given(st.floats(0, 1))
def test_a_small_share_is_not_none_and_a_large_one_not_all(value: float) -> None:
    written = report_rows.percent(value)
    assert (written == "0 %") == (value == 0)
    assert (written == "100.0 %") == (value == 1)
    if value > 1e-4:
        assert abs(float(written.removesuffix(" %")) / 100 - value) < 0.001


def test_an_estimate_is_marked() -> None:
    assert report_rows.share(Share(1, 4)) == "25.0 %"
    assert report_rows.share(Share(1, 4, one_in=8)) == "≈ 25.0 %"
    assert report_rows.share(Share(0, 0)) == "–"


@given(st.dictionaries(st.integers(0, 10**7), st.integers(1, 10**9), min_size=1, max_size=40), st.integers(1, 10**6))
def test_a_histogram_counts_everything_once(counts: dict[int, int], mark: int) -> None:
    span = max(1, min(*counts, mark)), max(*counts, mark)
    drawn = histogram(counts, title="t", x="tokens", y="documents", span=span, mark=(mark, "window <&>"))
    root = ElementTree.fromstring(drawn)
    bars = [child for child in root if child.get("class") == "bar"]
    names = [bar[0].text or "" for bar in bars]
    assert sum(int(name.split(": ")[1].split()[0].replace(",", "")) for name in names) == sum(counts.values())
    for child in root.iter():
        for name in ("x", "x1", "x2", "y", "y1", "y2"):
            assert -0.1 <= float(child.get(name, 0)) <= 360.1
    for bar in bars:
        assert float(bar.get("height", -1)) >= 0
        assert float(bar.get("width", -1)) > 0


@given(st.lists(st.integers(1, 10**8), min_size=1, max_size=30))
def test_a_curve_stays_inside(heights: list[int]) -> None:
    points = list(enumerate(sorted(heights, reverse=True), start=1))
    root = ElementTree.fromstring(curve(points, title="t", x="rank", y="count", mark=(10, "rare")))
    (path,) = (child.get("d", "") for child in root if child.get("class") == "curve")
    numbers = np.array([float(number) for number in re.findall(r"[\d.]+", path)]).reshape(-1, 2)
    assert len(numbers) == len(points)
    assert (np.diff(numbers[:, 0]) >= 0).all()
    assert (np.diff(numbers[:, 1]) >= -0.11).all()
    assert numbers.min() >= 0
    assert numbers[:, 0].max() <= 360


@pytest.mark.parametrize(
    ("number", "written"), [(0, "0"), (950, "950"), (1234, "1.23k"), (34_000_000, "34M"), (10**12, "1T"), (0.5, "0.5")]
)
def test_short_numbers(number: float, written: str) -> None:
    assert short(number) == written


def test_the_mark_tells_a_report_from_other_files(found: DataReport, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(report_page.page(found), encoding="utf-8")
    assert path.read_text(encoding="utf-8").startswith(report_page.MARK)
