"""The filters against naive formulas on whole distributions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from xlab.errors import GenerationError
from xlab.inference.filters import MinP, Temperature, TopK, TopP, Typical, is_top_k

# few distinct values, so that ties are the rule
tied_rows = arrays("float64", (2, 9), elements=st.integers(-3, 3).map(float)).map(torch.from_numpy)
rows = arrays("float32", (2, 9), elements=st.floats(-30, 30, width=32)).map(torch.from_numpy) | tied_rows


def kept(filtered: Tensor) -> list[list[int]]:
    return [row.isfinite().nonzero().flatten().tolist() for row in filtered]


def ranking(row: Tensor) -> list[int]:
    return sorted(range(row.numel()), key=lambda i: (-row[i].item(), i))


@given(rows, st.integers(1, 12))
def test_top_k_keeps_the_first_k_of_the_ranking(logits: Tensor, k: int) -> None:
    assert kept(TopK(k)(logits)) == [sorted(ranking(row)[:k]) for row in logits]


@given(tied_rows, st.integers(1, 9))
def test_top_k_passes_over_what_is_already_dropped(logits: Tensor, k: int) -> None:
    logits[:, ::2] = -torch.inf
    assert kept(TopK(k)(logits)) == [sorted(i for i in ranking(row)[:k] if i % 2) for row in logits]
    assert is_top_k(logits, k).sum(-1).tolist() == [k, k]


@given(rows, st.sampled_from([1e-300, 1e-6, 1 - 1e-6]) | st.floats(1e-8, 1))
def test_top_p_keeps_the_shortest_start_of_the_ranking_that_reaches_p(logits: Tensor, p: float) -> None:
    for row, survivors in zip(logits, kept(TopP(p)(logits)), strict=True):
        order, mass = ranking(row), row.double().softmax(-1)
        assert survivors == sorted(order[: len(survivors)])
        held = [math.fsum(mass[i].item() for i in order[:n]) for n in (len(survivors) - 1, len(survivors))]
        assert held[0] < p + 1e-9
        assert held[1] > p - 1e-9


def test_top_p_of_one_keeps_even_what_rounding_would_lose() -> None:
    logits = torch.tensor([[0.0, -80.0, -100.0]])
    assert kept(TopP(1.0)(logits)) == [[0, 1, 2]]


def test_top_p_counts_what_top_k_left_as_the_whole() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    # 0.4 of 1 is below p, 0.4 of the 0.7 that top-k leaves is above it
    assert kept(TopP(0.5)(logits)) == [[0, 1]]
    assert kept(TopP(0.5)(TopK(2)(logits))) == [[0]]


@given(rows, st.sampled_from([0.0, 1e-300, 1.0]) | st.floats(1e-8, 1))
def test_min_p_keeps_what_is_likely_enough_beside_the_best(logits: Tensor, p: float) -> None:
    for row, survivors in zip(logits, kept(MinP(p)(logits)), strict=True):
        share = (row.double() - row.double().max()).exp()
        assert set((share > p * (1 + 1e-9)).nonzero().flatten().tolist()) <= set(survivors)
        assert p == 0 or set(survivors) <= set((share > p * (1 - 1e-9)).nonzero().flatten().tolist())
        assert ranking(row)[0] in survivors


@given(rows, st.sampled_from([1e-300, 1e-6, 1.0]) | st.floats(1e-3, 1))
def test_typical_keeps_the_least_unexpected_surprises(logits: Tensor, p: float) -> None:
    for row, survivors in zip(logits, kept(Typical(p)(logits)), strict=True):
        mass = row.double().softmax(-1).tolist()
        entropy = -math.fsum(q * math.log(q) for q in mass if q)
        distance = [abs(-math.log(q) - entropy) if q else math.inf for q in mass]
        held = math.fsum(mass[i] for i in survivors)
        assert held > p - 1e-9
        farthest = max(survivors, key=lambda i: distance[i])
        assert p == 1 or held - mass[farthest] < p + 1e-9
        assert all(distance[i] > distance[farthest] - 1e-9 for i in range(9) if i not in survivors)


def test_typical_passes_over_what_is_already_dropped() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    logits[0, 0] = -torch.inf
    assert kept(Typical(0.99)(logits)) == [[1, 2]]


@given(rows, st.floats(0.05, 20))
def test_temperature_is_division(logits: Tensor, temperature: float) -> None:
    expected = (logits.double() / temperature).softmax(-1)
    torch.testing.assert_close(Temperature(temperature)(logits).softmax(-1).double(), expected, rtol=1e-4, atol=1e-6)


@given(rows, st.sampled_from([1e-6, 1e-30, 1e-320, 1e300]))
def test_extreme_temperatures_give_a_distribution(logits: Tensor, temperature: float) -> None:
    distribution = Temperature(temperature)(logits).softmax(-1)
    torch.testing.assert_close(distribution.sum(-1), torch.ones_like(distribution[:, 0]))
    if temperature < 1e-10:
        best = logits == logits.amax(-1, keepdim=True)
        assert torch.equal(
            distribution > 0, best | (distribution > 0) & (logits > logits.amax(-1, keepdim=True) - 1e-9)
        )


@pytest.mark.parametrize("temperature", [-0.1, math.nan, math.inf])
def test_a_senseless_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(GenerationError, match=f"temperature .* got {temperature}; 0 is greedy"):
        Temperature(temperature)


@pytest.mark.parametrize("k", [0, -3, 1.5, True])
def test_a_senseless_top_k_is_refused(k: int) -> None:
    with pytest.raises(GenerationError, match=f"top_k must be .* got {k}; leave it out to keep every token"):
        TopK(k)


@pytest.mark.parametrize("p", [0, -0.5, 1.01, math.nan])
def test_a_senseless_top_p_is_refused(p: float) -> None:
    with pytest.raises(GenerationError, match=f"top_p must be .* got {p}; 1 keeps every token"):
        TopP(p)


@pytest.mark.parametrize("make", [lambda: MinP(-0.1), lambda: MinP(1.1), lambda: Typical(0), lambda: Typical(1.1)])
def test_other_senseless_shares_are_refused(make) -> None:
    with pytest.raises(GenerationError, match=r"(min|typical)_p must be"):
        make()


@pytest.mark.parametrize("kind", [Temperature, TopP, MinP, Typical])
@pytest.mark.parametrize("value", ["0.5", True, 1j, None, [0.5]])
def test_what_is_no_number_is_refused(kind, value: object) -> None:
    with pytest.raises(GenerationError, match=r"(temperature|_p) must be a number, got "):
        kind(value)
