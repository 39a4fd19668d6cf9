"""The most likely texts as a whole: several beams that grow side by side, and compete by score.

Letters: B running beams, V vocabulary, C candidates.
"""

import math
from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from xlab.errors import GenerationError
from xlab.inference import checks
from xlab.inference.filters import is_top_k, widest
from xlab.inference.rows import Model
from xlab.inference.scheduler import Step, generate
from xlab.inference.vocabulary import Vocabulary

EarlyStopping = bool | Literal["never"]


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
    early_stopping: EarlyStopping = "never",
    n_groups: int = 1,
    diversity_penalty: float = 0.0,
) -> list[Hypothesis]:
    """Return the ``n`` best texts of ``beam_search``, best first; fewer when the beams found fewer.

    Args:
        early_stopping: as in ``transformers``: "never" stops when no running text can become one of the best; False
            when none would if it ended now; True as soon as ``beam_width`` texts have ended.
        n_groups: beams in so many groups, of equal width, that avoid each other's tokens.
        diversity_penalty: what a token's log-probability loses for each beam of the groups before that takes it.
    """
    beams = beams_for(
        Vocabulary(eos_class, exclude_classes),
        width=beam_width,
        output_length=output_length,
        length_penalty=length_penalty,
        n=n,
        early_stopping=early_stopping,
        n_groups=n_groups,
        diversity_penalty=diversity_penalty,
    )
    for _ in generate(model, x, output_length, block_size, beams, n_rows=beams.most_rows(_vocab_size(model))):
        pass
    return beams.best


def beams_for(
    vocabulary: Vocabulary,
    *,
    width: int,
    n_groups: int = 1,
    diversity_penalty: float = 0.0,
    **settings: Any,
) -> "Beams | DiverseBeams":
    """One set of beams, or several that avoid each other.

    Raises:
        GenerationError: for settings that cannot be.
    """
    n_groups = checks.count("n_groups", n_groups, least=1, remedy="1 is plain beam search")
    width = checks.count("beam_width", width, least=1, remedy="1 follows a single text")
    checks.moderate("diversity_penalty", diversity_penalty, remedy="0 lets groups choose alike")
    if diversity_penalty < 0:
        raise GenerationError(f"diversity_penalty must be at least 0, got {diversity_penalty}")
    if n_groups == 1 and not diversity_penalty:
        return Beams(vocabulary, width=width, **settings)
    if width % n_groups:
        raise GenerationError(f"beam_width must be divisible by n_groups, got {width} and {n_groups}")
    groups = [Beams(vocabulary, width=width // n_groups, **settings) for _ in range(n_groups)]
    return DiverseBeams(groups, diversity_penalty)


class Beams:
    """Keep the ``width`` likeliest running texts, and the ``n`` best that have ended: a ``Strategy``.

    As in ``transformers`` with ``early_stopping="never"``, a text ends by EOS only if it is among the ``width``
    likeliest of its step, and takes no running text's place: the ``width`` likeliest of the others run on.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        width: int,
        output_length: int,
        length_penalty: float = 0.0,
        n: int = 1,
        early_stopping: EarlyStopping = "never",
    ) -> None:
        self.vocabulary = vocabulary
        self.width = checks.count("beam_width", width, least=1, remedy="1 follows a single text")
        self.n = checks.count("n", n, least=1, remedy="it is the number of texts to return")
        self.output_length = checks.count(
            "output_length", output_length, least=0, remedy="it is the number of new tokens"
        )
        checks.number("length_penalty", length_penalty)
        # e ** 700 is about the largest float64
        if not abs(length_penalty) < 700 / math.log(max(output_length, 2)):
            raise GenerationError(
                f"length_penalty must be a moderate number, got {length_penalty}; 0 compares the log-probabilities"
            )
        self.length_penalty = length_penalty
        if not isinstance(early_stopping, bool) and early_stopping != "never":
            raise GenerationError(f'early_stopping must be True, False or "never", got {early_stopping!r}')
        self.early_stopping = early_stopping
        # transformers keeps as many ended texts as beams, and stops by the worst of them
        self.n_kept = self.n if early_stopping == "never" else max(self.n, self.width)
        self.is_settled = False
        self.running: list[list[int]] = [[]]
        self.sums = [0.0]  # log-probability of each running text
        self.found: list[Hypothesis] = [] if output_length else [Hypothesis([], 0.0, 0.0, finished=False)]

    @property
    def best(self) -> list[Hypothesis]:
        """The ``n`` best texts that have ended."""
        return self.found[: self.n]

    def most_rows(self, vocab_size: int | None) -> int:
        """How many texts may run side by side at most."""
        if vocab_size is None:
            return self.width
        texts = 1
        for _ in range(self.output_length - 1):  # the last step's texts are never fed
            if texts >= self.width or vocab_size == 1:
                break
            texts *= vocab_size
        return min(self.width, texts)

    def choose(self, logits: Tensor, against: Tensor | None = None) -> Step:
        """From the logits (B, V) of the running texts, choose those that are one token longer.

        ``against`` (V,) is what each token loses in the choice, though not in its log-probability.
        """
        sums, parents, tokens = self._candidates(logits, against)
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
        self.is_settled = self._settled(length)
        return Step([], []) if self.is_settled else step

    def _candidates(self, logits: Tensor, against: Tensor | None) -> tuple[list[float], list[int], list[int]]:
        """The likeliest texts that are one token longer: log-probability, running text and token, best first."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        normaliser = _logsumexp(logits)  # (B,)
        # one NaN makes its whole row's normaliser NaN: +inf brings it to the top, where the check below finds it
        logits = _without_nan(self.vocabulary.restrict(logits))
        # at most one text of each beam ends, so twice the width leaves enough that go on
        count = self.width if self.vocabulary.eos_class is None else 2 * self.width
        of_each = min(count, logits.size(-1))
        scores = logits if against is None else widest(logits) - against.to(normaliser)
        chosen = is_top_k(scores, of_each).nonzero_static(size=of_each * len(logits))  # (B · of_each, 2)
        parent, token = chosen.unbind(-1)
        sums_so_far = torch.tensor(self.sums, dtype=normaliser.dtype, device=logits.device)
        total = _without_nan(widest(logits[parent, token]) + (sums_so_far - normaliser)[parent])
        worth = total if against is None else total - against.to(total)[token]
        order = worth.sort(descending=True, stable=True).indices[:count]
        ordered, parent, token = total[order], parent[order], token[order]
        sums, parents, tokens = torch.stack([ordered, parent.to(ordered), token.to(ordered)]).tolist()  # one host read
        checks.best_logit(sums[0])
        possible = sum(value > -math.inf for value in sums)
        return sums[:possible], [int(row) for row in parents[:possible]], [int(t) for t in tokens[:possible]]

    def _end(self, text: list[int], total: float, length: int, *, finished: bool) -> None:
        hypothesis = Hypothesis(text, total, self._score(total, length), finished)
        insort(self.found, hypothesis, key=lambda found: -found.score)
        del self.found[self.n_kept :]

    def _score(self, total: float, length: int) -> float:
        return total / float(length**self.length_penalty)

    def _settled(self, length: int) -> bool:
        """No running text can still become one of the ``n`` best."""
        if not self.running:
            return True
        if len(self.found) < self.n_kept:
            return False
        if self.early_stopping is True:
            return True
        if self.early_stopping is False:
            return self.found[-1].score >= self._score(max(self.sums), length)
        # a log-probability only falls, and its score is best at the shortest or the longest that it can still become
        lengths = min(length + 1, self.output_length), self.output_length
        return all(self.found[-1].score >= self._score(max(self.sums), end) for end in lengths)


class DiverseBeams:
    """Groups of beams that choose in turn, each avoiding what those before it chose at this step: a ``Strategy``.

    Vijayakumar et al. 2016, arXiv 1610.02424, with the Hamming diversity of section 3: what a token loses guides the
    choice alone, and the texts are compared by their own log-probabilities.
    """

    def __init__(self, groups: list[Beams], penalty: float) -> None:
        self.groups, self.penalty = groups, penalty
        self.n_rows = [1] * len(groups)
        self.is_first = True

    @property
    def best(self) -> list[Hypothesis]:
        """The ``n`` best texts of all groups, each text once."""
        found: dict[tuple[tuple[int, ...], bool], Hypothesis] = {}
        for group in self.groups:
            for text in group.found:
                found.setdefault((tuple(text.tokens), text.finished), text)
        return sorted(found.values(), key=lambda text: -text.score)[: self.groups[0].n]

    def most_rows(self, vocab_size: int | None) -> int:
        """How many texts may run side by side at most."""
        return sum(group.most_rows(vocab_size) for group in self.groups)

    def choose(self, logits: Tensor) -> Step:
        """Choose for one group after another, from the logits (B, V) of all groups' texts."""
        taken = torch.zeros(logits.size(-1), dtype=torch.float64)
        step, start = Step([], []), 0
        for i, group in enumerate(self.groups):
            stop = start + self.n_rows[i]
            own = logits if self.is_first else logits[start:stop]
            if self.n_rows[i]:
                chosen = group.choose(own, self.penalty * taken)
                taken += torch.tensor(chosen.tokens, dtype=torch.long).bincount(minlength=len(taken))
                step.tokens.extend(chosen.tokens)
                step.parents.extend(parent if self.is_first else parent + start for parent in chosen.parents)
                self.n_rows[i] = len(chosen.tokens)
            start = stop
        self.is_first = False
        return step


def _logsumexp(logits: Tensor) -> Tensor:
    """The logarithm of the sum of exponentials of each row, (B, V) to (B,), summed without drift."""
    largest = logits.amax(dim=-1, keepdim=True)
    total = (logits - largest).exp().sum(dim=-1, dtype=widest(largest).dtype)
    return total.log() + widest(largest).squeeze(-1)


def _without_nan(values: Tensor) -> Tensor:
    return values.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)


def _vocab_size(model: Model) -> int | None:
    vocab_size = getattr(model, "vocab_size", None)
    return vocab_size if isinstance(vocab_size, int) else None
