"""Blocks: how attention and feed-forward join the residual stream.

Letters: B batch, T positions, D width.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
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


class BranchNormBlock(Block):
    """Normalise what each branch gives, before it joins the stream (OLMo 2, arXiv 2501.00656, section 3.2)."""

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = x + self.dropout(self.attention_norm(self.attention(x, context)))
        x = x + self.dropout(self.feed_forward_norm(self.feed_forward(x)))
        return x


class SandwichNormBlock(Block):
    """Normalise what enters each branch and what leaves it (Ding et al. 2021, arXiv 2105.13290), as in Gemma 2."""

    def __init__(
        self,
        attention: Attention,
        feed_forward: FeedForward,
        make_norm: Callable[[], Norm],
        dropout: float = 0.0,
    ) -> None:
        super().__init__(attention, feed_forward, make_norm, dropout)
        self.attention_out_norm = make_norm()
        self.feed_forward_out_norm = make_norm()

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = x + self.dropout(self.attention_out_norm(self.attention(self.attention_norm(x), context)))
        x = x + self.dropout(self.feed_forward_out_norm(self.feed_forward(self.feed_forward_norm(x))))
        return x


class ParallelBlock(Block):
    """Both branches read the same stream, each through its own norm (Wang and Komatsuzaki 2021), as in GPT-NeoX."""

    def forward(self, x: Tensor, context: Context) -> Tensor:
        attended: Tensor = self.dropout(self.attention(self.attention_norm(x), context))
        fed_forward: Tensor = self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return x + attended + fed_forward


class EmbeddingShortcutBlock(PreNormBlock):
    """Pre-norm over a · stream + b · embeddings, both learned, as in nanochat (after modded-nanogpt, 2024).

    Args:
        attention: of this layer.
        feed_forward: of this layer.
        make_norm: makes a new norm of the model's width.
        dropout: share of each branch's output dropped in training.
        stream_scale: a at the start.
        embedding_scale: b at the start.
    """

    def __init__(
        self,
        attention: Attention,
        feed_forward: FeedForward,
        make_norm: Callable[[], Norm],
        dropout: float = 0.0,
        stream_scale: float = 1.0,
        embedding_scale: float = 0.0,
    ) -> None:
        super().__init__(attention, feed_forward, make_norm, dropout)
        self._start = (stream_scale, embedding_scale)
        self.scales = nn.Parameter(torch.tensor(self._start))

    def reset_parameters(self) -> None:
        """Let both scales start where they were told to."""
        self.scales.copy_(torch.tensor(self._start))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        assert context.embedded is not None
        x = self.scales[0] * x + self.scales[1] * context.embedded
        return super().forward(x, context)
