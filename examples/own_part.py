"""Parts of one's own, one of each kind; docs/parts.md tells what each must keep to.

    ./xlab.py fit --model.feed_forward examples.own_part.Bilinear
    ./xlab.py fit -c examples/own_part.yaml

Letters: B batch, T positions, S keys, D width, H heads, Dh width of a head, F inner width.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from xlab.transformer import Attention, Block, Context, FeedForward, Norm, Position


class GatedAttention(Attention):
    """Attention whose output is gated by what its position holds (Qiu et al. 2025, arXiv 2505.06708, section 3).

    Args:
        d_model: width D of the model.
        n_heads: number of heads H.
        layer_index: which layer of the model this is, from 0.
        dropout: share of attention weights dropped in training.
    """

    def __init__(self, d_model: int, n_heads: int, layer_index: int, dropout: float = 0.0) -> None:
        super().__init__(d_model, n_heads, layer_index, dropout=dropout)
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.gate = nn.Linear(d_model, d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        qkv: Tensor = self.qkv(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, 3H, T, Dh)
        qk, values = qkv.split_with_sizes((2 * self.n_heads, self.n_heads), dim=1)
        queries, keys = context.rotate(qk).chunk(2, dim=1)
        values = context.mix_values(values, self.layer_index, x)
        mixed = self.attend(queries, keys, values, context)  # (B, T, D)
        y: Tensor = self.out(mixed * self.gate(x).sigmoid())
        return y


class Bilinear(FeedForward):
    """Up, gated by a second projection as it is, down (Shazeer 2020, arXiv 2002.05202, eq. 5).

    Args:
        d_model: width D of the model.
        d_ff: inner width F; ``factor`` times D if not given.
        factor: of the width.
    """

    def __init__(self, d_model: int, d_ff: int | None = None, factor: int = 3) -> None:
        super().__init__()
        self.d_ff = factor * d_model if d_ff is None else d_ff
        self.gate_up = nn.Linear(d_model, 2 * self.d_ff, bias=False)
        self.down = nn.Linear(self.d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)  # (B, T, F) each
        y: Tensor = self.down(gate * up)
        return y


class LogarithmicPosition(Position):
    """Lower the score of a key with the logarithm of its distance, -p · log(1 + r · distance), p and r learned.

    Chi et al. 2022, KERPLE, arXiv 2205.09921, eq. 7.

    Args:
        d_model: width D of the model.
        n_heads: number of heads H.
        max_len: the longest sequence, in tokens.
    """

    def __init__(self, d_model: int, n_heads: int, max_len: int) -> None:
        super().__init__()
        # of their logarithms, so that both stay above 0
        self.log_p = nn.Parameter(torch.zeros(n_heads))
        self.log_r = nn.Parameter(torch.zeros(n_heads))

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.log_p)
        nn.init.zeros_(self.log_r)

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        distance = (query_positions.unsqueeze(-1) - key_positions).clamp(min=0)  # (T, S) or (B, T, S)
        distance = distance.reshape(-1, 1, *distance.shape[-2:])  # (1 or B, 1, T, S)
        p, r = self.log_p.exp()[:, None, None], self.log_r.exp()[:, None, None]
        return -p * torch.log1p(r * distance)


class DynamicTanh(Norm):
    """Squash instead of normalising, w · tanh(α x) + b (Zhu et al. 2025, arXiv 2503.10622, section 4).

    Args:
        d_model: width D of what is squashed.
        alpha: what α begins with.
    """

    def __init__(self, d_model: int, alpha: float = 0.5) -> None:
        super().__init__()
        self._alpha = alpha
        self.alpha = nn.Parameter(torch.empty(1))
        self.weight = nn.Parameter(torch.empty(d_model))
        self.bias = nn.Parameter(torch.empty(d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.alpha, self._alpha)
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.alpha * x) * self.weight + self.bias


class ReZeroBlock(Block):
    """Each branch joins the stream by a learned scale that begins at zero (Bachlechner et al. 2020, arXiv 2003.04887).

    Args:
        attention: of this layer.
        feed_forward: of this layer.
        make_norm: makes a norm of the model's width.
        dropout: share of each branch's output dropped in training.
        scale: what the scales begin with.
    """

    def __init__(
        self,
        attention: Attention,
        feed_forward: FeedForward,
        make_norm: Callable[[], Norm],
        dropout: float = 0.0,
        scale: float = 0.0,
    ) -> None:
        super().__init__(attention, feed_forward, make_norm, dropout)
        self._scale = scale
        self.scales = nn.Parameter(torch.full((2,), scale))

    def reset_parameters(self) -> None:
        """Fill the scales, also after ``to_empty``."""
        nn.init.constant_(self.scales, self._scale)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        of_attention, of_feed_forward = self.scales.unbind()
        x = x + of_attention * self.dropout(self.attention(self.attention_norm(x), context))
        x = x + of_feed_forward * self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return x
