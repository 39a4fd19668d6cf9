"""Which tokens a model's heads look at: the attention weights of one text, layer by layer.

Letters: T positions, H query heads, G key-value heads, Dh width of a head.
"""

from typing import Any

import torch
from torch import Tensor

from xlab.transformer.decoder import Decoder
from xlab.transformer.kv_cache import Placement


class Watched(Placement):
    """A pass without a cache that keeps the weights by which each layer mixes; the fast kernel never has them whole.

    Attributes:
        maps: (H, T, T) of each layer so far; a row is a query and sums to one.
    """

    def __init__(self, n_tokens: int, device: torch.device) -> None:
        super().__init__(n_tokens, device)
        self.maps: list[Tensor] = []

    def mix(self, queries: Tensor, keys: Tensor, values: Tensor, **settings: Any) -> Tensor:
        """Attend as the base class does, and compute the weights beside it."""
        self.maps.append(weights(queries, keys, settings.get("attn_mask"), is_causal=settings["is_causal"])[0])
        return super().mix(queries, keys, values, **settings)


def weights(queries: Tensor, keys: Tensor, mask: Tensor | None, *, is_causal: bool) -> Tensor:
    """Give softmax(Q Kᵀ / √Dh) of masked scores, (B, H, T, S) in fp32.

    Args:
        queries: (B, H, T, Dh).
        keys: (B, G, S, Dh).
        mask: as ``scaled_dot_product_attention`` takes it: what to add, or, bool, what may be seen.
        is_causal: whether to mask the future.
    """
    keys = keys.repeat_interleave(queries.size(1) // keys.size(1), dim=1)
    scores = queries.float() @ keys.float().transpose(-2, -1) / queries.size(-1) ** 0.5
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    shares: Tensor = scores.softmax(dim=-1)
    return shares


@torch.no_grad()
def attention_maps(decoder: Decoder, ids: Tensor) -> list[Tensor]:
    """Give the weights of every layer, (H, T, T) each.

    Args:
        decoder: in eval mode.
        ids: (T,) of a text that its context has room for, two at least.
    """
    watched = Watched(len(ids), ids.device)
    decoder.hidden_at(ids[None], watched)
    return watched.maps
