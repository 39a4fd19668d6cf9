"""Rotary scalings: slow down rotary positions, so that a model reads further than the length it was trained at.

Letters: R the width that turns, half as many pairs.
"""

import math

import torch
from torch import Tensor

from xlab.errors import ConfigError


class RotaryScaling:
    """Changes the angles by which pairs turn at each place.

    Attributes:
        attention_factor: what queries and keys are multiplied by while they turn.
    """

    attention_factor: float = 1.0

    def frequencies(self, base: float, width: int, max_len: int) -> Tensor:
        """The angle of each pair per token, (R/2,), float64.

        Args:
            base: of the rotary positions.
            width: R.
            max_len: the longest sequence that the model takes.
        """
        raise NotImplementedError


def rotary_frequencies(base: float, width: int) -> Tensor:
    """The angle of each pair per token without scaling, (R/2,), float64: base^(-2i / R)."""
    return base ** -(torch.arange(0, width, 2, dtype=torch.float64, device="cpu") / width)


class LinearScaling(RotaryScaling):
    """Every angle divided by the same number: positions interpolated (Chen et al. 2023, arXiv 2306.15595, eq. 4).

    Args:
        factor: how many times longer the sequences may be.
    """

    def __init__(self, factor: float) -> None:
        self.factor = _at_least_one(factor)

    def frequencies(self, base: float, width: int, max_len: int) -> Tensor:
        return rotary_frequencies(base, width) / self.factor


class DynamicNTKScaling(RotaryScaling):
    """A larger base: fast pairs turn as they did, slow ones more slowly (Peng et al. 2023, arXiv 2309.00071, app. B.2).

    The base grows with the sequence. Here that is the model's ``max_len``, from the first token on: a base that grew
    while a text does would leave the keys in a cache turned by another one than the queries that meet them.

    Args:
        factor: how many times longer the sequences may be.
        original_max_len: the length that the model was trained at.
    """

    def __init__(self, factor: float, original_max_len: int) -> None:
        self.factor = _at_least_one(factor)
        self.original_max_len = _length(original_max_len)

    def frequencies(self, base: float, width: int, max_len: int) -> Tensor:
        if width < 4:
            raise ConfigError(f"dynamic NTK scaling needs two pairs that turn, a width of 4; got {width}")
        if max_len > self.original_max_len:
            stretch = self.factor * max_len / self.original_max_len - (self.factor - 1)
            base *= stretch ** (width / (width - 2))
        return rotary_frequencies(base, width)


class YaRNScaling(RotaryScaling):
    """Slow pairs interpolated, fast ones left alone, a ramp between (Peng et al. 2023, arXiv 2309.00071, section 3.2).

    Args:
        factor: how many times longer the sequences may be.
        original_max_len: the length that the model was trained at.
        beta_fast: pairs that turn more often than this over that length stay as they are.
        beta_slow: pairs that turn less often than this are interpolated.
        attention_factor: queries and keys are multiplied by it; the paper's 0.1 ln(factor) + 1 if not given.
        truncate: whether the ramp begins and ends at whole pairs.
    """

    def __init__(
        self,
        factor: float,
        original_max_len: int,
        beta_fast: float = 32.0,
        beta_slow: float = 1.0,
        attention_factor: float | None = None,
        truncate: bool = True,
    ) -> None:
        self.factor = _at_least_one(factor)
        self.original_max_len = _length(original_max_len)
        if not beta_fast > beta_slow > 0:
            raise ConfigError(f"YaRN needs beta_fast > beta_slow > 0, got {beta_fast} and {beta_slow}")
        self.beta_fast, self.beta_slow, self.truncate = beta_fast, beta_slow, truncate
        self.attention_factor = 0.1 * math.log(factor) + 1 if attention_factor is None else attention_factor

    def frequencies(self, base: float, width: int, max_len: int) -> Tensor:
        if base <= 1:
            raise ConfigError(f"YaRN needs pairs that turn at different rates, a base above 1; got {base}")

        def pair_that_turns(times: float) -> float:
            wave_length = self.original_max_len / times  # in tokens: a pair's is 2π base^(2i / R)
            return width * math.log(wave_length / (2 * math.pi)) / (2 * math.log(base))

        first, last = pair_that_turns(self.beta_fast), pair_that_turns(self.beta_slow)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, width - 1)
        pairs = torch.arange(width // 2, dtype=torch.float64, device="cpu")
        share = ((pairs - first) / max(last - first, 0.001)).clamp(0, 1)  # interpolated: none of the first, all later
        plain = rotary_frequencies(base, width)
        return plain / self.factor * share + plain * (1 - share)


class Llama3Scaling(RotaryScaling):
    """Long waves interpolated, short ones left alone, a blend between (Grattafiori et al. 2024, arXiv 2407.21783).

    Args:
        factor: how many times longer the sequences may be.
        low_freq_factor: waves longer than the original length over this are interpolated.
        high_freq_factor: waves shorter than the original length over this stay as they are.
        original_max_len: the length that the model was trained at.
    """

    def __init__(self, factor: float, low_freq_factor: float, high_freq_factor: float, original_max_len: int) -> None:
        self.factor = _at_least_one(factor)
        if not high_freq_factor > low_freq_factor > 0:
            raise ConfigError(
                "Llama 3's scaling needs high_freq_factor > low_freq_factor > 0, got "
                f"{high_freq_factor} and {low_freq_factor}"
            )
        self.low_freq_factor, self.high_freq_factor = low_freq_factor, high_freq_factor
        self.original_max_len = _length(original_max_len)

    def frequencies(self, base: float, width: int, max_len: int) -> Tensor:
        plain = rotary_frequencies(base, width)
        waves = self.original_max_len * plain / (2 * math.pi)  # that fit into the original length
        kept = ((waves - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)).clamp(0, 1)
        return plain * kept + plain / self.factor * (1 - kept)


def _at_least_one(factor: float) -> float:
    if factor < 1:
        raise ConfigError(f"the factor of a rotary scaling must be at least 1, got {factor}")
    return factor


def _length(original_max_len: int) -> int:
    if original_max_len < 1:
        raise ConfigError(f"original_max_len must be at least 1, got {original_max_len}")
    return original_max_len
