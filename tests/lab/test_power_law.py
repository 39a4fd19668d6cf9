"""The fit finds the law that the losses were made with, and its intervals hold what they promise."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlab.errors import DataError
from xlab.lab.power_law import fit

SIZES = [1e5, 2e5, 4e5, 8e5, 1.6e6]


def law(x: float, floor: float = 1.7, amplitude: float = 400.0, exponent: float = 0.34) -> float:
    return floor + amplitude * x**-exponent


@given(st.floats(0.5, 3.0), st.floats(50.0, 500.0), st.floats(0.15, 0.8))
def test_without_noise_the_law_is_found(floor: float, amplitude: float, exponent: float) -> None:
    found = fit(SIZES, [law(x, floor, amplitude, exponent) for x in SIZES]).law
    assert found.floor == pytest.approx(floor, rel=0.03, abs=0.03)
    assert found.exponent == pytest.approx(exponent, rel=0.03)
    assert found(1e8) == pytest.approx(law(1e8, floor, amplitude, exponent), rel=0.01)


def test_intervals_hold_what_they_promise() -> None:
    draw = np.random.default_rng(0)
    x = np.repeat(SIZES, 3)
    hits, n = 0, 30
    for number in range(n):
        losses = [law(place) + draw.normal(0, 0.01) for place in x]
        found = fit(x.tolist(), losses, seed=number)
        low, high = found.interval(6.4e6) or (math.nan, math.nan)
        hits += low <= law(6.4e6) + draw.normal(0, 0.01) <= high
    assert hits >= 24  # 95 % are promised; of 30, four standard deviations below are 24


def test_intervals_are_the_same_each_time_and_nest() -> None:
    draw = np.random.default_rng(0)
    losses = [law(x) + draw.normal(0, 0.01) for x in SIZES]
    wide, narrow = fit(SIZES, losses), fit(SIZES, losses, level=0.5)
    assert wide.interval(1e7) == fit(SIZES, losses).interval(1e7)
    (low, high), (inner_low, inner_high) = wide.of("exponent") or (0, 0), narrow.of("exponent") or (0, 0)
    assert low < inner_low < wide.law.exponent < inner_high < high


def test_three_sizes_are_too_few_for_three_parameters() -> None:
    found = fit(SIZES[:3], [law(x) for x in SIZES[:3]])
    assert found.free == 2
    assert found.law.floor == 0.0
    assert "too few for three parameters" in found.remarks[0]
    assert found.of("floor") is None
    held = fit(SIZES[:3], [law(x) for x in SIZES[:3]], floor=1.7)
    assert held.law.exponent == pytest.approx(0.34, abs=0.01)
    assert not held.remarks


def test_as_many_parameters_as_runs_tell_nothing_of_their_error() -> None:
    found = fit(SIZES[:2], [law(x) for x in SIZES[:2]])
    assert found.interval(1e7) is None
    assert found.band(1e7) is None
    assert any("nothing tells how sure" in remark for remark in found.remarks)
    assert found.law(SIZES[0]) == pytest.approx(law(SIZES[0]), rel=1e-3)


def test_losses_that_do_not_fall_lie_at_an_edge() -> None:
    found = fit(SIZES, [3.0, 3.1, 3.2, 3.3, 3.4])
    assert found.law.amplitude == 0
    assert found.law(1e9) == pytest.approx(3.2)


@pytest.mark.parametrize(
    ("x", "losses", "named"),
    [
        ([1e5, 1e5], [3.0, 3.1], "two sizes at least"),
        ([1e5, 2e5], [3.0, math.nan], "no positive number"),
        ([0.0, 2e5], [3.0, 2.0], "no positive number"),
    ],
)
def test_what_cannot_be_fitted_is_said(x: list[float], losses: list[float], named: str) -> None:
    with pytest.raises(DataError, match=named):
        fit(x, losses)
