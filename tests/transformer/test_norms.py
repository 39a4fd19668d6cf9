"""Norms against their papers' formulas, and their gradients against finite differences."""

import pytest
import torch
import torch.nn.functional as F

from xlab.errors import ConfigError
from xlab.transformer import LayerNorm, RMSNorm


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 + 1


def test_rms_norm_divides_by_the_root_mean_square(x: torch.Tensor) -> None:
    norm = RMSNorm(8, eps=1e-3).double()
    norm.weight.data.uniform_(0.5, 2.0)
    torch.testing.assert_close(norm(x), x / (x.pow(2).mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rms_norm_and_its_gradients_are_pytorchs(x: torch.Tensor, dtype: torch.dtype) -> None:
    norm = RMSNorm(8).to(dtype)
    weight = norm.weight.detach().clone().requires_grad_()
    ours, theirs = (x.to(dtype).requires_grad_() for _ in range(2))
    norm(ours).square().sum().backward()
    F.rms_norm(theirs, (8,), weight, 1e-6).square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm.weight.grad, weight.grad)


def test_rms_norm_can_be_differentiated_twice(x: torch.Tensor) -> None:
    norm = RMSNorm(8).double()

    def scaled(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(norm, {"weight": weight}, x)

    inputs = (x.clone().requires_grad_(), torch.rand(8, dtype=torch.float64, requires_grad=True))
    assert torch.autograd.gradcheck(scaled, inputs)
    assert torch.autograd.gradgradcheck(scaled, inputs)


@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm_divides_by_the_deviation(x: torch.Tensor, bias: bool) -> None:
    norm = LayerNorm(8, bias=bias).double()
    deviation = (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(norm(x), (x - x.mean(-1, keepdim=True)) / deviation)
    assert len(list(norm.parameters())) == 1 + bias


@pytest.mark.parametrize("make", [RMSNorm, LayerNorm])
def test_zero_stays_finite_and_a_senseless_eps_is_refused(make) -> None:
    zero = torch.zeros(1, 8, requires_grad=True)
    make(8)(zero).sum().backward()
    assert zero.grad is not None
    assert zero.grad.isfinite().all()
    with pytest.raises(ConfigError, match="eps must be above 0, got 0"):
        make(8, eps=0.0)


def test_rms_norm_takes_bf16_beside_a_weight_in_fp32(x: torch.Tensor) -> None:
    norm = RMSNorm(8)
    norm.weight.data.uniform_(0.5, 2.0)
    low = x.to(torch.bfloat16)
    assert torch.equal(norm(low), norm(low.float()).to(torch.bfloat16))
