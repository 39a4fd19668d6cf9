"""What attention hands to PyTorch on a GPU lets it take its fast kernels: seen on tensors that say they are on one.

Letters: B batch, T positions, H query heads, G key-value heads, Dh width of a head.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from xlab import checkpoints
from xlab.transformer.key_ranges import KeyRanges


@dataclass
class Call:
    """The arguments of one ``scaled_dot_product_attention``."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    attn_mask: Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False


def flash_refuses(call: Call) -> str | None:
    """Say why PyTorch would not take its flash kernel: ``can_use_flash_attention`` of ATen's sdp_utils, on Ampere."""
    tensors = (call.queries, call.keys, call.values)
    if any(tensor.dim() != 4 for tensor in tensors):
        return "not four dimensions"
    if any(tensor.dtype not in (torch.bfloat16, torch.float16) for tensor in tensors):
        return "no half precision"
    if any(tensor.stride(-1) != 1 for tensor in tensors):
        return "a head's numbers do not lie side by side"
    if call.attn_mask is not None:
        return "a mask"
    if call.is_causal and call.queries.size(2) != call.keys.size(2):
        return "causal over another number of keys"
    if len({tensor.size(-1) for tensor in tensors}) > 1 or call.queries.size(-1) > 256:
        return "heads of another width"
    heads = [tensor.size(1) for tensor in tensors]
    if heads[1] != heads[2] or (heads[0] != heads[1] and not (call.enable_gqa and heads[0] % heads[1] == 0)):
        return "other numbers of heads"
    return None


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Everything that attention asks of PyTorch; nothing is computed."""
    asked: list[Call] = []

    def attention(queries: Tensor, keys: Tensor, values: Tensor, **settings: Any) -> Tensor:
        asked.append(Call(queries, keys, values, **settings))
        return torch.empty_like(queries)

    monkeypatch.setattr(Tensor, "is_cuda", True)
    monkeypatch.setattr("xlab.transformer.cpu_attention.is_faster", lambda queries, keys: False)
    monkeypatch.setattr("xlab.transformer.kernels.F.scaled_dot_product_attention", attention)
    return asked


@pytest.fixture
def flexed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that went to flex_attention."""
    shapes: list[tuple[int, ...]] = []

    def by_flex(self: KeyRanges, queries: Tensor, *_: Any, **__: Any) -> Tensor:
        shapes.append(tuple(queries.shape))
        return torch.empty_like(queries)

    monkeypatch.setattr(KeyRanges, "by_flex", by_flex)
    return shapes


def train(*, documents: bool = False, **settings: Any) -> None:
    """Pass forward in bf16: two layers, 4 heads of 16, 2 rows of 8 tokens."""
    sizes = {"vocab_size": 50, "max_len": 8, "d_model": 64, "n_layers": 2, "n_heads": 4}
    decoder = checkpoints.build_decoder({**sizes, **settings}).train().to(torch.bfloat16)
    ids = torch.arange(16).view(2, 8)
    decoder.hidden(ids, documents=ids // 3 if documents else None)


def attention(kind: str = "MultiHeadAttention", **settings: Any) -> dict[str, Any]:
    return {"attention": {"class_path": kind, "init_args": settings}}


FLASH = {
    "default": {},
    "dropout": attention(dropout=0.1),
    "grouped queries": attention("GroupedQueryAttention", n_kv_heads=2),
    "one key head": attention("MultiQueryAttention"),
    "normed queries": attention(qk_norm="HeadQKNorm"),
    "own scale": attention(scale=0.1),
    "window beyond the text": attention(windows=[8, None]),
    "value embeddings": {"value_mix": "ValueEmbeddings"},
    "learned places": {"position": "LearnedPosition"},
    "nanochat's block": {"block": "EmbeddingShortcutBlock"},
}


@pytest.mark.parametrize("kind", FLASH)
def test_flash_attention_may_be_taken(calls: list[Call], kind: str) -> None:
    train(**FLASH[kind])
    assert len(calls) == 2
    assert [flash_refuses(call) for call in calls] == [None, None]
    assert all(call.is_causal for call in calls)


def test_a_bias_goes_to_the_kernel_that_takes_masks(calls: list[Call]) -> None:
    train(position="ALiBi")
    for call in calls:
        assert call.attn_mask is not None
        assert not call.is_causal
        assert call.attn_mask.dtype.is_floating_point
        assert call.attn_mask.stride(-1) == 1
        assert flash_refuses(call) == "a mask"


@pytest.mark.parametrize("kind", ["windows", "grouped queries"])
def test_windows_go_to_flex_attention(calls: list[Call], flexed: list[tuple[int, ...]], kind: str) -> None:
    own = {"windows": [3, None]} if kind == "windows" else {"windows": [3, None], "n_kv_heads": 2}
    train(**attention("MultiHeadAttention" if kind == "windows" else "GroupedQueryAttention", **own))
    assert flexed == [(2, 4, 8, 16)]
    assert [flash_refuses(call) for call in calls] == [None]


def test_documents_go_to_flex_attention(
    calls: list[Call], flexed: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(documents=True)
    assert flexed == [(2, 4, 8, 16)] * 2
    assert calls == []


def test_a_cap_is_a_formula(calls: list[Call]) -> None:
    train(**attention(cap=50.0))
    assert calls == []
