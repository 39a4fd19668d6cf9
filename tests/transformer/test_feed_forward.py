"""Feed-forward layers against their formulas, and their default widths."""

import math

import pytest
import torch

from xlab.errors import ConfigError
from xlab.transformer import GELUFeedForward, ReLUFeedForward, ReLUSquaredFeedForward, SwiGLU


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("bias", [False, True])
def test_swiglu_gates_the_second_half_by_the_first(x: torch.Tensor, bias: bool) -> None:
    layer = SwiGLU(8, 5, bias=bias)
    inner = layer.gate_up(x)
    gate, up = inner[..., :5], inner[..., 5:]
    torch.testing.assert_close(layer(x), layer.down(gate / (1 + (-gate).exp()) * up))


def test_plain_layers_apply_their_activation(x: torch.Tensor) -> None:
    relu = ReLUFeedForward(8, 5, bias=True)
    torch.testing.assert_close(relu(x), relu.down(relu.up(x).clamp(min=0)))
    squared = ReLUSquaredFeedForward(8, 5)
    torch.testing.assert_close(squared(x), squared.down(squared.up(x).clamp(min=0) ** 2))
    gelu = GELUFeedForward(8, 5, bias=True)
    inner = gelu.up(x)
    torch.testing.assert_close(gelu(x), gelu.down(inner * (1 + torch.erf(inner / math.sqrt(2))) / 2))
    gelu.approximate = "tanh"
    cubic = math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)
    torch.testing.assert_close(gelu(x), gelu.down(inner * (1 + torch.tanh(cubic)) / 2))


def test_default_widths() -> None:
    assert GELUFeedForward(48).d_ff == ReLUSquaredFeedForward(48).d_ff == 192
    assert SwiGLU(48).d_ff == 128  # exactly 8/3 · 48
    assert SwiGLU(49).d_ff == 192
    assert SwiGLU(384).d_ff == 1024


@pytest.mark.parametrize("make", [GELUFeedForward, ReLUFeedForward, ReLUSquaredFeedForward, SwiGLU])
def test_a_senseless_width_is_refused(make) -> None:
    with pytest.raises(ConfigError, match="d_ff must be at least 1, got 0"):
        make(8, 0)
