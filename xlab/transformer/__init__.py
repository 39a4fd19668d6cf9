"""The transformer: a decoder and the parts it is composed of."""

from xlab.transformer.attention import (
    Attention,
    Context,
    GroupedQueryAttention,
    MultiHeadAttention,
    MultiQueryAttention,
)
from xlab.transformer.block import Block, PostNormBlock, PreNormBlock
from xlab.transformer.decoder import Decoder
from xlab.transformer.feed_forward import FeedForward, GELUFeedForward, ReLUSquaredFeedForward, SwiGLU
from xlab.transformer.kv_cache import KVCache, Placement
from xlab.transformer.norms import LayerNorm, Norm, RMSNorm
from xlab.transformer.positions import (
    ALiBi,
    LearnedPosition,
    NoPosition,
    Position,
    RotaryPosition,
    SinusoidalPosition,
)

__all__ = [
    "ALiBi",
    "Attention",
    "Block",
    "Context",
    "Decoder",
    "FeedForward",
    "GELUFeedForward",
    "GroupedQueryAttention",
    "KVCache",
    "LayerNorm",
    "LearnedPosition",
    "MultiHeadAttention",
    "MultiQueryAttention",
    "NoPosition",
    "Norm",
    "Placement",
    "Position",
    "PostNormBlock",
    "PreNormBlock",
    "RMSNorm",
    "ReLUSquaredFeedForward",
    "RotaryPosition",
    "SinusoidalPosition",
    "SwiGLU",
]
