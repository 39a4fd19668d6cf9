"""The most likely texts as a whole: several beams that grow side by side, and compete by score.

Letters: B running beams, V vocabulary, C candidates.
"""

import math
from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from xlab.errors import GenerationError
from xlab.inference import checks
from xlab.inference.engine import Step, generate
from xlab.inference.filters import is_top_k, widest
from xlab.inference.stepper import Model
from xlab.inference.vocabulary import Vocabulary


def beam_search(
    model: Model,
    x: Tensor,
    beam_width: int,
    output_length: int,
    block_size: int | None,
    eos_class: int | None = None,
    exclude_classes: Iterable[int] | None = None,
    length_penalty: float = 0.0,
) -> Tensor:
    """Continue ``x`` with the best-scored text that ``beam_width`` beams find.

    A text's score is its log-probability over (number of its tokens) ** ``length_penalty``, EOS included in both. Texts
    that ended by EOS and texts that reached ``output_length`` compete by it. Excluded classes are passed over, and the
    others keep the model's probabilities. Pass a model in eval mode; its mode is left as it is.

    Args:
        model: maps (B, T) ids to (B, T, V) logits.
        x: (T,) ids of the prompt, not empty.
        beam_width: beams that run side by side, ≥ 1; more than there are texts searches all of them.
        output_length: new tokens at most, EOS included, ≥ 0.
        block_size: the model sees the last ``block_size`` tokens; None is no limit.
        eos_class: the id that ends a text.
        exclude_classes: ids that are never generated.
        length_penalty: above 0 favours long texts, below 0 short ones.

    Returns:
        (≤ output_length,) new ids on the device of ``x``, without EOS.

    Raises:
        GenerationError: for an argument that cannot be, NaN in the logits, or a context longer than the model takes.
    """
    best, *_ = n_best(
        model, x, beam_width, output_length, block_size, eos_class, exclude_classes, length_penalty=length_penalty, n=1
    )
    return torch.tensor(best.tokens, dtype=torch.long, device=x.device)


@dataclass(frozen=True)
class Hypothesis:
    """A text that beams found: its tokens without EOS, and what they are worth."""

    tokens: list[int]
    log_probability: float
    score: float
    finished: bool
    """Ended by EOS, which the log-probability and the score include."""


def n_best(
    model: Model,
    x: Tensor,
    beam_width: int,
    output_length: int,
    block_size: int | None,
    eos_class: int | None = None,
    exclude_classes: Iterable[int] | None = None,
    *,
    length_penalty: float = 0.0,
    n: int,
) -> list[Hypothesis]:
    """Return the ``n`` best texts of ``beam_search``, best first; fewer when the beams found fewer."""
    beams = Beams(
        Vocabulary(eos_class, exclude_classes),
        width=beam_width,
        output_length=output_length,
        length_penalty=length_penalty,
        n=n,
    )
    for _ in generate(model, x, output_length, block_size, beams):
        pass
    return beams.found


class Beams:
    """Keep the ``width`` likeliest running texts, and the ``n`` best that have ended: a ``Strategy``.

    As in ``transformers`` with ``early_stopping="never"``, a text ends by EOS only if it is among the ``width``
    likeliest of its step, and takes no running text's place: the ``width`` likeliest of the others run on.
    """

    def __init__(
        self, vocabulary: Vocabulary, *, width: int, output_length: int, length_penalty: float = 0.0, n: int = 1
    ) -> None:
        self.vocabulary = vocabulary
        self.width = checks.count("beam_width", width, least=1, remedy="1 follows a single text")
        self.n = checks.count("n", n, least=1, remedy="it is the number of texts to return")
        self.output_length = checks.count(
            "output_length", output_length, least=0, remedy="it is the number of new tokens"
        )
        # e ** 700 is about the largest float64
        if not abs(length_penalty) * math.log(max(output_length, 2)) < 700:
            raise GenerationError(
                f"length_penalty must be a moderate number, got {length_penalty}; 0 compares the log-probabilities"
            )
        self.length_penalty = length_penalty
        self.running: list[list[int]] = [[]]
        self.sums = [0.0]  # log-probability of each running text
        self.found: list[Hypothesis] = [] if output_length else [Hypothesis([], 0.0, 0.0, finished=False)]

    def choose(self, logits: Tensor) -> Step:
        """From the logits (B, V) of the running texts, choose those that are one token longer."""
        sums, parents, tokens = self._candidates(logits)
        length = len(self.running[0]) + 1
        before, self.running, self.sums = self.running, [], []
        step = Step([], [])
        for rank, (total, parent, token) in enumerate(zip(sums, parents, tokens, strict=True)):
            if token == self.vocabulary.eos_class:
                if rank < self.width:
                    self._end(before[parent], total, length, finished=True)
            elif len(self.running) < self.width:
                self.running.append([*before[parent], token])
                self.sums.append(total)
                step.tokens.append(token)
                step.parents.append(parent)
        if length == self.output_length:
            for text, total in zip(self.running, self.sums, strict=True):
                self._end(text, total, length, finished=False)
        return Step([], []) if self._settled(length) else step

    def _candidates(self, logits: Tensor) -> tuple[list[float], list[int], list[int]]:
        """The likeliest texts that are one token longer: log-probability, running text and token, best first."""
        log_p = self.vocabulary.restrict(widest(logits).log_softmax(dim=-1))
        total = log_p + torch.tensor(self.sums, dtype=log_p.dtype, device=log_p.device).unsqueeze(-1)  # (B, V)
        # one NaN makes its whole row NaN: +inf brings it to the top, where the check below finds it
        total = total.flatten().nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)  # (B·V,)
        # at most one text of each beam ends, so twice the width leaves enough that go on
        count = min(self.width if self.vocabulary.eos_class is None else 2 * self.width, total.numel())
        chosen = is_top_k(total, count).nonzero_static(size=count).squeeze(-1)  # (C,)
        ordered, order = total[chosen].sort(descending=True, stable=True)
        chosen = chosen[order]
        parent, token = chosen // log_p.size(-1), chosen % log_p.size(-1)
        sums, parents, tokens = torch.stack([ordered, parent.to(ordered), token.to(ordered)]).tolist()  # one host read
        checks.best_logit(sums[0])
        possible = sum(value > -math.inf for value in sums)
        return sums[:possible], [int(row) for row in parents[:possible]], [int(t) for t in tokens[:possible]]

    def _end(self, text: list[int], total: float, length: int, *, finished: bool) -> None:
        hypothesis = Hypothesis(text, total, self._score(total, length), finished)
        insort(self.found, hypothesis, key=lambda found: -found.score)
        del self.found[self.n :]

    def _score(self, total: float, length: int) -> float:
        return total / float(length**self.length_penalty)

    def _settled(self, length: int) -> bool:
        """No running text can still become one of the ``n`` best."""
        if not self.running:
            return True
        if len(self.found) < self.n:
            return False
        # a log-probability only falls, and its score is best at the shortest or the longest that it can still become
        lengths = min(length + 1, self.output_length), self.output_length
        return all(self.found[-1].score >= self._score(max(self.sums), end) for end in lengths)
