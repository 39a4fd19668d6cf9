"""A model card says the same in Markdown and on its page, and survives whatever a model writes."""

import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lab.made_up_runs import write_run
from tests.lab.test_compare_page import Reader
from xlab.errors import DataError
from xlab.lab.model_card import ModelCard, Section, describe
from xlab.lab.model_card_text import markdown, page, pictures
from xlab.lab.report_plots import line
from xlab.lab.runs import Run


def test_both_tell_the_same(tmp_path: Path) -> None:
    record = {"versions": {"torch": "2"}, "command": "xlab.py fit -c a.yaml", "parameters": 42_500, "commit": "abc+"}
    run = Run(write_run(tmp_path / "version_0", record=record))
    header = {"data": {"source": {"class_path": "PythonDocs"}, "vocab_size": 300}, "info": {}}
    card = describe(run, test={"loss": 1.5}, samples=[("The", " cat")], header=header)
    assert card.missing == ["The code was changed after the commit that is named."]
    reader = Reader()
    reader.feed(page(card))
    reader.close()
    assert reader.open == []
    assert reader.addresses == []
    text, texts = markdown(card), "\n".join(reader.texts)
    for section in card.sections:
        assert section.title in text
        for label, cells in section.rows:
            for cell in (label, *cells):
                assert cell in text
                assert cell in texts
        for command in section.commands:
            assert command in text
            assert command in texts
    assert "git checkout abc\n./xlab.py fit -c a.yaml\n" in text
    assert set(re.findall(r"\]\((.*?)\)", text)) == set(pictures(card))


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "version_0", (), record={"status": "failed", "error": "no disk", "last_step": 7})
    said = describe(Run(folder)).missing
    assert said[0] == "This run is failed at step 7: no disk"
    assert "It kept no checkpoint." in said
    (folder / "config.yaml").unlink()
    with pytest.raises(DataError, match="nothing to report on"):
        describe(Run(folder))


@given(st.text(min_size=1, max_size=40), st.text(max_size=40))
def test_what_a_model_writes_breaks_nothing(prompt: str, text: str) -> None:
    card = ModelCard(
        "t", [], [], [Section("Samples", quotes=[(prompt, text)]), Section("T", [], ["v"], [(text, [text])])]
    )
    fence = re.search(r"^(`{3,})text$", markdown(card), re.MULTILINE)
    assert fence is not None
    assert fence[1] not in prompt + text
    quoted = page(card).split("<blockquote>")[1].split("</blockquote>")[0]
    assert "<" not in quoted.replace('<span class="muted">', "").replace("</span>", "")


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=80), st.floats(1e-3, 1e12))
def test_a_line_stays_inside(heights: list[float], end: float) -> None:
    points = [(end * (i + 1) / len(heights), height) for i, height in enumerate(heights)]
    root = ElementTree.fromstring(line(points, title="t", x="tokens", y=""))
    (path,) = (child.get("d", "") for child in root if child.get("class") == "curve")
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", path)]
    assert len(numbers) == 2 * len(points)
    assert all(0 <= number <= 360 and math.isfinite(number) for number in numbers)
    grid = [child for child in root if child.get("class") == "grid"]
    assert 1 <= len(grid) <= 12
