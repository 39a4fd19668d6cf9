"""Texts that go on by themselves, token by token: drawn from the model's distribution, or always its likeliest token.

Letters: V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xlab.errors import GenerationError
from xlab.inference import checks
from xlab.inference.detokenizer import Detokenizer, StopStrings
from xlab.inference.drawing import Choice
from xlab.inference.filters import LogitFilter, MinP, Temperature, TopK, TopP, Typical
from xlab.inference.rows import Model
from xlab.inference.scheduler import Step, generate
from xlab.inference.shaping import Constraint, Shaper
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
    vocabulary = Vocabulary(eos_class, exclude_classes)
    text = Text(
        [],
        limit=output_length,
        filters=filters_for(temperature=temperature, top_k=top_k, top_p=top_p),
        generator=generator,
        eos_ids=() if vocabulary.eos_class is None else (vocabulary.eos_class,),
        shapers=[lambda logits, _: vocabulary.restrict(logits)],  # it also checks eos_class
    )
    sampler = Sampler([text])
    steps = generate(model, x, output_length, block_size, sampler)
    return _tokens(steps, sampler)


def _tokens(steps: Iterator[object], sampler: "Sampler") -> Iterator[int]:
    for _ in steps:
        for news in sampler.collect():
            if news.error is not None:
                raise news.error
            if news.token is not None:
                yield news.token


def filters_for(
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    typical_p: float | None = None,
) -> tuple[LogitFilter, ...]:
    """The filters in their order; none at temperature 0, which draws nothing.

    Raises:
        GenerationError: for a setting that cannot be.
    """
    filters: list[LogitFilter] = [Temperature(temperature)]
    kinds: list[tuple[Callable[..., LogitFilter], float | None]] = [
        (TopK, top_k),
        (Typical, typical_p),
        (TopP, top_p),
        (MinP, min_p),
    ]
    filters += [kind(value) for kind, value in kinds if value is not None]
    return () if temperature == 0 else tuple(filters)


@dataclass(frozen=True)
class News:
    """What one step brought to one text.

    Attributes:
        index: which of the job's texts.
        token: the new token; None where the text ended without one, as by EOS.
        text: what became certain of the text, if there is a tokenizer.
        choice: how the token was drawn.
        finish_reason: why the text ended; None while it goes on.
        error: what ended it, where something went wrong.
    """

    index: int
    token: int | None
    text: str
    choice: Choice | None
    finish_reason: str | None
    error: GenerationError | None = None


class Text:
    """One continuation of a prompt, and what decides how it goes on.

    Args:
        prompt: token ids.
        limit: new tokens at most.
        filters: what to draw from; none takes the likeliest token.
        generator: draws; None is torch's global one.
        eos_ids: tokens that end the text, and are not part of it.
        shapers: change the logits, in this order.
        decode: token ids to text; None makes no text.
        stops: strings that end the text, and are not part of it.
        constraint: knows which tokens may come next.
        n_logprobs: how many of the likeliest tokens to report; None reports not even the drawn one's.
    """

    def __init__(
        self,
        prompt: list[int],
        *,
        limit: int,
        filters: tuple[LogitFilter, ...] = (),
        generator: torch.Generator | None = None,
        eos_ids: Sequence[int] = (),
        shapers: Sequence[Shaper] = (),
        decode: Callable[[Sequence[int]], str] | None = None,
        stops: Sequence[str] = (),
        constraint: Constraint | None = None,
        n_logprobs: int | None = None,
    ) -> None:
        self.prompt, self.limit, self.filters, self.generator = prompt, limit, filters, generator
        self.eos_ids = frozenset(eos_ids)
        self.shapers, self.constraint, self.n_logprobs = tuple(shapers), constraint, n_logprobs
        self.tokens: list[int] = []
        self.choices: list[Choice] = []
        self.end: Choice | None = None  # EOS, as it was drawn
        self.pieces: list[str] = []
        self.finish_reason: str | None = None
        self.error: GenerationError | None = None
        self._detokenizer = None if decode is None else Detokenizer(decode)
        self._stops = StopStrings(stops)

    @property
    def shapes(self) -> bool:
        return bool(self.shapers)

    def shape(self, logits: Tensor) -> Tensor:
        logits = logits.clone()
        try:
            for shaper in self.shapers:
                logits = shaper(logits, self)
        except Exception as error:  # of this text alone: the others draw meanwhile
            self.error = checks.generation_error(error, "a change of the logits failed")
        return logits

    def take(self, choice: Choice, index: int) -> News:
        """Go on with what was drawn, or end."""
        try:
            if self.error is not None:
                raise self.error
            checks.best_logit(choice.best_logit)
            return self._grow(choice, index)
        except Exception as error:
            self.error = checks.generation_error(error, "the text failed")
            return News(index, None, self._end("error"), None, "error", self.error)

    def finish(self, reason: str) -> None:
        """End from outside."""
        if self.finish_reason is None:
            self._end(reason)

    def _grow(self, choice: Choice, index: int) -> News:
        token = choice.token
        if token in self.eos_ids:
            self.end = choice
            return News(index, None, self._end("eos"), None, "eos")
        self.tokens.append(token)
        if self.n_logprobs is not None:
            self.choices.append(choice)
        piece = "" if self._detokenizer is None else self._stops.add(self._detokenizer.add(token))
        self.pieces.append(piece)
        if self.constraint is not None:
            self.constraint.accept(token)
        reason = None
        if self._stops.found is not None or (self.constraint is not None and self.constraint.is_finished):
            reason = "stop"
        elif len(self.tokens) >= self.limit:
            reason = "length"
        if reason is not None:
            piece += self._end(reason)
        return News(index, token, piece, choice, self.finish_reason)

    def _end(self, reason: str) -> str:
        """What was held back of the text, which may have begun a stop string."""
        self.finish_reason = reason
        if self._detokenizer is None or self._stops.found is not None:
            return ""
        rest = self._stops.flush()
        self.pieces.append(rest)
        return rest


class Sampler:
    """Several continuations of one prompt, which draw for themselves: a ``DrawingStrategy``.

    Args:
        texts: one or more.

    Attributes:
        running: the texts that go on, in the order of their rows.
    """

    def __init__(self, texts: list[Text]) -> None:
        self.texts, self.running = texts, list(texts)
        self.n_rows = 1
        self._news: list[News] = []

    def collect(self) -> list[News]:
        """What came since this was asked last."""
        news, self._news = self._news, []
        return news

    def drawables(self) -> list[Text]:
        return self.running

    def take(self, choices: list[Choice]) -> Step:
        step = Step([], [])
        running = []
        for row, (text, choice) in enumerate(zip(self.running, choices, strict=True)):
            news = text.take(choice, self.texts.index(text))
            self._news.append(news)
            if text.finish_reason is None:
                running.append(text)
                step.tokens.append(choice.token)
                step.parents.append(row if self.n_rows == len(self.running) else 0)
        self.running, self.n_rows = running, len(running)
        return step
