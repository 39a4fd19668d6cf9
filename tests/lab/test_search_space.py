"""A space is read as it was meant, and every proposal lies in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlab.errors import ConfigError
from xlab.lab.search_space import Dimension, parse_space

optuna = pytest.importorskip("optuna", reason="a sweep needs Optuna")


def test_ranges_and_choices_are_told_apart() -> None:
    assert Dimension.parse("a.lr=1e-4..1e-2:log") == Dimension("a.lr", 1e-4, 1e-2, log=True)
    assert Dimension.parse("n=2..6") == Dimension("n", 2, 6, whole=True)
    assert Dimension.parse("d=0..0.5") == Dimension("d", 0.0, 0.5)
    assert Dimension.parse("norm=RMSNorm,LayerNorm") == Dimension("norm", values=("RMSNorm", "LayerNorm"))
    assert Dimension.parse("b=[0.9,0.95],[0.9,0.99]").values == ("[0.9,0.95]", "[0.9,0.99]")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("lr", "is no KEY="),
        ("lr=1e-3", "leaves nothing to choose"),
        ("lr=2..1", "a range goes up"),
        ("lr=0..1:log", "from above 0 with :log"),
        ("lr=1..x", "leaves nothing to choose"),
        ("trainer.max_steps=1..9", "it comes from --budget"),
    ],
)
def test_what_is_no_dimension_is_said(text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Dimension.parse(text)


def test_a_space_names_each_setting_once() -> None:
    with pytest.raises(ConfigError, match="names a twice"):
        parse_space(["a=1..2", "a=3..4"])
    with pytest.raises(ConfigError, match="there is nothing to search"):
        parse_space([])


@given(st.floats(1e-6, 1.0), st.floats(1.1, 100.0), st.booleans())
def test_a_proposal_lies_in_its_range(low: float, ratio: float, log: bool) -> None:
    dimension = Dimension("lr", low, low * ratio, log=log)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    key, _, value = dimension.word(study.ask()).partition("=")
    assert key == "--lr"
    assert low <= float(value) <= low * ratio
