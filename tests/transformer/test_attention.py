"""Attention against loops over heads, queries and keys."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xlab.errors import ConfigError
from xlab.transformer import (
    ALiBi,
    Attention,
    Context,
    GroupedQueryAttention,
    HeadQKNorm,
    MultiHeadAttention,
    MultiQueryAttention,
    NoPosition,
    Placement,
    Position,
)


def context(position: Position, n_tokens: int) -> Context:
    return Context(position, Placement(n_tokens, torch.device("cpu")))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("n_kv_heads", [1, 2, 3, 6])
@pytest.mark.parametrize("position", [NoPosition, ALiBi])
def test_groups_of_query_heads_share_keys_and_values(n_kv_heads: int, bias: bool, position: type[Position]) -> None:
    torch.manual_seed(0)
    width, n_heads, n_tokens = 4, 6, 5
    attention = GroupedQueryAttention(n_heads * width, n_heads, 0, n_kv_heads, bias=bias).double()
    place = position(n_heads * width, n_heads, n_tokens).double()
    x = torch.randn(2, n_tokens, n_heads * width, dtype=torch.float64)
    scores_of = place.bias(torch.arange(n_tokens), torch.arange(n_tokens))
    heads = attention.qkv(x).unflatten(-1, (-1, width))  # (B, T, H + 2G, Dh)
    mixed = torch.zeros(2, n_tokens, n_heads, width, dtype=torch.float64)
    for b, head, t in torch.cartesian_prod(*map(torch.arange, (2, n_heads, n_tokens))).tolist():
        group = head // (n_heads // n_kv_heads)
        keys, values = heads[b, : t + 1, n_heads + group], heads[b, : t + 1, n_heads + n_kv_heads + group]
        scores = keys @ heads[b, t, head] / width**0.5
        if scores_of is not None:
            scores = scores + scores_of[0, head, t, : t + 1]
        mixed[b, t, head] = scores.softmax(0) @ values
    torch.testing.assert_close(attention(x, context(place, n_tokens)), attention.out(mixed.flatten(-2)))


def test_multi_head_and_multi_query_are_the_ends_of_grouped() -> None:
    assert MultiHeadAttention(12, 6, 0).qkv.weight.shape == (36, 12)
    assert MultiQueryAttention(12, 6, 0).qkv.weight.shape == (16, 12)
    assert MultiQueryAttention(12, 6, 0).n_kv_heads == 1


def test_dropout_is_for_training() -> None:
    torch.manual_seed(0)
    attention = MultiHeadAttention(8, 2, 0, dropout=0.5)
    x, here = torch.randn(1, 6, 8), context(NoPosition(8, 2, 6), 6)
    assert not torch.equal(attention(x, here), attention(x, here))
    attention.eval()
    torch.testing.assert_close(attention(x, here), attention(x, here), rtol=0.0, atol=0.0)


class WindowedAttention(Attention):
    """A user's own: separate projections, a window that differs by layer, one key-value head for two queries'."""

    def __init__(self, d_model: int, n_heads: int, layer_index: int, windows: tuple[int, ...] = (2, 4)) -> None:
        super().__init__(d_model, n_heads, layer_index, n_kv_heads=n_heads // 2)
        self.window = windows[layer_index % len(windows)]
        self.queries = nn.Linear(d_model, d_model)
        self.keys = nn.Linear(d_model, d_model // 2)
        self.values = nn.Linear(d_model, d_model // 2)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        queries, keys, values = (
            project(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for project in (self.queries, self.keys, self.values)
        )
        keys, values = context.placement.store(self.layer_index, context.rotate(keys), values)
        distance = context.placement.positions.unsqueeze(-1) - context.placement.key_positions
        near = (distance < self.window).reshape(-1, 1, *distance.shape[-2:]) & context.placement.visible()
        mixed = F.scaled_dot_product_attention(context.rotate(queries), keys, values, attn_mask=near, enable_gqa=True)
        y: Tensor = self.out(mixed.transpose(1, 2).flatten(-2))
        return y


@torch.no_grad()
def test_a_users_own_attention_works_and_decodes_with_a_cache(make_decoder, ids: Tensor) -> None:
    decoder = make_decoder(attention=partial(WindowedAttention, windows=(2, 3)))
    assert [block.attention.window for block in decoder.blocks] == [2, 3]
    whole = decoder(ids)
    cache = decoder.make_cache(3)
    stepwise = torch.cat([decoder(chunk, cache) for chunk in ids.split([4, 1, 1, 6], dim=1)], dim=1)
    torch.testing.assert_close(stepwise, whole, rtol=0.0, atol=1e-10)
    # two layers see 1 + 2 tokens back, no further
    changed = ids.clone()
    changed[:, 0] = (ids[:, 0] + 1) % 11
    differs = (decoder(changed) - whole).abs().amax((0, 2)) > 0
    assert differs.tolist() == [True] * 4 + [False] * 8


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MultiHeadAttention(10, 4, 0), "d_model must be divisible by n_heads, got 10 and 4"),
        (lambda: GroupedQueryAttention(12, 6, 0, 4), "n_heads must be divisible by n_kv_heads, got 6 and 4"),
        (lambda: GroupedQueryAttention(12, 6, 0, 0), "got 6 and 0"),
        (lambda: MultiQueryAttention(12, 6, 0, dropout=1.0), r"attention dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_refusals(make, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


def test_queries_and_keys_meet_as_wide_as_the_values() -> None:
    seen = []

    class Wide(HeadQKNorm):
        def forward(self, qk: Tensor) -> Tensor:
            return super().forward(qk).float()

    attention = MultiHeadAttention(8, 2, 0, qk_norm=Wide)
    attention.kernel.register_forward_pre_hook(lambda kernel, tensors: seen.extend(tensors))
    with torch.autocast("cpu", torch.bfloat16):
        attention(torch.randn(1, 6, 8), context(NoPosition(8, 2, 6), 6))
    assert [x.dtype for x in seen] == [torch.bfloat16] * 3


def test_a_shifted_key_has_its_last_numbers_from_the_token_before() -> None:
    torch.manual_seed(0)
    attention = MultiHeadAttention(8, 2, 0, key_shift=0.5)
    x = torch.randn(1, 5, 8)
    _, keys, values = attention.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)  # 3 of (B, H, T, Dh)
    place = Placement(5, torch.device("cpu"))
    shifted, same = place.store(0, keys, values, None, attention.handed_on)
    assert torch.equal(same, values)
    assert torch.equal(shifted[..., :2], keys[..., :2])
    assert torch.equal(shifted[:, :, 1:, 2:], keys[:, :, :-1, 2:])
    assert not shifted[:, :, 0, 2:].any()  # a text begins with nothing to take


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_key_is_not_shifted_as_a_whole(share: float) -> None:
    with pytest.raises(ConfigError, match=r"key_shift must be in \[0, 1\), got"):
        MultiHeadAttention(8, 2, 0, key_shift=share)
