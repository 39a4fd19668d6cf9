"""Which tokens a model's heads look at: the attention weights of one text, layer by layer.

Letters: T positions, H query heads.
"""

from typing import Any

import torch
from torch import Tensor

from xlab.transformer.decoder import Decoder
from xlab.transformer.kernels import FusedAttention
from xlab.transformer.placements import FUSED, Placement


class Watched(Placement):
    """A pass without a cache that keeps the weights by which each layer mixes; the fast kernel never has them whole.

    Attributes:
        maps: (H, T, T) of each layer so far; a row is a query and sums to one, or to less where there are sinks.
    """

    def __init__(self, n_tokens: int, device: torch.device) -> None:
        super().__init__(n_tokens, device)
        self.maps: list[Tensor] = []

    def mix(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        kernel: FusedAttention = FUSED,
        window: int | None = None,
        **settings: Any,
    ) -> Tensor:
        """Attend as the base class does, and compute the weights beside it."""
        mask, is_causal = settings["attn_mask"], settings["is_causal"]
        if window is not None and mask is None:
            mask, is_causal = self.visible(window), False
        self.maps.append(kernel.weights(queries, keys, attn_mask=mask, is_causal=is_causal)[0])
        return super().mix(queries, keys, values, kernel=kernel, window=window, **settings)


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
