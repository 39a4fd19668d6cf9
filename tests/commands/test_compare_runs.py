"""./manage.py compare on runs that were trained: a table, a page with samples and views, JSON."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from commands_setup import small

from tests.tiny import LIGHTNING_NOISE
from xlab.commands.compare import compare, parse_place
from xlab.commands.lightning_cli import run
from xlab.errors import ConfigError

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """Two variants, two seeds each: ``one`` with rotary positions, ``other`` with ALiBi."""
    root = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for seed in (0, 1):
            for name, position in (("one", "RotaryPosition"), ("other", "ALiBi")):
                changes = {"model__position": position, "data__seed": seed, "trainer__default_root_dir": name}
                run("fit", [*small(corpus, **changes), f"--seed_everything={seed}"])
    return root


def invoke(root: Path, *arguments: str) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return CliRunner().invoke(compare, list(arguments))


def test_a_table_that_ends_in_the_verdict(trained: Path) -> None:
    result = invoke(trained, "one", "other")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "val/bits_per_byte after 768 tokens, lower is better; baseline: position=RotaryPosition"
    assert "position=ALiBi" in lines[-1]
    assert lines[-1].endswith("bits per byte after 768 tokens; 95 %; 2 seeds")
    assert any(line.split() == ["model.position", "RotaryPosition", "ALiBi"] for line in lines)


def test_a_page_with_samples_and_views(trained: Path) -> None:
    exhibits = ["--samples=2", "--prompt=Document", "--views=other/logs/version_0", "--views=one/logs/version_1"]
    result = invoke(trained, "a=one", "b=other", "-o", "page.html", *exhibits, "--json", "found.json")
    assert result.exit_code == 0, result.output
    page = (trained / "page.html").read_text()
    assert page.count("<blockquote>") == 4
    assert page.count('class="view"') == 2
    found = json.loads((trained / "found.json").read_text())
    assert [variant["name"] for variant in found["variants"]] == ["a", "b"]
    assert found["at"] == {"tokens": 768}
    by_hand = [variant["mean"] for variant in found["variants"]]
    assert found["effects"][0]["difference"] == pytest.approx(by_hand[1] - by_hand[0])
    assert invoke(trained, "a=one", "b=other", "-o", "page.html").exit_code == 0  # an older page is replaced


def test_json_alone_on_standard_output(trained: Path) -> None:
    result = invoke(trained, "one", "other", "--at", "flops", "--json", "-", "--level", "0.9")
    found = json.loads(result.output)
    assert list(found["at"]) == ["flops"]
    assert found["level"] == 0.9
    assert {effect["method"] for effect in found["effects"]} == {"paired"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "there is no nowhere"),
        (["one"], "nothing to compare"),
        (["one", "other", "--metric", "val/x"], "it did not log val/x; it has lr, "),
        (["one", "other", "--at", "tokens=many"], "many is no amount"),
        (["one", "other", "--at", "tokens=9M"], "not at 9e+06"),
        (["one", "other", "--baseline", "x"], "--baseline x is none of the variants"),
        (["one", "other", "--samples", "2"], "--samples stand on the page; give -o"),
        (["one", "other", "-o", "nowhere/page.html"], "make nowhere first"),
        (["one", "other", "-o", "one/logs/version_0/run.json"], "no comparison, so it stays"),
        (["=one", "other"], "is no NAME=PATH"),
    ],
)
def test_bad_input_is_one_line(trained: Path, arguments: list[str], said: str) -> None:
    result = invoke(trained, *arguments)
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert line.startswith("manage.py compare: error: ")
    assert said in line


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("tokens", ("tokens", None)),
        ("tokens=2e6", ("tokens", 2e6)),
        ("tokens=2.5M", ("tokens", 2.5e6)),
        ("minutes=10", ("seconds", 600.0)),
        ("flops=1e15", ("flops", 1e15)),
    ],
)
def test_places(text: str, place: tuple[str, float | None]) -> None:
    assert parse_place(text) == place


@pytest.mark.parametrize("text", ["epochs=1", "tokens=0", "tokens=-1", "tokens=1.2.3", "tokens=1X", ""])
def test_places_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--at"):
        parse_place(text)
