"""Change a text's logits by what it already holds: penalties, forbidden repetitions, biases, constraints.

Letters: V vocabulary.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from xlab.errors import GenerationError
from xlab.inference import checks


class Constraint(Protocol):
    """A grammar, or anything else that knows at each step which tokens may come next."""

    def mask(self, tokens_so_far: Sequence[int]) -> Tensor | None:
        """Which tokens may come next, bool (V,), EOS among them where the text may end; None allows all."""

    def accept(self, token: int) -> None:
        """Go on with a token that was allowed."""

    @property
    def is_finished(self) -> bool:
        """Whether nothing more can come."""


class History(Protocol):
    """What a shaper may look at."""

    prompt: list[int]
    tokens: list[int]


# takes the logits (V,), which it may change in place, and the text that they continue
Shaper = Callable[[Tensor, History], Tensor]


@dataclass(frozen=True)
class RepetitionPenalty:
    """Divide the logits above 0 of tokens seen, in prompt or text, and multiply those below (Keskar et al. 2019).

    CTRL, arXiv 1909.05858, section 4.1.
    """

    penalty: float

    def __post_init__(self) -> None:
        checks.number("repetition_penalty", self.penalty)
        if not 0 < self.penalty < math.inf:
            raise GenerationError(f"repetition_penalty must be above 0, got {self.penalty}; 1 changes nothing")
        if not 1 / checks.LARGEST <= self.penalty <= checks.LARGEST:  # what it makes of a logit stays finite
            raise GenerationError(f"repetition_penalty is {self.penalty}, beyond float32; 1 changes nothing")

    def __call__(self, logits: Tensor, text: History) -> Tensor:
        seen = torch.tensor(sorted({*text.prompt, *text.tokens}), device=logits.device)
        values = logits[seen]
        logits[seen] = torch.where(values > 0, values / self.penalty, values * self.penalty)
        return logits


@dataclass(frozen=True)
class OccurrencePenalty:
    """Subtract ``presence`` from the logits of tokens generated, and ``frequency`` for each time they were.

    As in OpenAI's API; the prompt does not count.
    """

    presence: float = 0.0
    frequency: float = 0.0

    def __post_init__(self) -> None:
        checks.moderate("presence_penalty", self.presence, remedy="0 changes nothing")
        checks.moderate("frequency_penalty", self.frequency, remedy="0 changes nothing")

    def __call__(self, logits: Tensor, text: History) -> Tensor:
        if not text.tokens:
            return logits
        seen, times = torch.unique(torch.tensor(text.tokens, device=logits.device), return_counts=True)
        logits[seen] -= self.presence + self.frequency * times.to(logits.dtype)
        return logits


@dataclass(frozen=True)
class NoRepeatNgram:
    """Forbid the token that would complete a sequence of ``n`` tokens for the second time (Paulus et al. 2017).

    arXiv 1705.04304, section 2.5. Prompt and text count.
    """

    n: int

    def __post_init__(self) -> None:
        checks.count("no_repeat_ngram", self.n, least=1, remedy="leave it out to let texts repeat")

    def __call__(self, logits: Tensor, text: History) -> Tensor:
        ids = [*text.prompt, *text.tokens]
        start = ids[len(ids) - self.n + 1 :] if self.n > 1 else []
        if len(start) < self.n - 1:
            return logits
        complete = [ids[i + self.n - 1] for i in range(len(ids) - self.n + 1) if ids[i : i + self.n - 1] == start]
        if complete:
            logits[torch.tensor(complete, device=logits.device)] = -torch.inf
        return logits


@dataclass(frozen=True)
class LongEnough:
    """Forbid the end before ``n`` tokens are generated."""

    n: int
    eos_ids: tuple[int, ...]

    def __call__(self, logits: Tensor, text: History) -> Tensor:
        if len(text.tokens) < self.n:
            for token in self.eos_ids:
                checks.token("eos_ids contains token id", token, logits.size(-1))
            logits[list(self.eos_ids)] = -torch.inf
        return logits


@dataclass
class Bias:
    """Add to the logits of some tokens; minus infinity forbids them."""

    by_token: Mapping[int, float]
    _table: Tensor | None = field(default=None, repr=False)

    def __call__(self, logits: Tensor, text: History) -> Tensor:
        if self._table is None:
            for token in self.by_token:  # a model that does not tell its vocabulary's size is asked here first
                checks.token("banned_ids or logit_bias contains token id", token, logits.size(-1))
            table = torch.zeros(logits.size(-1), dtype=logits.dtype)
            table[list(self.by_token)] = torch.tensor(list(self.by_token.values()), dtype=logits.dtype)
            self._table = table.to(logits.device)
        # added, not filled in: a NaN at a forbidden id stays a NaN, to be found
        return logits.add_(self._table)


@dataclass
class Constrained:
    """Forbid what a constraint does."""

    constraint: Constraint

    def __call__(self, logits: Tensor, text: History) -> Tensor:
        allowed = self.constraint.mask(text.tokens)
        if allowed is None:
            return logits
        if allowed.shape != logits.shape:
            raise GenerationError(
                f"the constraint's mask has shape {tuple(allowed.shape)}, the vocabulary {tuple(logits.shape)}"
            )
        return logits.masked_fill_(~allowed.to(logits.device), -torch.inf)
