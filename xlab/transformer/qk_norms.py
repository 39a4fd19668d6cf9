"""Norms of queries and keys, which keep their scores from growing without bound.

Letters: B batch, T positions, H query heads, G key-value heads, Dh width of a head.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from xlab.transformer.norms import Norm, RMSNorm


class QKNorm(nn.Module):
    """Normalises queries and keys before they turn; made as ``qk_norm(head_dim, n_heads, n_kv_heads)``.

    Henry et al. 2020 (arXiv 2010.04245); Dehghani et al. 2023 (arXiv 2302.05442, section 2) on what it is good for.
    """

    query: Norm
    key: Norm

    def forward(self, qk: Tensor) -> Tensor:
        """Map queries and keys, side by side among the heads, (B, T, H + G, Dh), to the same."""
        raise NotImplementedError


class HeadQKNorm(QKNorm):
    """Each head by itself, with one scale for all heads' queries and one for their keys, as in Qwen 3.

    Args:
        head_dim: width Dh of a head.
        n_heads: number of query heads H.
        n_kv_heads: number of key-value heads G.
        norm: made with (head_dim).
    """

    def __init__(self, head_dim: int, n_heads: int, n_kv_heads: int, norm: Callable[[int], Norm] = RMSNorm) -> None:
        super().__init__()
        self.sizes = (n_heads, n_kv_heads)
        self.query, self.key = norm(head_dim), norm(head_dim)

    def forward(self, qk: Tensor) -> Tensor:
        queries, keys = qk.split_with_sizes(self.sizes, dim=2)
        return torch.cat((self.query(queries), self.key(keys)), dim=2)


class WidthQKNorm(QKNorm):
    """All heads together, as in OLMo 2 (arXiv 2501.00656, section 3.2).

    Args:
        head_dim: width Dh of a head.
        n_heads: number of query heads H.
        n_kv_heads: number of key-value heads G.
        norm: made with (H Dh), and with (G Dh).
    """

    def __init__(self, head_dim: int, n_heads: int, n_kv_heads: int, norm: Callable[[int], Norm] = RMSNorm) -> None:
        super().__init__()
        self.sizes = (n_heads * head_dim, n_kv_heads * head_dim)
        self.query, self.key = (norm(size) for size in self.sizes)

    def forward(self, qk: Tensor) -> Tensor:
        queries, keys = qk.flatten(-2).split_with_sizes(self.sizes, dim=-1)
        return torch.cat((self.query(queries), self.key(keys)), dim=-1).view_as(qk)
