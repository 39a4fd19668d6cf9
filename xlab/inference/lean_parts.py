"""Parts of a decoder in fewer operations: at one token a step, the time goes into how many there are.

Only for inference on a CPU; a compiler does this, and more, by itself. Letters: B rows, T positions, D width, H heads,
Dh width of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xlab.transformer.norms import Norm, RMSNorm
from xlab.transformer.positions import Position, RotaryPosition


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


def lean(part: nn.Module, dtype: torch.dtype) -> nn.Module | None:
    """A part in fewer operations; None where there is no such form of it."""
    if type(part) is RMSNorm:
        return LeanRMSNorm(part, dtype)
    if type(part) is RotaryPosition and part.width == part.head_dim:
        return LeanRotary(part, dtype)
    if isinstance(part, nn.Dropout):
        return nn.Identity()
    return None
