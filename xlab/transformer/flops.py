"""Count the arithmetic of a decoder without running it.

Letters: T positions, N weights of matrix products, L layers, H heads, Dh their width.
"""

from typing import Any

from torch import nn

from xlab.transformer.decoder import Decoder
from xlab.transformer.mixture_of_experts import mixtures


def flops_per_token(decoder: Decoder, seq_len: int) -> int:
    """Count the floating-point operations of training on a token: 6 N + 12 L H Dh T.

    A product takes two operations a weight, and its backward pass twice as many; attention's queries meet T keys and
    as many values, as if none were masked (Chowdhery et al. 2022, arXiv 2204.02311, appendix B). Forward alone is a
    third of it. Of a mixture's experts as many count as a token meets. Norms, activations and the look-up of embeddings
    are left out.

    Args:
        decoder: may be on the meta device.
        seq_len: T.
    """
    weights = sum(module.weight.numel() for module in decoder.modules() if isinstance(module, nn.Linear))
    weights -= sum(mixture.idle_weights() for mixture in mixtures(decoder))
    if decoder.output is None:
        weights += decoder.unembedding.numel()
    attentions: list[Any] = [block.attention for block in decoder.blocks]
    width: int = sum(attention.n_heads * attention.head_dim for attention in attentions)
    total: int = 6 * weights + 12 * width * seq_len
    return total
