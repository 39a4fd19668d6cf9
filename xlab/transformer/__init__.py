"""The transformer: a decoder and the parts it is composed of."""

from xlab.transformer.attention import (
    Attention,
    Context,
    GroupedQueryAttention,
    MultiHeadAttention,
    MultiQueryAttention,
)
from xlab.transformer.block import (
    Block,
    BranchNormBlock,
    EmbeddingShortcutBlock,
    ParallelBlock,
    PostNormBlock,
    PreNormBlock,
    SandwichNormBlock,
)
from xlab.transformer.decoder import Decoder
from xlab.transformer.feed_forward import (
    GEGLU,
    FeedForward,
    GELUFeedForward,
    ReLUFeedForward,
    ReLUSquaredFeedForward,
    SwiGLU,
)
from xlab.transformer.initialisations import (
    GPT2Initialisation,
    Initialisation,
    MuPInitialisation,
    ZeroOutputInitialisation,
)
from xlab.transformer.kernels import ExplicitAttention, FusedAttention
from xlab.transformer.kv_cache import KVCache
from xlab.transformer.lora import LoRA
from xlab.transformer.mixture_of_experts import MixtureOfExperts
from xlab.transformer.norms import LayerNorm, Norm, OffsetRMSNorm, PlainRMSNorm, RMSNorm
from xlab.transformer.placements import Placement
from xlab.transformer.positions import (
    ALiBi,
    LearnedPosition,
    NoPosition,
    Position,
    RotaryPosition,
    SinusoidalPosition,
)
from xlab.transformer.qk_norms import HeadQKNorm, QKNorm, WidthQKNorm
from xlab.transformer.rotary_scaling import (
    DynamicNTKScaling,
    LinearScaling,
    Llama3Scaling,
    RotaryScaling,
    YaRNScaling,
)
from xlab.transformer.values import ValueEmbeddings, ValueMix, ValueResidual

__all__ = [
    "GEGLU",
    "ALiBi",
    "Attention",
    "Block",
    "BranchNormBlock",
    "Context",
    "Decoder",
    "DynamicNTKScaling",
    "EmbeddingShortcutBlock",
    "ExplicitAttention",
    "FeedForward",
    "FusedAttention",
    "GELUFeedForward",
    "GPT2Initialisation",
    "GroupedQueryAttention",
    "HeadQKNorm",
    "Initialisation",
    "KVCache",
    "LayerNorm",
    "LearnedPosition",
    "LinearScaling",
    "Llama3Scaling",
    "LoRA",
    "MixtureOfExperts",
    "MuPInitialisation",
    "MultiHeadAttention",
    "MultiQueryAttention",
    "NoPosition",
    "Norm",
    "OffsetRMSNorm",
    "ParallelBlock",
    "Placement",
    "PlainRMSNorm",
    "Position",
    "PostNormBlock",
    "PreNormBlock",
    "QKNorm",
    "RMSNorm",
    "ReLUFeedForward",
    "ReLUSquaredFeedForward",
    "RotaryPosition",
    "RotaryScaling",
    "SandwichNormBlock",
    "SinusoidalPosition",
    "SwiGLU",
    "ValueEmbeddings",
    "ValueMix",
    "ValueResidual",
    "WidthQKNorm",
    "YaRNScaling",
    "ZeroOutputInitialisation",
]
