"""Where the norms stand."""

import torch
from torch import Tensor

from xlab.transformer import (
    Context,
    LayerNorm,
    MultiHeadAttention,
    NoPosition,
    Placement,
    PostNormBlock,
    PreNormBlock,
    SwiGLU,
)


def parts() -> tuple[MultiHeadAttention, SwiGLU]:
    torch.manual_seed(0)
    return MultiHeadAttention(8, 2, 0), SwiGLU(8, 16)


def test_pre_norm_leaves_the_stream_and_post_norm_normalises_it() -> None:
    attention, feed_forward = parts()
    x, norm = torch.randn(1, 4, 8), LayerNorm(8)
    context = Context(NoPosition(8, 2, 4), Placement(4, torch.device("cpu")))

    def attend(x: Tensor) -> Tensor:
        y: Tensor = attention(x, context)
        return y

    pre = PreNormBlock(attention, feed_forward, lambda: LayerNorm(8))
    middle = x + attend(norm(x))
    torch.testing.assert_close(pre(x, context), middle + feed_forward(norm(middle)))

    post = PostNormBlock(attention, feed_forward, lambda: LayerNorm(8))
    middle = norm(x + attend(x))
    torch.testing.assert_close(post(x, context), norm(middle + feed_forward(middle)))


def test_norms_are_not_shared_and_dropout_is_for_training() -> None:
    block = PreNormBlock(*parts(), lambda: LayerNorm(8), dropout=0.5)
    assert block.attention_norm is not block.feed_forward_norm
    x, context = torch.randn(1, 4, 8), Context(NoPosition(8, 2, 4), Placement(4, torch.device("cpu")))
    assert not torch.equal(block(x, context), block(x, context))
    block.eval()
    torch.testing.assert_close(block(x, context), block(x, context), rtol=0.0, atol=0.0)
