"""Positions: how a token's place enters the model, in its embedding, its queries and keys, or its attention scores.

Letters: B batch, T positions, S keys, D width, H heads, Dh width of a head, R how much of it turns.
"""

import math

import torch
from torch import Tensor, nn

from xlab.errors import ConfigError
from xlab.transformer.rotary_scaling import RotaryScaling, rotary_frequencies


class Position(nn.Module):
    """Tells the model where tokens stand; made as ``position(d_model, n_heads, max_len)``.

    Attributes:
        head_dim: the width of a head that ``rotate`` takes; None for any.

    Each of the three ways is the identity unless a subclass overrides it. ``positions`` are the tokens' indices in
    their own sequence: (T,) when all rows stand at the same places, (B, T) when they do not.
    """

    head_dim: int | None = None

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        """Change the token embeddings, (B, T, D)."""
        return x

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Change queries or keys, (B, H, T, Dh), or both at once, side by side among the heads."""
        return x

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor | None:
        """What to add to the attention scores: (1 or B, H, T, S) for queries (T,) or (B, T) and keys (S,)."""
        return None

    def reset_parameters(self) -> None:
        """Fill fixed tables again, after ``to_empty`` left them without content."""


class NoPosition(Position):
    """Nothing: causal attention alone lets a model tell places apart (Kazemnejad et al. 2023, arXiv 2305.19466).

    Args:
        d_model: width D of the model.
        n_heads: number of query heads H.
        max_len: the longest sequence, in tokens.
    """

    def __init__(self, d_model: int, n_heads: int, max_len: int) -> None:
        super().__init__()


class LearnedPosition(Position):
    """One learned vector for each place, added to the token's (as in GPT-2, Radford et al. 2019).

    Args:
        d_model: width D of the model.
        n_heads: number of query heads H.
        max_len: the longest sequence, in tokens.
    """

    def __init__(self, d_model: int, n_heads: int, max_len: int) -> None:
        super().__init__()
        self.table = nn.Embedding(max_len, d_model)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        places: Tensor = self.table(positions)  # (T, D) or (B, T, D)
        return x + places


class SinusoidalPosition(Position):
    """Fixed waves of many lengths, added to the token's vector (Vaswani et al. 2017, arXiv 1706.03762, section 3.5).

    The paper scales token embeddings by √D beside waves of amplitude 1. Here embeddings start at a standard deviation
    of 0.02, so the waves are scaled to that size instead: neither drowns the other.

    Args:
        d_model: width D of the model, even.
        n_heads: number of query heads H.
        max_len: the longest sequence, in tokens.
        base: the longest wave is 2π · base tokens long.
        amplitude: of the waves.
    """

    table: Tensor

    def __init__(
        self, d_model: int, n_heads: int, max_len: int, base: float = 10_000.0, amplitude: float = 0.02
    ) -> None:
        super().__init__()
        if d_model % 2:
            raise ConfigError(f"sinusoidal positions need an even d_model, got {d_model}")
        self.d_model, self.max_len, self.base, self.amplitude = d_model, max_len, base, amplitude
        self.register_buffer("table", _fixed(self._waves()), persistent=False)  # (max_len, D)

    def reset_parameters(self) -> None:
        self.table.copy_(self._waves())

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + self.table[positions].to(x.dtype)

    def _waves(self) -> Tensor:
        angles = _angles(self.max_len, rotary_frequencies(self.base, self.d_model))
        # sine at even, cosine at odd places of the vector
        return self.amplitude * torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


class RotaryPosition(Position):
    """Turn queries and keys by angles that grow with the place (Su et al. 2021, arXiv 2104.09864, eq. 34).

    The pairs that turn together are (i, i + R/2), the halves of what turns, as in Llama's published weights in
    ``transformers``; the paper pairs neighbours, (2i, 2i + 1), which is the same up to a permutation of the rows of the
    query and key projections.

    Args:
        d_model: width D of the model.
        n_heads: number of query heads H.
        max_len: the longest sequence, in tokens.
        base: the slowest pair turns by about 1 / base a token.
        fraction: share of a head's width that turns, its first R numbers, an even number of at least 2; the rest knows
            no places (as in GPT-NeoX, Black et al. 2022, arXiv 2204.06745, section 2.1).
        head_dim: width of a head; D / H if not given.
        scaling: for sequences longer than those trained on.

    Attributes:
        width: R, even.
    """

    table: Tensor

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        max_len: int,
        base: float = 10_000.0,
        fraction: float = 1.0,
        head_dim: int | None = None,
        scaling: RotaryScaling | None = None,
    ) -> None:
        super().__init__()
        if head_dim is None:
            head_dim, rest = divmod(d_model, n_heads)
            if rest or head_dim % 2:
                raise ConfigError(
                    f"rotary positions need an even d_model / n_heads, got {d_model} / {n_heads} = "
                    f"{d_model / n_heads:g}"
                )
        if not 0 < fraction <= 1:
            raise ConfigError(f"the fraction of a head that turns must be in (0, 1], got {fraction}")
        self.width = rotary_width(head_dim, fraction)
        if self.width > head_dim or (fraction == 1 and head_dim % 2):
            raise ConfigError(f"rotary positions turn pairs of a head's numbers, got a head_dim of {head_dim}")
        if base <= 0:
            raise ConfigError(f"the base of rotary positions must be above 0, got {base}")
        self.head_dim, self.max_len, self.base, self.scaling = head_dim, max_len, base, scaling
        self.register_buffer("table", _fixed(self._turns()), persistent=False)  # (max_len, 2, R/2)

    def reset_parameters(self) -> None:
        self.table.copy_(self._turns())

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        turns = self.table[positions].to(x.dtype)  # (T, 2, R/2) or (B, T, 2, R/2)
        if positions.dim() == 2:
            turns = turns.unsqueeze(1)  # the same for all heads
        cos, sin = turns.unbind(-2)
        first, second = x[..., : self.width].chunk(2, dim=-1)
        turned = [torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)]
        if self.width < x.size(-1):
            turned.append(x[..., self.width :])
        return torch.cat(turned, dim=-1)

    def _turns(self) -> Tensor:
        if self.scaling is None:
            return _turns_of(rotary_frequencies(self.base, self.width), self.max_len)
        frequencies = self.scaling.frequencies(self.base, self.width, self.max_len)
        return _turns_of(frequencies, self.max_len) * self.scaling.attention_factor


def rotary_width(head_dim: int, fraction: float) -> int:
    """How many numbers of a head turn: pairs, and one at the least."""
    return max(2, int(head_dim * fraction) // 2 * 2)


def _turns_of(frequencies: Tensor, max_len: int) -> Tensor:
    """Cosine and sine of each place's angles, (max_len, 2, R/2)."""
    angles = _angles(max_len, frequencies)
    return torch.stack((angles.cos(), angles.sin()), dim=-2)


class ALiBi(Position):
    """Lower the score of a key in proportion to its distance (Press et al. 2021, arXiv 2108.12409, section 3).

    Args:
        d_model: width D of the model.
        n_heads: number of query heads H.
        max_len: the longest sequence, in tokens.
    """

    slopes: Tensor

    def __init__(self, d_model: int, n_heads: int, max_len: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.register_buffer("slopes", _fixed(torch.tensor(_alibi_slopes(n_heads), device="cpu")), persistent=False)

    def reset_parameters(self) -> None:
        self.slopes.copy_(torch.tensor(_alibi_slopes(self.n_heads), device="cpu"))

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        distance = query_positions.unsqueeze(-1) - key_positions  # (T, S) or (B, T, S)
        return -self.slopes[:, None, None] * distance.reshape(-1, 1, *distance.shape[-2:])  # (1 or B, H, T, S)


def _alibi_slopes(n_heads: int) -> list[float]:
    """2^(-8/n), 2^(-16/n), … for a power of two; else those of the power below, and every other one of that above."""
    power = 2 ** math.floor(math.log2(n_heads))
    slopes = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    between = [2 ** (-4 * i / power) for i in range(1, 2 * power + 1, 2)]
    return slopes + between[: n_heads - power]


def _angles(max_len: int, frequencies: Tensor) -> Tensor:
    """The angle of each place and pair, (max_len, pairs)."""
    # float64: a float32 angle of place 100,000 is off by 0.004
    return torch.outer(torch.arange(max_len, dtype=torch.float64, device="cpu"), frequencies)


def _fixed(table: Tensor) -> Tensor:
    """A table in float32, with content even where parameters are made on the meta device: no checkpoint holds it."""
    default = torch.get_default_device()
    return table.to(table.device if default.type == "meta" else default, torch.float32)
