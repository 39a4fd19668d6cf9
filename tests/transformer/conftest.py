"""Every architecture that the parts can make, small and in float64."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from xlab.transformer import (
    ALiBi,
    Decoder,
    GELUFeedForward,
    GroupedQueryAttention,
    LayerNorm,
    LearnedPosition,
    MultiHeadAttention,
    MultiQueryAttention,
    NoPosition,
    PostNormBlock,
    PreNormBlock,
    ReLUSquaredFeedForward,
    RMSNorm,
    RotaryPosition,
    SinusoidalPosition,
    SwiGLU,
)

MakeDecoder = Callable[..., Decoder]

PARTS: dict[str, list[Any]] = {
    "position": [RotaryPosition, LearnedPosition, SinusoidalPosition, ALiBi, NoPosition],
    "attention": [MultiHeadAttention, partial(GroupedQueryAttention, n_kv_heads=2), MultiQueryAttention],
    "norm": [RMSNorm, LayerNorm],
    "feed_forward": [SwiGLU, GELUFeedForward, ReLUSquaredFeedForward],
    "block": [PreNormBlock, PostNormBlock],
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


@pytest.fixture(params=ARCHITECTURES, ids=name)
def decoder(request: pytest.FixtureRequest, make_decoder: MakeDecoder) -> Decoder:
    """One of every architecture."""
    return make_decoder(**request.param)


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(11, (3, 12), generator=torch.Generator().manual_seed(1))
