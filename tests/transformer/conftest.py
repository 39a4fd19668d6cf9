"""Every architecture that the parts can make, small and in float64."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from xlab.transformer import (
    GEGLU,
    ALiBi,
    BranchNormBlock,
    Decoder,
    DynamicNTKScaling,
    EmbeddingShortcutBlock,
    GELUFeedForward,
    GroupedQueryAttention,
    HeadQKNorm,
    LayerNorm,
    LearnedPosition,
    LinearScaling,
    Llama3Scaling,
    MultiHeadAttention,
    MultiQueryAttention,
    NoPosition,
    OffsetRMSNorm,
    ParallelBlock,
    PlainRMSNorm,
    PostNormBlock,
    PreNormBlock,
    ReLUSquaredFeedForward,
    RMSNorm,
    RotaryPosition,
    SandwichNormBlock,
    SinusoidalPosition,
    SwiGLU,
    ValueEmbeddings,
    ValueResidual,
    WidthQKNorm,
    YaRNScaling,
)

MakeDecoder = Callable[..., Decoder]

PARTS: dict[str, list[Any]] = {
    "position": [RotaryPosition, LearnedPosition, SinusoidalPosition, ALiBi, NoPosition],
    "attention": [MultiHeadAttention, partial(GroupedQueryAttention, n_kv_heads=2), MultiQueryAttention],
    "norm": [RMSNorm, LayerNorm],
    "feed_forward": [SwiGLU, GELUFeedForward, ReLUSquaredFeedForward],
    "block": [PreNormBlock, PostNormBlock],
}
SMALL_WINDOWS = {"windows": [3, None]}
# one at a time, and as known models have them together
OTHERS: dict[str, dict[str, Any]] = {
    "windows": {"attention": partial(MultiHeadAttention, windows=[3, 1])},
    "windows and groups": {"attention": partial(GroupedQueryAttention, n_kv_heads=2, **SMALL_WINDOWS)},
    "windows and ALiBi": {"attention": partial(MultiHeadAttention, **SMALL_WINDOWS), "position": ALiBi},
    "cap": {"attention": partial(GroupedQueryAttention, n_kv_heads=2, cap=2.0, scale=0.3)},
    "scale": {"attention": partial(GroupedQueryAttention, n_kv_heads=2, scale=0.3)},
    "sinks": {"attention": partial(MultiQueryAttention, sinks=True, **SMALL_WINDOWS)},
    "head_dim": {
        "attention": partial(GroupedQueryAttention, n_kv_heads=2, head_dim=10, bias=True, out_bias=False),
        "position": partial(RotaryPosition, head_dim=10),
    },
    "QK-norm": {"attention": partial(GroupedQueryAttention, n_kv_heads=2, qk_norm=HeadQKNorm)},
    "QK-norm over the width": {"attention": partial(GroupedQueryAttention, n_kv_heads=2, qk_norm=WidthQKNorm)},
    "key shift": {
        "attention": partial(GroupedQueryAttention, n_kv_heads=2, key_shift=0.67),
        "position": partial(RotaryPosition, fraction=0.34),
    },
    "key shift and windows": {"attention": partial(MultiHeadAttention, key_shift=0.5, **SMALL_WINDOWS)},
    "a third of the head turns": {"position": partial(RotaryPosition, fraction=0.34)},
    "linear scaling": {"position": partial(RotaryPosition, scaling=LinearScaling(2.0))},
    "NTK scaling": {"position": partial(RotaryPosition, scaling=DynamicNTKScaling(2.0, 6))},
    "YaRN": {"position": partial(RotaryPosition, scaling=YaRNScaling(2.0, 6))},
    "Llama 3": {"position": partial(RotaryPosition, scaling=Llama3Scaling(2.0, 0.1, 0.5, 6))},
    "GEGLU": {"feed_forward": GEGLU},
    "OffsetRMSNorm": {"norm": OffsetRMSNorm, "embedding_norm": PlainRMSNorm},
    "BranchNormBlock": {"block": BranchNormBlock},
    "SandwichNormBlock": {"block": SandwichNormBlock},
    "ParallelBlock": {"block": ParallelBlock},
    "EmbeddingShortcutBlock": {"block": EmbeddingShortcutBlock},
    "value embeddings": {
        "value_mix": ValueEmbeddings,
        "attention": partial(GroupedQueryAttention, n_kv_heads=2, **SMALL_WINDOWS),
    },
    "value residual": {"value_mix": ValueResidual},
    "scales and cap of the logits": {"embedding_scale": 3.0, "logit_scale": 0.5, "logit_cap": 4.0},
    "as Gemma 2": {
        "attention": partial(GroupedQueryAttention, n_kv_heads=2, cap=5.0, **SMALL_WINDOWS),
        "block": SandwichNormBlock,
        "feed_forward": partial(GEGLU, approximate="tanh"),
        "norm": OffsetRMSNorm,
        "logit_cap": 30.0,
    },
    "as nanochat": {
        "attention": partial(MultiHeadAttention, qk_norm=partial(HeadQKNorm, norm=PlainRMSNorm), **SMALL_WINDOWS),
        "block": EmbeddingShortcutBlock,
        "embedding_norm": PlainRMSNorm,
        "feed_forward": ReLUSquaredFeedForward,
        "logit_cap": 15.0,
        "norm": PlainRMSNorm,
        "tie_embeddings": False,
        "value_mix": ValueEmbeddings,
    },
}
ARCHITECTURES = [dict(zip(PARTS, parts, strict=True)) for parts in itertools.product(*PARTS.values())]


def name(parts: dict[str, Any]) -> str:
    return "-".join(getattr(part, "func", part).__name__ for part in parts.values())


@pytest.fixture
def make_decoder() -> MakeDecoder:
    """Makes a small float64 decoder with weights large enough that every part shows in the logits."""

    def make(**settings: Any) -> Decoder:
        torch.manual_seed(0)
        sizes = {"vocab_size": 11, "max_len": 12, "d_model": 24, "n_layers": 2, "n_heads": 4, "d_ff": 16}
        decoder = Decoder(**{**sizes, **settings}).double().eval()
        with torch.no_grad():
            for parameter in decoder.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.5)
        return decoder

    return make


@pytest.fixture(params=[*ARCHITECTURES, *OTHERS.values()], ids=[*map(name, ARCHITECTURES), *OTHERS])
def decoder(request: pytest.FixtureRequest, make_decoder: MakeDecoder) -> Decoder:
    """One of every architecture."""
    return make_decoder(**request.param)


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(11, (3, 12), generator=torch.Generator().manual_seed(1))
