"""Blocks: how attention and feed-forward join the residual stream.

Letters: B batch, T positions, D width.
"""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from xlab.transformer.attention import Attention, Context
from xlab.transformer.feed_forward import FeedForward
from xlab.transformer.norms import Norm


class Block(nn.Module):
    """One layer of a decoder; made as ``block(attention, feed_forward, make_norm, dropout)``.

    Args:
        attention: of this layer.
        feed_forward: of this layer.
        make_norm: makes a new norm of the model's width; called as often as the block needs one.
        dropout: share of each branch's output dropped in training.

    Attributes:
        needs_final_norm: whether what leaves the last block must be normalised before the vocabulary sees it.
    """

    needs_final_norm: ClassVar[bool] = True

    def __init__(
        self,
        attention: Attention,
        feed_forward: FeedForward,
        make_norm: Callable[[], Norm],
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention_norm = make_norm()
        self.attention = attention
        self.feed_forward_norm = make_norm()
        self.feed_forward = feed_forward
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        raise NotImplementedError


class PreNormBlock(Block):
    """Normalise what enters each branch; the stream itself stays as it is (Xiong et al. 2020, arXiv 2002.04745)."""

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), context))
        x = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return x


class PostNormBlock(Block):
    """Normalise the stream after each branch joins it (Vaswani et al. 2017, arXiv 1706.03762, section 3.1)."""

    needs_final_norm: ClassVar[bool] = False

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = self.attention_norm(x + self.dropout(self.attention(x, context)))
        x = self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))
        return x
