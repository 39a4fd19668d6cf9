"""Parts of a decoder in fewer operations: at one token a step, the time goes into how many there are.

Only for inference on a CPU; a compiler does this, and more, by itself. Letters: B rows, T positions, D width, H heads,
G key-value heads, Dh width of a head, R how much of it turns.
"""

import torch
from torch import Tensor, nn

from xlab.transformer.attention import Context
from xlab.transformer.block import EmbeddingShortcutBlock, PreNormBlock
from xlab.transformer.feed_forward import FeedForward, ReLUSquaredFeedForward
from xlab.transformer.norms import Norm, PlainRMSNorm, RMSNorm
from xlab.transformer.positions import Position, RotaryPosition
from xlab.transformer.qk_norms import HeadQKNorm, QKNorm
from xlab.transformer.values import ValueEmbeddings, ValueMix


class LeanRMSNorm(Norm):
    """RMSNorm by the kernel of LayerNorm: (x, -x) has mean 0, and the variance that is the mean square of x.

    Args:
        norm: with a scale or, as PlainRMSNorm, without; of heads, too, whose queries and keys it treats alike.
        dtype: of what is normalised.
    """

    signs: Tensor
    weight: Tensor | None

    def __init__(self, norm: RMSNorm | PlainRMSNorm, dtype: torch.dtype) -> None:
        super().__init__()
        weight = None if isinstance(norm, PlainRMSNorm) else norm.weight.detach().to(dtype)
        self.eps, self.shape = norm.eps, [2, norm.d_model if isinstance(norm, PlainRMSNorm) else norm.weight.numel()]
        self.register_buffer("signs", torch.tensor([[1.0], [-1.0]], dtype=dtype, device="cpu"))
        self.register_buffer("weight", None if weight is None else torch.stack((weight, weight)))

    def forward(self, x: Tensor) -> Tensor:
        # torch.nn.functional, and an index instead of select, would take a sixth longer to see what they are given
        return torch.layer_norm(x.unsqueeze(-2) * self.signs, self.shape, self.weight, None, self.eps).select(-2, 0)


class LeanHeadQKNorm(QKNorm):
    """HeadQKNorm of RMSNorms: queries and keys at once, and then the scale of each."""

    scales: Tensor

    def __init__(self, norm: HeadQKNorm, query: RMSNorm, key: RMSNorm, dtype: torch.dtype) -> None:
        super().__init__()
        of_heads = [part.weight.detach().expand(n, -1) for part, n in zip((query, key), norm.sizes, strict=True)]
        self.norm = LeanRMSNorm(PlainRMSNorm(query.weight.numel(), query.eps), dtype)  # one factory made both
        self.register_buffer("scales", torch.cat(of_heads).to(dtype))  # (H + G, Dh)

    def forward(self, qk: Tensor) -> Tensor:
        normalised: Tensor = self.norm(qk)
        return normalised * self.scales


class LeanRotary(Position):
    """RotaryPosition, its turns looked up once for all layers, and applied in three operations instead of eight."""

    turns: Tensor
    partners: Tensor

    def __init__(self, rotary: RotaryPosition, dtype: torch.dtype) -> None:
        super().__init__()
        cos, sin = rotary.table.unbind(-2)  # (max_len, R/2)
        assert rotary.head_dim is not None
        rest = cos.new_zeros(len(cos), rotary.head_dim - rotary.width)  # what does not turn
        turns = torch.stack((torch.cat((cos, cos, rest + 1), dim=-1), torch.cat((-sin, sin, rest), dim=-1)))
        self.register_buffer("turns", turns.to(dtype))  # (2, max_len, Dh)
        self.sizes = [cos.size(-1), cos.size(-1), rest.size(-1)]
        first, second, alone = torch.arange(rotary.head_dim, device="cpu").split_with_sizes(self.sizes)
        self.register_buffer("partners", torch.cat((second, first, alone)))
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        if self._last is None or self._last[0] is not positions:
            cos, sin = self.turns[:, positions].unbind()  # (T, Dh) or (B, T, Dh)
            if positions.dim() == 2:
                cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # the same for all heads
            self._last = positions, cos, sin
        _, cos, sin = self._last
        return torch.addcmul(x * cos, self._swapped(x), sin)

    def _swapped(self, x: Tensor) -> Tensor:
        """Each number's partner in its place; that which has none stays."""
        if not self.sizes[2]:
            return x.roll(self.sizes[0], -1)
        if x.size(0) == x.size(2) == 1:  # of more tokens than one an index takes longer
            return x[..., self.partners]
        first, second, alone = x.split_with_sizes(self.sizes, -1)
        return torch.cat((second, first, alone), -1)


class LeanReLUSquaredFeedForward(FeedForward):
    """ReLUSquaredFeedForward, its activation in the memory of what it is of."""

    def __init__(self, feed_forward: ReLUSquaredFeedForward) -> None:
        super().__init__()
        self.up, self.down = feed_forward.up, feed_forward.down

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.up(x).relu_().square_())
        return y


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
    if isinstance(part, PlainRMSNorm | RMSNorm) and type(part) in (PlainRMSNorm, RMSNorm):
        return LeanRMSNorm(part, dtype)
    if type(part) is HeadQKNorm:
        query, key = part.query, part.key
        if type(query) is PlainRMSNorm and type(key) is PlainRMSNorm:
            return LeanRMSNorm(query, dtype)  # one factory made both
        if type(query) is RMSNorm and type(key) is RMSNorm:
            return LeanHeadQKNorm(part, query, key, dtype)
    if type(part) is ValueEmbeddings:
        return LeanValueEmbeddings(part)
    if type(part) is EmbeddingShortcutBlock:
        return LeanEmbeddingShortcutBlock(part)
    if type(part) is RotaryPosition:
        return LeanRotary(part, dtype)
    if type(part) is ReLUSquaredFeedForward:
        return LeanReLUSquaredFeedForward(part)
    if isinstance(part, nn.Dropout):
        return nn.Identity()
    return None
