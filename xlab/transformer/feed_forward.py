"""Feed-forward layers: what each position computes on its own, between attentions.

Letters: B batch, T positions, D width, F inner width (``d_ff``).
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from xlab.errors import ConfigError


class FeedForward(nn.Module):
    """Maps every position by itself; made as ``feed_forward(d_model, d_ff)``, where ``None`` leaves the width to it.

    The last projection, the one that writes to the residual stream, is named ``down``: the decoder's initialisation
    looks for that name.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        raise NotImplementedError


class _UpDown(FeedForward):
    """Up, an activation, down (Vaswani et al. 2017, arXiv 1706.03762, section 3.3)."""

    def __init__(self, d_model: int, d_ff: int | None, bias: bool) -> None:
        super().__init__()
        self.d_ff = 4 * d_model if d_ff is None else _positive(d_ff)
        self.up = nn.Linear(d_model, self.d_ff, bias=bias)
        self.down = nn.Linear(self.d_ff, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.activation(self.up(x)))
        return y

    def activation(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class ReLUFeedForward(_UpDown):
    """With rectifiers, as in the first transformer (Vaswani et al. 2017, arXiv 1706.03762, eq. 2).

    Args:
        d_model: width D of the model.
        d_ff: inner width F; 4 D if not given.
        bias: whether the projections have one; the paper's have.
    """

    def __init__(self, d_model: int, d_ff: int | None = None, bias: bool = False) -> None:
        super().__init__(d_model, d_ff, bias)

    def activation(self, x: Tensor) -> Tensor:
        return F.relu(x)


class GELUFeedForward(_UpDown):
    """With Gaussian error linear units (Hendrycks and Gimpel 2016, arXiv 1606.08415), as in GPT-2.

    Args:
        d_model: width D of the model.
        d_ff: inner width F; 4 D if not given.
        bias: whether the projections have one; GPT-2's have.
        approximate: "none" is exact, "tanh" the approximation that GPT-2 was trained with.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int | None = None,
        bias: bool = False,
        approximate: Literal["none", "tanh"] = "none",
    ) -> None:
        super().__init__(d_model, d_ff, bias)
        self.approximate = approximate

    def activation(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate=self.approximate)


class ReLUSquaredFeedForward(_UpDown):
    """With squared rectifiers (So et al. 2021, Primer, arXiv 2109.08668, section 4.2).

    Args:
        d_model: width D of the model.
        d_ff: inner width F; 4 D if not given.
        bias: whether the projections have one.
    """

    def __init__(self, d_model: int, d_ff: int | None = None, bias: bool = False) -> None:
        super().__init__(d_model, d_ff, bias)

    def activation(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


class _Gated(FeedForward):
    """Up, gated by the activation of a second projection, down (Shazeer 2020, arXiv 2002.05202, eq. 5 and 6)."""

    def __init__(self, d_model: int, d_ff: int | None, bias: bool) -> None:
        super().__init__()
        self.d_ff = -(-8 * d_model // (3 * 64)) * 64 if d_ff is None else _positive(d_ff)
        # one product is faster than two: gate in the first half of the rows, up in the second
        self.gate_up = nn.Linear(d_model, 2 * self.d_ff, bias=bias)
        self.down = nn.Linear(self.d_ff, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)  # (B, T, F) each
        y: Tensor = self.down(self.activation(gate) * up)
        return y

    def activation(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class SwiGLU(_Gated):
    """Gated by the swish of a second projection (Shazeer 2020, arXiv 2002.05202, eq. 6), as in Llama.

    Args:
        d_model: width D of the model.
        d_ff: inner width F; if not given 8/3 D, which has as many weights as a plain layer of 4 D, rounded up to a
            multiple of 64, the width that matrix products like.
        bias: whether the projections have one.
    """

    def __init__(self, d_model: int, d_ff: int | None = None, bias: bool = False) -> None:
        super().__init__(d_model, d_ff, bias)

    def activation(self, x: Tensor) -> Tensor:
        return F.silu(x)


class GEGLU(_Gated):
    """Gated by the Gaussian error linear units of a second projection (Shazeer 2020, arXiv 2002.05202), as in Gemma.

    Args:
        d_model: width D of the model.
        d_ff: inner width F; if not given 8/3 D, rounded up to a multiple of 64.
        bias: whether the projections have one.
        approximate: "none" is exact, "tanh" the approximation that Gemma was trained with.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int | None = None,
        bias: bool = False,
        approximate: Literal["none", "tanh"] = "none",
    ) -> None:
        super().__init__(d_model, d_ff, bias)
        self.approximate = approximate

    def activation(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate=self.approximate)


def _positive(d_ff: int) -> int:
    if d_ff < 1:
        raise ConfigError(f"d_ff must be at least 1, got {d_ff}; leave it out for the layer's own width")
    return d_ff
