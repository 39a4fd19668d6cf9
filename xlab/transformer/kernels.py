"""Kernels: how queries, keys and values become what attention gives; fused where PyTorch has it, a formula elsewhere.

Letters: B batch, T positions, S keys, H query heads, G key-value heads, Dh width of a head.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xlab.errors import ConfigError
from xlab.transformer import cpu_attention


class FusedAttention(nn.Module):
    """softmax(Q Kᵀ · scale) V, by PyTorch's kernels (Vaswani et al. 2017, arXiv 1706.03762, eq. 1).

    Args:
        scale: of the scores; 1 / √Dh if not given.
    """

    is_fused: ClassVar[bool] = True

    def __init__(self, scale: float | None = None) -> None:
        super().__init__()
        if scale is not None and scale <= 0:
            raise ConfigError(f"the scale of attention scores must be above 0, got {scale}")
        self.scale = scale

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Mix values, (B, H, T, Dh); the arguments are those of ``scaled_dot_product_attention``."""
        if is_causal and attn_mask is None and dropout_p == 0 and cpu_attention.is_faster(queries, keys):
            return cpu_attention.causal_attention(queries, keys, values, scale=self.scale)
        return F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=attn_mask,
            dropout_p=dropout_p,
            is_causal=is_causal,
            enable_gqa=enable_gqa,
            scale=self.scale,
        )

    def weights(
        self, queries: Tensor, keys: Tensor, *, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """The shares by which values are mixed, (B, H, T, S), in fp32 at least; a fused kernel never has them whole.

        Args:
            queries: (B, H, T, Dh).
            keys: (B, G, S, Dh).
            attn_mask: what to add to the scores, or, bool, what may be seen.
            is_causal: whether query t sees keys 0 … t alone.
        """
        keys = _for_each_head(keys, queries.size(1))
        scores = queries @ keys.transpose(-2, -1) * (queries.size(-1) ** -0.5 if self.scale is None else self.scale)
        scores = self.bound(scores.to(torch.promote_types(scores.dtype, torch.float32)))
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None:
            is_bool = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, float("-inf")) if is_bool else scores + attn_mask
        return self.normalise(scores)

    def bound(self, scores: Tensor) -> Tensor:
        """Change the scores before they are masked, (B, H, T, S)."""
        return scores

    def normalise(self, scores: Tensor) -> Tensor:
        """Make shares of masked scores, (B, H, T, S)."""
        return scores.softmax(dim=-1)


class ExplicitAttention(FusedAttention):
    """The same as a formula, for what no fused kernel does: a soft cap of the scores, and sinks.

    A cap c bounds the scores smoothly, c · tanh(score / c) (Gemma 2, arXiv 2408.00118, section 2). A sink is a learned
    score of each head that takes part in the softmax and has no value, so that a head may look at nothing (Agarwal et
    al. 2025, gpt-oss, arXiv 2508.10925, section 2.2; Xiao et al. 2023, arXiv 2309.17453, on why heads want to).

    Args:
        n_heads: number of query heads H.
        scale: of the scores; 1 / √Dh if not given.
        cap: the soft cap; None for none.
        has_sinks: whether heads have sinks.
    """

    is_fused: ClassVar[bool] = False

    def __init__(
        self, n_heads: int, scale: float | None = None, cap: float | None = None, has_sinks: bool = False
    ) -> None:
        super().__init__(scale)
        if cap is not None and cap <= 0:
            raise ConfigError(f"the soft cap of attention scores must be above 0, got {cap}")
        self.cap = cap
        self.sinks = nn.Parameter(torch.zeros(n_heads)) if has_sinks else None

    def reset_parameters(self) -> None:
        """Let sinks start with a score of zero."""
        if self.sinks is not None:
            nn.init.zeros_(self.sinks)

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        enable_gqa: bool = False,
    ) -> Tensor:
        shares = self.weights(queries, keys, attn_mask=attn_mask, is_causal=is_causal).to(values.dtype)
        return F.dropout(shares, dropout_p) @ _for_each_head(values, queries.size(1))

    def bound(self, scores: Tensor) -> Tensor:
        return scores if self.cap is None else soft_cap(scores, self.cap)

    def normalise(self, scores: Tensor) -> Tensor:
        if self.sinks is None:
            return scores.softmax(dim=-1)
        sinks = self.sinks.to(scores.dtype)[:, None, None].expand(*scores.shape[:-1], 1)  # (B, H, T, 1)
        return torch.cat((scores, sinks), dim=-1).softmax(dim=-1)[..., :-1]


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """Bound numbers smoothly: c · tanh(x / c) (Bello et al. 2016, arXiv 1611.09940, section 4)."""
    return torch.tanh(x / cap) * cap


def _for_each_head(x: Tensor, n_heads: int) -> Tensor:
    """Keys or values (B, G, S, Dh) as (B, H, S, Dh)."""
    return x if x.size(1) == n_heads else x.repeat_interleave(n_heads // x.size(1), dim=1)
