"""The comparison's page is whole, asks for nothing, and shows what was found."""

import base64
import json
import re
import shutil
import subprocess
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.lab.made_up_runs import write_trial
from xlab.lab import compare_page, compare_rows, compare_terminal, curves
from xlab.lab.attention_maps import attention_maps
from xlab.lab.comparison import Comparison, compare
from xlab.lab.exhibits import Sample, View
from xlab.lab.run_groups import find_groups
from xlab.lab.runs import Run
from xlab.transformer import ALiBi, Decoder, GroupedQueryAttention, MultiHeadAttention, RotaryPosition
from xlab.transformer.placements import FUSED, Placement

VOID = {"meta", "!doctype", "input"}
NASTY = "</script><b>&\"'"


class Reader(HTMLParser):
    """Collects text and addresses, and sees that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    root = tmp_path_factory.mktemp("ablation")
    for seed in range(3):
        write_trial(root, "base", seed, (3.0, 2.0 + seed / 10, 1.9 + seed / 9))
        write_trial(root, "other", seed, (3.1, 1.9 + seed / 11, 1.7 + seed / 9), model__d_model=64, model__name=NASTY)
        write_trial(root, "third", seed, (3.1, 2.0 + seed / 11, 1.9 + seed / 8), model__d_model=16)
    return compare(find_groups([str(root)]))


@pytest.fixture(scope="module")
def written(found: Comparison) -> str:
    samples = [Sample("base", Path("a.ckpt"), "The", [NASTY]), Sample("other", Path("b.ckpt"), "The", ["cat"])]
    maps = [np.tril(np.full((2, 3, 3), 1 / 3))]
    view = View("a", ["<s>", "The", " cat"], maps, ["the", NASTY], np.array([[0.0, 1.0], [1.0, 0.0]]), 0.5)
    return compare_page.page(found, samples=samples, views=[view])


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


def test_it_is_whole_and_asks_for_nothing(written: str) -> None:
    reader = read(written)
    assert reader.open == []
    assert reader.addresses == []
    assert reader.tags.count("script") == 2  # the data, and what draws them
    assert "prefers-color-scheme: dark" in written
    for address in ("url(", "@import", "fetch(", "XMLHttpRequest", "import("):
        assert address not in written
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", written) == []
    assert written.startswith(compare_page.MARK)


def test_page_and_terminal_have_every_figure(found: Comparison, written: str) -> None:
    texts = "\n".join(read(written).texts)
    terminal = "\n".join(compare_terminal.lines(found))
    for text in [*found.remarks, *found.left_out]:
        assert text in texts
        assert text in terminal
    for _, rows in (compare_rows.figures(found), ([], compare_rows.settings(found))):
        for label, cells in rows:
            for cell in (label, *cells):
                assert cell in texts
                assert cell in terminal


def drawn(page: str) -> dict[str, object]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert match is not None
    data: dict[str, object] = json.loads(match[1])
    return data


def test_what_is_drawn_is_what_was_logged(found: Comparison, written: str) -> None:
    data: dict = drawn(written)
    band = data["curves"]["val/bits_per_byte"][0]
    assert band["x"]["tokens"] == [640, 1280, 1920]
    assert band["seeds"] == [0, 1, 2]
    assert band["runs"][1] == pytest.approx([3.0, 2.1, 1.9 + 1 / 9], abs=1e-4)
    assert data["variants"] == ["base", "other", "third"]
    view = data["views"][0]
    assert np.frombuffer(base64.b64decode(view["maps"][0][0]), np.uint8).reshape(3, 3)[2].tolist() == [85, 85, 85]
    assert view["words"][1] == NASTY
    assert NASTY not in written


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node, to see that the script is one")
def test_the_script_is_one() -> None:
    script = Path(compare_page.__file__).with_suffix(".js")
    subprocess.run(["node", "--check", str(script)], check=True, timeout=60)


@given(st.integers(1, 400), st.integers(2, 50))
def test_a_thinned_curve_keeps_its_mean(n: int, n_points: int) -> None:
    values = np.sin(np.arange(float(n)))
    steps = np.arange(1.0, n + 1)
    thin = curves.thinned(curves.Series(values, steps, steps, steps, steps), n_points)
    assert len(thin) <= n_points
    assert thin.steps[0] >= 1
    assert thin.steps[-1] <= n
    assert (np.diff(thin.steps) > 0).all()
    if n <= n_points:
        assert thin.values.tolist() == values.tolist()


def test_a_band_ends_where_its_shortest_run_does(tmp_path: Path) -> None:
    long = Run(write_trial(tmp_path, "a", 0, (3.0, 2.0, 1.0)) / "logs" / "version_0")
    short = Run(write_trial(tmp_path, "a", 1, (5.0, 4.0)) / "logs" / "version_0")
    band = curves.band([long, short], "val/loss", 100)
    assert band is not None
    assert band.places["steps"].tolist() == [10, 20]
    assert band.values.tolist() == [[6, 4], [10, 8]]
    assert band.seeds == [0, 1]
    assert curves.band([long], "val/none", 100) is None


class Mixed(Placement):
    """Keeps what each layer mixes, and what comes of it."""

    def __init__(self, n_tokens: int, device: torch.device) -> None:
        super().__init__(n_tokens, device)
        self.mixed: list[tuple[torch.Tensor, torch.Tensor]] = []

    def mix(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, **settings: object) -> torch.Tensor:
        out = super().mix(queries, keys, values, **settings)
        self.mixed.append((values, out))
        return out


@pytest.mark.parametrize("position", [RotaryPosition, ALiBi])
@pytest.mark.parametrize(
    "attention",
    [
        MultiHeadAttention,
        partial(GroupedQueryAttention, n_kv_heads=2, scale=0.4),
        partial(GroupedQueryAttention, n_kv_heads=2, cap=1.0, windows=[3, None]),
    ],
)
def test_attention_maps_are_what_the_layers_mix_by(position: type, attention: type) -> None:
    torch.manual_seed(0)
    decoder = Decoder(50, 16, 32, 2, 4, attention=attention, position=position).eval()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ids = torch.randint(50, (9,))
    maps = attention_maps(decoder, ids)
    watched = Mixed(9, ids.device)
    with torch.no_grad():
        decoder.hidden_at(ids[None], watched)
    assert [tuple(each.shape) for each in maps] == [(4, 9, 9)] * 2
    for found, (values, mixed) in zip(maps, watched.mixed, strict=True):
        values = values[0].repeat_interleave(4 // values.size(1), dim=0)
        torch.testing.assert_close(found @ values, mixed[0], atol=1e-5, rtol=1e-4)
        assert (found.triu(1) == 0).all()
        torch.testing.assert_close(found.sum(-1), torch.ones(4, 9))


def test_a_mask_of_what_may_be_seen() -> None:
    queries, keys = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 5, 4)
    seen = torch.tensor([True, False, True, False, False])
    found = FUSED.weights(queries, keys, attn_mask=seen.expand(3, 5))
    assert (found[..., ~seen] == 0).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(1, 2, 3))
