"""Kernels: scale, soft cap and sinks against formulas, number by number."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from xlab.errors import ConfigError
from xlab.transformer import ExplicitAttention, FusedAttention, GroupedQueryAttention
from xlab.transformer.key_ranges import window_ranges
from xlab.transformer.placements import Placement


def by_formula(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    scale: float,
    cap: float | None,
    sinks: list[float] | None,
    reach: int,
) -> Tensor:
    """One head, one number at a time: each query sees ``reach`` tokens, its own the last of them."""
    out = torch.zeros_like(queries)
    for t in range(len(queries)):
        seen = range(max(0, t - reach + 1), t + 1)
        scores = [float(queries[t] @ keys[s]) * scale for s in seen]
        if cap is not None:
            scores = [cap * math.tanh(score / cap) for score in scores]
        total = sum(map(math.exp, scores)) + (math.exp(sinks[0]) if sinks else 0.0)
        for score, s in zip(scores, seen, strict=True):
            out[t] += math.exp(score) / total * values[s]
    return out


@given(
    n_tokens=st.integers(1, 9),
    scale=st.sampled_from([0.2, 1.0]),
    cap=st.sampled_from([None, 0.7, 5.0]),
    has_sinks=st.booleans(),
    window=st.sampled_from([None, 1, 3]),
)
def test_what_a_head_mixes_is_the_formulas(
    n_tokens: int, scale: float, cap: float | None, has_sinks: bool, window: int | None
) -> None:
    torch.manual_seed(0)
    queries, keys, values = torch.randn(3, 1, 1, n_tokens, 4, dtype=torch.float64).unbind()
    kernel = ExplicitAttention(1, scale, cap, has_sinks).double()
    sinks = None
    if kernel.sinks is not None:
        torch.nn.init.constant_(kernel.sinks, 0.8)
        sinks = [0.8]
    placement = Placement(n_tokens, queries.device)
    with torch.no_grad():
        found = placement.mix(
            queries, keys, values, kernel=kernel, window=window, attn_mask=None, is_causal=n_tokens > 1
        )
    expected = by_formula(
        queries[0, 0], keys[0, 0], values[0, 0], scale=scale, cap=cap, sinks=sinks, reach=window or n_tokens
    )
    torch.testing.assert_close(found[0, 0], expected)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_without_cap_and_sinks_the_formula_is_the_fused_kernel(scale: float | None) -> None:
    torch.manual_seed(0)
    queries = torch.randn(2, 4, 5, 8)
    keys, values = torch.randn(2, 2, 2, 5, 8).unbind()
    explicit, fused = ExplicitAttention(4, scale), FusedAttention(scale)
    for settings in ({"is_causal": True}, {"attn_mask": torch.ones(5, 5, dtype=torch.bool).tril(1)}):
        torch.testing.assert_close(
            explicit(queries, keys, values, enable_gqa=True, **settings),
            fused(queries, keys, values, enable_gqa=True, **settings),
        )


@torch.no_grad()
def test_a_sink_of_minus_infinity_is_none_and_a_large_one_takes_everything() -> None:
    torch.manual_seed(0)
    queries, keys, values = torch.randn(3, 1, 2, 6, 4).unbind()
    kernel = ExplicitAttention(2, has_sinks=True)
    assert kernel.sinks is not None
    kernel.sinks.copy_(torch.tensor([-torch.inf, 50.0]))
    mixed = kernel(queries, keys, values, is_causal=True)
    torch.testing.assert_close(mixed[:, :1], FusedAttention()(queries, keys, values, is_causal=True)[:, :1])
    assert mixed[:, 1].abs().max() < 1e-9


def test_what_is_dropped_is_dropped_in_training_alone() -> None:
    torch.manual_seed(0)
    queries = torch.randn(1, 1, 64, 4)
    kernel = ExplicitAttention(1, cap=5.0)
    kept = kernel(queries, queries, torch.ones(1, 1, 64, 1), is_causal=True, dropout_p=0.0)
    torch.testing.assert_close(kept, torch.ones(1, 1, 64, 1))
    assert kernel(queries, queries, torch.ones(1, 1, 64, 1), is_causal=True, dropout_p=0.5).std() > 0.1


def test_long_texts_make_no_whole_matrix_of_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    bound = ExplicitAttention.bound
    monkeypatch.setattr(
        ExplicitAttention, "bound", lambda self, scores: shapes.append(tuple(scores.shape)) or bound(self, scores)
    )
    queries = torch.randn(1, 1, 1000, 4)
    placement = Placement(1000, queries.device)
    for window, keys_at_most in ((None, 1000), (50, 256 + 50)):
        shapes.clear()
        placement.mix(
            queries,
            queries,
            queries,
            kernel=ExplicitAttention(1, cap=2.0),
            window=window,
            attn_mask=None,
            is_causal=True,
        )
        assert [rows for *_, rows, _ in shapes] == [256, 256, 256, 232]
        assert max(keys for *_, keys in shapes) <= keys_at_most


def test_a_window_as_long_as_the_text_hides_nothing() -> None:
    torch.manual_seed(0)
    queries, keys, values = torch.randn(3, 1, 2, 300, 4).unbind()
    whole = FusedAttention()(queries, keys, values, is_causal=True)
    for window in (None, 300, 1000):
        ranges = window_ranges(300, window, queries.device)
        torch.testing.assert_close(ranges.attend(queries, keys, values, FusedAttention()), whole)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"scale": 0.0}, "the scale of attention scores must be above 0, got 0.0"),
        ({"cap": -1.0}, "the soft cap of attention scores must be above 0, got -1.0"),
        ({"windows": []}, "attention's windows are an empty list"),
        ({"windows": [4, 0]}, "a window must hold at least the query's own token, got 0"),
        ({"head_dim": 0}, "attention's head_dim must be at least 1, got 0"),
    ],
)
def test_refusals(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        GroupedQueryAttention(8, 2, 0, 2, **settings)  # type: ignore[arg-type]
