"""A small decoder in float64 whose every part shows in its logits, and a tokenizer of bytes."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from xlab.transformer import (
    GEGLU,
    BranchNormBlock,
    Decoder,
    EmbeddingShortcutBlock,
    GELUFeedForward,
    GroupedQueryAttention,
    HeadQKNorm,
    LayerNorm,
    MultiHeadAttention,
    OffsetRMSNorm,
    ParallelBlock,
    PlainRMSNorm,
    ReLUSquaredFeedForward,
    RotaryPosition,
    SandwichNormBlock,
    ValueEmbeddings,
    WidthQKNorm,
)

WINDOWS: dict[str, Any] = {"windows": [3, None]}
# as known models compose their parts
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Mistral": {"attention": partial(GroupedQueryAttention, n_kv_heads=2, windows=[3])},
    "Qwen 3": {
        "attention": partial(GroupedQueryAttention, n_kv_heads=2, head_dim=6, qk_norm=HeadQKNorm),
        "position": partial(RotaryPosition, head_dim=6),
    },
    "OLMo 2": {"attention": partial(MultiHeadAttention, qk_norm=WidthQKNorm), "block": BranchNormBlock},
    "Gemma 2": {
        "attention": partial(GroupedQueryAttention, n_kv_heads=2, cap=5.0, scale=0.4, **WINDOWS),
        "block": SandwichNormBlock,
        "feed_forward": partial(GEGLU, approximate="tanh"),
        "norm": OffsetRMSNorm,
        "embedding_scale": 4.0,
        "logit_cap": 30.0,
    },
    "GPT-NeoX": {
        "attention": partial(MultiHeadAttention, bias=True),
        "block": ParallelBlock,
        "feed_forward": partial(GELUFeedForward, bias=True),
        "norm": LayerNorm,
        "position": partial(RotaryPosition, fraction=0.5),
    },
    "nanochat": {
        "attention": partial(MultiHeadAttention, qk_norm=partial(HeadQKNorm, norm=PlainRMSNorm), **WINDOWS),
        "block": partial(EmbeddingShortcutBlock, embedding_scale=0.3),
        "embedding_norm": PlainRMSNorm,
        "feed_forward": ReLUSquaredFeedForward,
        "logit_cap": 15.0,
        "norm": PlainRMSNorm,
        "tie_embeddings": False,
        "value_mix": ValueEmbeddings,
    },
    "sinks": {"attention": partial(MultiHeadAttention, sinks=True, **WINDOWS)},
    "key shift": {
        "attention": partial(GroupedQueryAttention, n_kv_heads=2, key_shift=0.5),
        "position": partial(RotaryPosition, fraction=0.5),
        "value_mix": ValueEmbeddings,
    },
}


def make_decoder(seed: int = 0, **settings: Any) -> Decoder:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 17, "max_len": 24, "d_model": 16, "n_layers": 2, "n_heads": 4, "d_ff": 16}
    decoder = Decoder(**{**sizes, **settings}).double().eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.dim() == 2:  # far from initialisation, where every token is about as likely as any other
                parameter.normal_(0.0, 0.5)
    return decoder


def recomputed(decoder: Decoder, prompt: Sequence[int], length: int, window: int | None = None) -> list[int]:
    """Greedy, each token from a whole forward pass."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(length):
            ids.append(int(decoder(torch.tensor([ids[-(window or 10**9) :]]))[0, -1].argmax()))
    return ids[len(prompt) :]


class Letters:
    """A tokenizer whose tokens are letters, or whatever else they are given as."""

    def __init__(self, alphabet: Sequence[bytes]) -> None:
        self.alphabet = alphabet

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return b"".join(self.alphabet[token] for token in ids).decode(errors="replace")
