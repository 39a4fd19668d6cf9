"""Parts of a decoder in fewer operations: at one token a step, the time goes into how many there are.

Only for inference on a CPU; a compiler does this, and more, by itself. Letters: B rows, T positions, D width, H heads,
G key-value heads, Dh width of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xlab.transformer.attention import Context
from xlab.transformer.block import EmbeddingShortcutBlock, PreNormBlock
from xlab.transformer.norms import Norm, PlainRMSNorm, RMSNorm
from xlab.transformer.positions import Position, RotaryPosition
from xlab.transformer.qk_norms import HeadQKNorm
from xlab.transformer.values import ValueEmbeddings, ValueMix


class LeanRMSNorm(Norm):
    """RMSNorm by the kernel of LayerNorm: (x, -x) has mean 0, and the variance that is the mean square of x."""

    weight: Tensor

    def __init__(self, norm: RMSNorm, dtype: torch.dtype) -> None:
        super().__init__()
        self.eps = norm.eps
        weight = norm.weight.detach().to(dtype)
        self.register_buffer("weight", torch.cat((weight, weight)))
        self.shape, self.d_model = list(self.weight.shape), weight.numel()

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(torch.cat((x, -x), dim=-1), self.shape, self.weight, None, self.eps)[..., : self.d_model]


class LeanPlainRMSNorm(Norm):
    """PlainRMSNorm by the kernel of LayerNorm; of heads, too, whose queries and keys it treats alike."""

    def __init__(self, norm: PlainRMSNorm) -> None:
        super().__init__()
        self.eps, self.shape, self.d_model = norm.eps, [2 * norm.d_model], norm.d_model

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(torch.cat((x, -x), dim=-1), self.shape, None, None, self.eps)[..., : self.d_model]


class LeanRotary(Position):
    """RotaryPosition, its turns looked up once for all layers, and applied in three operations instead of eight."""

    turns: Tensor

    def __init__(self, rotary: RotaryPosition, dtype: torch.dtype) -> None:
        super().__init__()
        cos, sin = rotary.table.unbind(-2)  # (max_len, Dh/2)
        turns = torch.stack((torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)))
        self.register_buffer("turns", turns.to(dtype))  # (2, max_len, Dh)
        self.shift = cos.size(-1)
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        if self._last is None or self._last[0] is not positions:
            cos, sin = self.turns[:, positions].unbind()  # (T, Dh) or (B, T, Dh)
            if positions.dim() == 2:
                cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # the same for all heads
            self._last = positions, cos, sin
        _, cos, sin = self._last
        return torch.addcmul(x * cos, x.roll(self.shift, -1), sin)


class LeanValueEmbeddings(ValueMix):
    """ValueEmbeddings, the gates' factor left to the sum; one position of each row needs no transposing."""

    def __init__(self, mix: ValueEmbeddings) -> None:
        super().__init__()
        self.gate_width, self.tables, self.gates = mix.gate_width, mix.tables, mix.gates

    def forward(self, values: Tensor, layer: int, x: Tensor, context: Context) -> Tensor:
        if (key := str(layer)) not in self.tables:
            return values
        shape = (values.size(0), values.size(2), values.size(1), -1)  # (B, T, G, …)
        of_tokens = self.tables[key](context.ids).view(shape)
        gates = self.gates[key](x[..., : self.gate_width]).sigmoid().view(shape)
        if shape[1] == 1:
            of_tokens, gates = of_tokens.view(values.shape), gates.view(*values.shape[:-1], 1)
        else:
            of_tokens, gates = of_tokens.transpose(1, 2), gates.transpose(1, 2)
        return torch.addcmul(values, gates, of_tokens, value=2)


class LeanEmbeddingShortcutBlock(PreNormBlock):
    """EmbeddingShortcutBlock, its scales as plain numbers."""

    def __init__(self, block: EmbeddingShortcutBlock) -> None:
        norms = iter((block.attention_norm, block.feed_forward_norm))
        super().__init__(block.attention, block.feed_forward, lambda: next(norms))
        self.stream_scale, self.embedding_scale = block.scales.tolist()

    def forward(self, x: Tensor, context: Context) -> Tensor:
        assert context.embedded is not None
        return super().forward(torch.add(x * self.stream_scale, context.embedded, alpha=self.embedding_scale), context)


def lean(part: nn.Module, dtype: torch.dtype) -> nn.Module | None:
    """A part in fewer operations, which may hold parts as they were; None where there is no such form of it."""
    if type(part) is PlainRMSNorm:
        return LeanPlainRMSNorm(part)
    if type(part) is HeadQKNorm and type(part.query) is type(part.key) is PlainRMSNorm:
        return LeanPlainRMSNorm(part.query)  # both are made by the same factory
    if type(part) is ValueEmbeddings:
        return LeanValueEmbeddings(part)
    if type(part) is EmbeddingShortcutBlock:
        return LeanEmbeddingShortcutBlock(part)
    if type(part) is RMSNorm:
        return LeanRMSNorm(part, dtype)
    if type(part) is RotaryPosition and part.width == part.head_dim:
        return LeanRotary(part, dtype)
    if isinstance(part, nn.Dropout):
        return nn.Identity()
    return None
