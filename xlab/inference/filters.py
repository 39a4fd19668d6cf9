"""Shape a next-token distribution: temperature, top-k, nucleus, minimum probability, typicality.

A filter maps logits to logits of the same shape, with -inf at what it drops; it sees what the one before left.
Letters: V vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from xlab.errors import GenerationError
from xlab.inference import checks

LogitFilter = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Temperature:
    """Divide logits by ``temperature``; however small, the result is finite, and 0 at the most likely token."""

    temperature: float

    def __post_init__(self) -> None:
        checks.number("temperature", self.temperature)
        if not 0 <= self.temperature < math.inf:
            raise GenerationError(
                f"temperature must be a finite number of at least 0, got {self.temperature}; 0 is greedy, 1 as learned"
            )

    def __call__(self, logits: Tensor) -> Tensor:
        # the smallest a logit's type can hold: a Python float below it would become 0
        limits = torch.finfo(logits.dtype)
        divisor = float(min(max(self.temperature, limits.tiny), limits.max))
        return (logits - logits.amax(dim=-1, keepdim=True)) / divisor


@dataclass(frozen=True)
class TopK:
    """Keep exactly the ``k`` most likely tokens, ties going to the lower id (Fan et al. 2018, arXiv 1805.04833)."""

    k: int

    def __post_init__(self) -> None:
        checks.count("top_k", self.k, least=1, remedy="leave it out to keep every token")

    def __call__(self, logits: Tensor) -> Tensor:
        return logits.masked_fill(~is_top_k(logits, self.k), -torch.inf)


@dataclass(frozen=True)
class TopP:
    """Keep the smallest set of most likely tokens that holds probability ``p``.

    The nucleus of Holtzman et al. 2019, arXiv 1904.09751. The token that crosses ``p`` is kept, so at least one always
    is; ties go to the lower id.
    """

    p: float

    def __post_init__(self) -> None:
        checks.number("top_p", self.p)
        if not 0 < self.p <= 1:
            raise GenerationError(f"top_p must be above 0 and at most 1, got {self.p}; 1 keeps every token")

    def __call__(self, logits: Tensor) -> Tensor:
        if self.p == 1:  # rounding would let the sum reach 1 before the last token
            return logits
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        probability = widest(ordered).softmax(dim=-1)
        before = probability.cumsum(dim=-1) - probability  # (..., V): what the more likely tokens hold
        dropped = torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, before >= self.p)
        return logits.masked_fill(dropped, -torch.inf)


@dataclass(frozen=True)
class MinP:
    """Keep tokens at least ``p`` times as likely as the best one (Nguyen et al. 2024, arXiv 2407.01082)."""

    p: float

    def __post_init__(self) -> None:
        checks.number("min_p", self.p)
        if not 0 <= self.p <= 1:
            raise GenerationError(f"min_p must be in [0, 1], got {self.p}; 0 keeps every token")

    def __call__(self, logits: Tensor) -> Tensor:
        if self.p == 0:
            return logits
        # the difference, not the border: at p = 1 ties of the best must stay
        below = widest(logits) - widest(logits.amax(dim=-1, keepdim=True))
        return logits.masked_fill(below < math.log(self.p), -torch.inf)


@dataclass(frozen=True)
class Typical:
    """Keep the tokens whose surprise is closest to the expected one, until they hold probability ``p``.

    Locally typical sampling: Meister et al. 2022, arXiv 2202.00666. The token that crosses ``p`` is kept; ties go to
    the lower id.
    """

    p: float

    def __post_init__(self) -> None:
        checks.number("typical_p", self.p)
        if not 0 < self.p <= 1:
            raise GenerationError(f"typical_p must be above 0 and at most 1, got {self.p}; 1 keeps every token")

    def __call__(self, logits: Tensor) -> Tensor:
        if self.p == 1:
            return logits
        log_p = widest(logits).log_softmax(dim=-1)
        probability = log_p.exp()
        entropy = -(probability * log_p).nan_to_num(nan=0.0).sum(dim=-1, keepdim=True)  # 0 · log 0 is 0
        order = (-log_p - entropy).abs().sort(dim=-1, stable=True).indices
        ordered = probability.gather(-1, order)
        before = ordered.cumsum(dim=-1) - ordered  # (..., V): what the more typical tokens hold
        dropped = torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, before >= self.p)
        return logits.masked_fill(dropped, -torch.inf)


def is_top_k(values: Tensor, k: int) -> Tensor:
    """Say of each of ``values`` (..., V) whether it is among the ``k`` largest of its row; ties go to the lower index.

    Not a sort, which at 32k tokens takes longer than a small model's step, and not ``topk`` alone, which breaks ties as
    its backend likes.
    """
    if k >= values.size(-1):
        return torch.ones_like(values, dtype=torch.bool)
    border = values.topk(k, dim=-1).values[..., -1:]
    above = values > border
    tied = values == border
    room = k - above.sum(dim=-1, keepdim=True)
    return above | (tied & (tied.cumsum(dim=-1) <= room))


def widest(logits: Tensor) -> Tensor:
    """The same numbers in float64, where sums over a large vocabulary do not drift; Apple's GPUs have only float32."""
    return logits.float() if logits.device.type == "mps" else logits.double()
