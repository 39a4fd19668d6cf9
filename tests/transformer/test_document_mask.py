"""A packed document is as if it were alone: its logits, and what it teaches."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from xlab.errors import ConfigError
from xlab.transformer import (
    ALiBi,
    Decoder,
    ExplicitAttention,
    GroupedQueryAttention,
    MultiHeadAttention,
    Placement,
    RotaryPosition,
    key_ranges,
)
from xlab.transformer.documents import DocumentPlacement, place_documents
from xlab.transformer.key_ranges import KeyRanges
from xlab.transformer.placements import FUSED

EXACT = {"rtol": 0.0, "atol": 1e-10}


def numbered(lengths: list[int], n_tokens: int) -> list[int]:
    """Document numbers of a row; what is left is padding, and counted to the last."""
    numbers = [number for number, length in enumerate(lengths) for _ in range(length)]
    return [*numbers, *[max(len(lengths) - 1, 0)] * (n_tokens - len(numbers))]


row = st.lists(st.integers(1, 5), max_size=6).filter(lambda lengths: sum(lengths) <= 12)


def alone(decoder: Decoder, ids: Tensor, lengths: list[list[int]]) -> list[Tensor]:
    """The logits of each document of each row, in a pass of its own."""
    texts = [text for row, some in zip(ids, lengths, strict=True) for text in row[: sum(some)].split(some)]
    return [decoder(text[None])[0] for text in texts]


def packed(decoder: Decoder, ids: Tensor, lengths: list[list[int]]) -> list[Tensor]:
    documents = torch.tensor([numbered(some, ids.size(1)) for some in lengths])
    logits = decoder(ids, documents=documents)
    assert logits.isfinite().all()
    return [text for row, some in zip(logits, lengths, strict=True) for text in row[: sum(some)].split(some)]


@torch.no_grad()
@pytest.mark.parametrize("at_once", [3, 256])
def test_each_document_is_as_if_alone_in_every_architecture(
    decoder: Decoder, ids: Tensor, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_ranges, "QUERIES_AT_ONCE", at_once)
    lengths = [[5, 4, 3], [12], [1, 1, 7]]
    for one, other in zip(packed(decoder, ids, lengths), alone(decoder, ids, lengths), strict=True):
        torch.testing.assert_close(one, other, **EXACT)


@given(lengths=st.lists(row, min_size=1, max_size=3), at_once=st.integers(1, 14))
@pytest.mark.parametrize("position", [RotaryPosition, ALiBi])
@pytest.mark.parametrize("groups", [{"n_kv_heads": 2}, {}])
def test_documents_of_any_lengths_and_their_gradients(
    position: Any, groups: dict[str, int], lengths: list[list[int]], at_once: int
) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "max_len": 12, "d_model": 16, "n_layers": 2, "n_heads": 4, "d_ff": 8}

    def attention(d_model: int, n_heads: int, layer: int) -> Any:
        kind: Any = GroupedQueryAttention if groups else MultiHeadAttention
        return kind(d_model, n_heads, layer, **groups)

    decoder = Decoder(**sizes, attention=attention, position=position).double()
    ids = torch.randint(11, (len(lengths), 12), generator=torch.Generator().manual_seed(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_ranges, "QUERIES_AT_ONCE", at_once)
        gradients = []
        for way in (packed, alone):
            logits = way(decoder, ids, lengths)
            decoder.zero_grad()
            # a weight for each logit, so that none can hide behind another
            loss = sum((text * torch.arange(text.numel()).view_as(text).sin()).sum() for text in logits)
            if isinstance(loss, Tensor):
                loss.backward()
            gradients.append([p.grad.clone() if p.grad is not None else None for p in decoder.parameters()])
        for one, other in zip(*gradients, strict=True):
            if one is None or other is None:
                assert one is other
            else:
                torch.testing.assert_close(one, other, **EXACT)


@torch.no_grad()
def test_a_token_reaches_no_other_document(make_decoder: Any, ids: Tensor) -> None:
    decoder = make_decoder()
    documents = torch.tensor([numbered([4, 5, 3], 12)] * 3)
    changed = ids.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 11
    differs = (decoder(ids, documents=documents) != decoder(changed, documents=documents)).any(dim=-1)
    assert not differs[:, :5].any()
    assert differs[:, 5:9].all()
    assert not differs[:, 9:].any()


@torch.no_grad()
def test_one_document_in_a_row_is_a_plain_pass(make_decoder: Any, ids: Tensor) -> None:
    documents = torch.zeros_like(ids)
    assert type(place_documents(documents)) is Placement
    assert type(place_documents(documents[:, :1])) is Placement
    decoder = make_decoder()
    assert torch.equal(decoder(ids, documents=documents), decoder(ids))


def test_positions_begin_anew_with_every_document() -> None:
    placement = place_documents(torch.tensor([numbered([3, 1, 2], 8), numbered([8], 8)]))
    assert placement.positions.tolist() == [[0, 1, 2, 0, 0, 1, 2, 3], list(range(8))]


def test_no_more_than_a_block_of_the_mask_is_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short documents are attended to in blocks that reach back to their own beginnings, and no further."""
    n_tokens, shapes = 2048, []
    attend = torch.nn.functional.scaled_dot_product_attention

    def seen(queries: Tensor, keys: Tensor, values: Tensor, **settings: Any) -> Tensor:
        shapes.append(tuple(settings["attn_mask"].shape))
        return attend(queries, keys, values, **settings)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", seen)
    placement = place_documents((torch.arange(n_tokens) // 50).expand(2, -1))
    queries = torch.randn(2, 2, n_tokens, 4)
    assert placement.mix(queries, queries, queries).shape == queries.shape
    assert max(n_queries for *_, n_queries, _ in shapes) == 256
    assert max(n_keys for *_, n_keys in shapes) < 256 + 50


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")  # it says so once a process
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("groups", [1, 2])
def test_flex_attention_is_given_the_same_mask(
    groups: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The road that a GPU takes, uncompiled and on the CPU."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    monkeypatch.setattr(key_ranges, "_compiled", lambda: (flex_attention, create_block_mask))
    placement = place_documents(torch.tensor([numbered([60, 1, 80], 150), numbered([150], 150)]))
    assert isinstance(placement, DocumentPlacement)
    torch.manual_seed(0)
    queries = torch.randn(2, 2, 150, 16)
    keys, values = torch.randn(2, 2, 2 // groups, 150, 16).unbind()
    ranges = (placement.ranges(window), key_ranges.window_ranges(150, window, queries.device))
    for each in ranges:
        by_blocks = each.attend(queries, keys, values, FUSED, enable_gqa=groups > 1)
        by_flex = each.by_flex(queries, keys, values, FUSED, enable_gqa=groups > 1)
        torch.testing.assert_close(by_flex, by_blocks)


@pytest.mark.parametrize(
    ("settings", "is_flex"),
    [
        ({}, True),
        ({"dropout_p": 0.1}, False),
        ({"head_dim": 8}, False),
        ({"bias": True}, False),
        ({"kernel": ExplicitAttention(2, cap=5.0)}, False),
    ],
)
def test_a_gpu_takes_flex_attention_where_it_reaches(
    settings: dict[str, Any], is_flex: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    roads: list[str] = []
    monkeypatch.setattr(KeyRanges, "by_flex", lambda *_, **__: roads.append("flex"))
    kernel = settings.get("kernel", FUSED)
    monkeypatch.setattr(type(kernel), "forward", lambda *_, **__: roads.append("blocks") or torch.zeros(1, 2, 8, 16))
    monkeypatch.setattr(Tensor, "is_cuda", True)
    placement = place_documents(torch.tensor([numbered([3, 5], 8)]))
    placement.masking(ALiBi(32, 2, 8) if settings.get("bias") else RotaryPosition(32, 2, 8))
    queries = torch.randn(1, 2, 8, settings.get("head_dim", 16))
    placement.mix(queries, queries, queries, kernel=kernel, dropout_p=settings.get("dropout_p", 0.0))
    assert roads == ["flex" if is_flex else "blocks"]


def test_documents_and_a_cache_are_refused(make_decoder: Any, ids: Tensor) -> None:
    decoder = make_decoder()
    with pytest.raises(ConfigError, match="give no KV cache beside them"):
        decoder(ids, decoder.make_cache(3), torch.zeros_like(ids))
