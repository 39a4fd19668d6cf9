"""One text, token by token: drawn from the model's distribution, or always its most likely token.

Letters: V vocabulary.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from xlab.inference import checks
from xlab.inference.engine import Step, generate
from xlab.inference.filters import LogitFilter, Temperature, TopK, TopP, widest
from xlab.inference.stepper import Model
from xlab.inference.vocabulary import Vocabulary


def sample(
    model: Model,
    x: Tensor,
    output_length: int,
    block_size: int | None,
    eos_class: int | None = None,
    exclude_classes: Iterable[int] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw a continuation of ``x``.

    The distribution is cut in this order, and renormalised by each: excluded classes, temperature, top-k, top-p.
    Pass a model in eval mode; its mode is left as it is.

    Args:
        model: maps (B, T) ids to (B, T, V) logits.
        x: (T,) ids of the prompt, not empty.
        output_length: new tokens at most, ≥ 0.
        block_size: the model sees the last ``block_size`` tokens; None is no limit.
        eos_class: the id that ends the text.
        exclude_classes: ids that are never drawn.
        temperature: divisor of the logits, ≥ 0; 0 takes the most likely token and draws nothing.
        top_k: keep the k most likely tokens, ≥ 1.
        top_p: keep the smallest set of most likely tokens that holds this probability, in (0, 1].
        generator: None draws from torch's global generator.

    Returns:
        (≤ output_length,) new ids on the device of ``x``, without EOS.

    Raises:
        GenerationError: for an argument that cannot be, NaN in the logits, or a context longer than the model takes.
    """
    tokens = stream(
        model, x, output_length, block_size, eos_class, exclude_classes, temperature, top_k, top_p, generator
    )
    return torch.tensor(list(tokens), dtype=torch.long, device=x.device)


def greedy_search(
    model: Model,
    x: Tensor,
    output_length: int,
    block_size: int | None,
    eos_class: int | None = None,
    exclude_classes: Iterable[int] | None = None,
) -> Tensor:
    """Continue ``x`` with the most likely token at each step, ties going to the lower id.

    Arguments, result and errors are those of ``sample``.
    """
    return sample(model, x, output_length, block_size, eos_class, exclude_classes, temperature=0)


def stream(
    model: Model,
    x: Tensor,
    output_length: int,
    block_size: int | None,
    eos_class: int | None = None,
    exclude_classes: Iterable[int] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """Yield the tokens of ``sample`` as they come; arguments are checked at the call, before the first is asked for."""
    sampler = Sampler(
        Vocabulary(eos_class, exclude_classes), temperature=temperature, top_k=top_k, top_p=top_p, generator=generator
    )
    steps = generate(model, x, output_length, block_size, sampler)
    return (token for step in steps for token in step.tokens)


class Sampler:
    """Choose the next token of a single row: a ``Strategy``."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.vocabulary = vocabulary
        self.greedy = temperature == 0
        self.generator = generator
        self.filters: list[LogitFilter] = [Temperature(temperature)]
        if top_k is not None:
            self.filters.append(TopK(top_k))
        if top_p is not None:
            self.filters.append(TopP(top_p))

    def choose(self, logits: Tensor) -> Step:
        """Draw from the logits (1, V); no row goes on after EOS."""
        # a half-precision model's logits are whole in float32; its probabilities would not be
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logits = self.vocabulary.restrict(logits)
        best, likeliest = logits.max(dim=-1)
        drawn = likeliest if self.greedy else self._draw(logits).to(likeliest)
        token, best_logit = torch.stack([widest(drawn), widest(best)]).flatten().tolist()  # the step's only host read
        checks.best_logit(best_logit)
        return Step([], []) if token == self.vocabulary.eos_class else Step([int(token)], [0])

    def _draw(self, logits: Tensor) -> Tensor:
        for keep in self.filters:
            logits = keep(logits)
        p = logits.softmax(dim=-1)
        if self.generator is not None:
            p = p.to(self.generator.device)
        # an exponential race draws what torch.multinomial(p, 1) draws, but lets NaN through to the check above
        return (p / torch.empty_like(p).exponential_(generator=self.generator)).argmax(dim=-1)
