"""Norms: what keeps the width of the residual stream in scale.

Letters: B batch, T positions, D width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xlab.errors import ConfigError


class Norm(nn.Module):
    """Rescales each position's vector; a norm is made as ``norm(d_model)``."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Fill weights anew, also after ``to_empty`` left them without content."""


class RMSNorm(Norm):
    """Divide by the root mean square, and scale (Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4).

    Args:
        d_model: width D of what is normalised.
        eps: added to the mean square, so that a zero vector stays one.
    """

    def __init__(self, d_model: int, eps: float = 1e-6) -> None:
        super().__init__()
        _check_eps(eps)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return _rms_norm(x, self.weight, self.eps)


class OffsetRMSNorm(RMSNorm):
    """RMSNorm that scales by 1 + weight, so that weight decay draws it towards 1, not 0 (Gemma, arXiv 2403.08295).

    Args:
        d_model: width D of what is normalised.
        eps: added to the mean square, so that a zero vector stays one.
    """

    def __init__(self, d_model: int, eps: float = 1e-6) -> None:
        super().__init__(d_model, eps)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return _rms_norm(x, 1 + self.weight, self.eps)


class PlainRMSNorm(Norm):
    """RMSNorm without a scale to learn, as nanochat has it.

    Args:
        d_model: width D of what is normalised.
        eps: added to the mean square, so that a zero vector stays one.
    """

    def __init__(self, d_model: int, eps: float = 1e-6) -> None:
        super().__init__()
        _check_eps(eps)
        self.d_model, self.eps = d_model, eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (self.d_model,), None, self.eps)


class LayerNorm(Norm):
    """Subtract the mean, divide by the standard deviation, scale and shift (Ba et al. 2016, arXiv 1607.06450).

    Args:
        d_model: width D of what is normalised.
        eps: added to the variance, so that a constant vector becomes zero.
        bias: whether to shift; GPT-2 does, many later models do not.
    """

    def __init__(self, d_model: int, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        _check_eps(eps)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    # PyTorch fuses this on GPUs and when compiling; on a CPU it runs, and differentiates, a dozen small operations
    if x.is_cpu and x.dtype in (torch.float32, torch.float64) and not torch.compiler.is_compiling():
        scaled: Tensor = _CPURMSNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
        return scaled
    # under mixed precision a branch gives bf16, and no fused kernel takes that beside a weight in fp32
    wide = torch.promote_types(x.dtype, weight.dtype)
    return F.rms_norm(x.to(wide), weight.shape, weight, eps).to(x.dtype)


class _CPURMSNorm(torch.autograd.Function):
    """RMSNorm in three passes over memory forward and six backward: a quarter of the composite's time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return (x * _inverse_rms(x, eps)).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        (dy,) = gradients
        # made again from x, so that this is differentiable itself
        scale = _inverse_rms(x, ctx.eps)  # (..., 1)
        dy_x = dy * x
        dweight = (dy_x * scale).flatten(0, -2).sum(0)
        # y = w x s with s = (mean(x²) + ε)^-½, so dx = w s dy - x s³ mean(w dy x)
        dx = (dy * weight) * scale
        dx = torch.addcmul(dx, x, scale.pow(3) * (dy_x @ weight).unsqueeze(-1), value=-1 / x.size(-1))
        return dx, dweight, None


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    return torch.rsqrt(torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.size(-1) + eps)


def _check_eps(eps: float) -> None:
    if eps <= 0:
        raise ConfigError(f"a norm's eps must be above 0, got {eps}")
