"""Rotary scalings: what the papers say of fast and of slow pairs; tests/interop holds them against transformers."""

import math

import pytest
import torch

from xlab.errors import ConfigError
from xlab.transformer import (
    DynamicNTKScaling,
    LinearScaling,
    Llama3Scaling,
    RotaryPosition,
    RotaryScaling,
    YaRNScaling,
)
from xlab.transformer.rotary_scaling import rotary_frequencies

PLAIN = rotary_frequencies(1e4, 64)


def test_linear_scaling_interpolates_every_place() -> None:
    stretched, plain = (RotaryPosition(64, 1, 8, scaling=scaling) for scaling in (LinearScaling(2.0), None))
    torch.testing.assert_close(stretched.table[2 * torch.arange(4)], plain.table[:4])


def test_ntk_keeps_the_fastest_pair_and_stretches_the_slowest_by_the_factor() -> None:
    scaled = DynamicNTKScaling(1.0, 512).frequencies(1e4, 64, 2048)
    assert scaled[0] == PLAIN[0]
    assert PLAIN[-1] / scaled[-1] == pytest.approx(4.0)  # four times the length
    assert torch.equal(DynamicNTKScaling(3.0, 512).frequencies(1e4, 64, 512), PLAIN)


@pytest.mark.parametrize(
    "scaling", [YaRNScaling(8.0, 4096), YaRNScaling(8.0, 4096, truncate=False), Llama3Scaling(8.0, 1.0, 4.0, 4096)]
)
def test_fast_pairs_stay_slow_ones_are_interpolated_and_none_falls_out_of_order(scaling: RotaryScaling) -> None:
    scaled = scaling.frequencies(1e4, 64, 32768)
    turns = 4096 * PLAIN / (2 * math.pi)  # over the original length
    assert torch.equal(scaled[turns > 40], PLAIN[turns > 40])
    torch.testing.assert_close(scaled[turns < 0.5], PLAIN[turns < 0.5] / 8)
    assert (scaled.diff() < 0).all()


def test_yarns_factor_scales_queries_and_keys() -> None:
    x = torch.randn(1, 1, 1, 64, generator=torch.Generator().manual_seed(0))
    position = RotaryPosition(64, 1, 8, scaling=YaRNScaling(4.0, 2))
    torch.testing.assert_close(position.rotate(x, torch.tensor([0])), x * (0.1 * math.log(4.0) + 1))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: LinearScaling(0.5), "the factor of a rotary scaling must be at least 1, got 0.5"),
        (lambda: DynamicNTKScaling(2.0, 0), "original_max_len must be at least 1, got 0"),
        (lambda: YaRNScaling(2.0, 8, beta_fast=1.0, beta_slow=2.0), "beta_fast > beta_slow > 0, got 1.0 and 2.0"),
        (lambda: RotaryPosition(8, 2, 4, base=1.0, scaling=YaRNScaling(2.0, 8)), "a base above 1; got 1.0"),
        (lambda: Llama3Scaling(2.0, 4.0, 1.0, 8), "high_freq_factor > low_freq_factor > 0, got 1.0 and 4.0"),
        (lambda: RotaryPosition(8, 2, 4, head_dim=3), "turn pairs of a head's numbers, got a head_dim of 3"),
        (lambda: RotaryPosition(8, 2, 4, fraction=0.5, head_dim=1), "got a head_dim of 1"),
        (lambda: RotaryPosition(8, 2, 4, fraction=1.5), r"must be in \(0, 1\], got 1.5"),
        (lambda: RotaryPosition(4, 2, 4, scaling=DynamicNTKScaling(2.0, 2)), "a width of 4; got 2"),
    ],
)
def test_refusals(make, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()
