"""What can be asked of the engine, and what it answers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor

from xlab.errors import GenerationError
from xlab.inference import request_checks
from xlab.inference.beam_search import EarlyStopping
from xlab.inference.filters import LogitFilter
from xlab.inference.sampling import filters_for
from xlab.inference.shaping import (
    Bias,
    Constraint,
    LongEnough,
    NoRepeatNgram,
    OccurrencePenalty,
    RepetitionPenalty,
    Shaper,
)

FinishReason = Literal["eos", "stop", "length", "cancelled", "error"]


@dataclass(frozen=True)
class BeamSettings:
    """Beam search instead of drawing.

    Attributes:
        width: beams that run side by side.
        length_penalty: a text's score is its log-probability over (its tokens) ** this.
        early_stopping: "never" stops when no running text can become one of the best; False when none would if it
            ended now; True as soon as ``width`` texts have ended.
        n_groups: beams in so many groups that avoid each other's tokens.
        diversity_penalty: what a token loses for each beam of the groups before that takes it.
    """

    width: int = 4
    length_penalty: float = 0.0
    early_stopping: EarlyStopping = "never"
    n_groups: int = 1
    diversity_penalty: float = 0.0


@dataclass(frozen=True)
class Request:
    """A prompt, and how to go on from it.

    Attributes:
        prompt: token ids, not empty; a list, or a 1-D array or tensor.
        max_new_tokens: how many to add at most.
        min_new_tokens: before so many, EOS is forbidden.
        temperature: divisor of the logits; 0 takes the likeliest token and draws nothing.
        top_k: keep the k likeliest tokens.
        top_p: keep the likeliest tokens that hold this probability.
        min_p: keep tokens at least so many times as likely as the best.
        typical_p: keep the tokens of typical surprise that hold this probability.
        repetition_penalty: divides the logits of tokens seen in prompt or text; 1 changes nothing.
        presence_penalty: subtracted from the logits of generated tokens.
        frequency_penalty: subtracted for each time that a token was generated.
        no_repeat_ngram: no sequence of so many tokens occurs twice.
        logit_bias: added to the logits of these ids.
        banned_ids: never generated.
        eos_ids: end the text, and are not part of it.
        stop: strings that end the text, and are not part of it; they need the engine's tokenizer.
        n: how many texts.
        best_of: how many to draw; the ``n`` of the highest mean log-probability are returned.
        seed: makes the draws repeatable, whatever runs beside them; None draws a new one.
        logprobs: how many of the likeliest tokens to report at each place, beside the chosen one; None reports nothing.
        prompt_logprobs: the same for the prompt.
        truncate: of a long prompt keep the last tokens: as many as leave the context room for ``max_new_tokens``, and
            at least half of the context; otherwise one longer than the context is refused.
        rolling: go on past the context's end: the model sees the last tokens, computed anew at every step.
        constraint: knows which tokens may come next; copied for each text.
        beams: beam search instead of drawing.
    """

    prompt: Sequence[int]
    max_new_tokens: int = 128
    min_new_tokens: int = 0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    banned_ids: Sequence[int] = ()
    eos_ids: Sequence[int] = ()
    stop: Sequence[str] = ()
    n: int = 1
    best_of: int | None = None
    seed: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    truncate: bool = False
    rolling: bool = False
    constraint: Constraint | None = None
    beams: BeamSettings | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).copy().items():
            if isinstance(value, np.generic):
                object.__setattr__(self, name, value.item())  # numpy's own would overflow in sums with Python's
            elif isinstance(value, Tensor | np.ndarray) and name in ("eos_ids", "banned_ids"):
                object.__setattr__(self, name, value.tolist())  # no id is found among a tensor's own numbers

    def check(self, vocab_size: int | None) -> None:
        """Refuse what cannot be answered.

        Args:
            vocab_size: of the model; None where it is not known before the first logits.

        Raises:
            GenerationError: naming the setting.
        """
        request_checks.check(self, vocab_size)

    @property
    def n_texts(self) -> int:
        """How many texts to draw."""
        return self.best_of or self.n

    @property
    def n_rows(self) -> int:
        """How many texts run side by side."""
        return self.n_texts if self.beams is None else self.beams.width

    def filters(self) -> tuple[LogitFilter, ...]:
        """What to draw from; nothing at temperature 0."""
        return filters_for(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            typical_p=self.typical_p,
        )

    def shapers(self) -> list[Shaper]:
        """What changes the logits, the constraint apart, in order."""
        shapers: list[Shaper] = []
        if self.repetition_penalty != 1:
            shapers.append(RepetitionPenalty(self.repetition_penalty))
        if self.presence_penalty or self.frequency_penalty:
            shapers.append(OccurrencePenalty(self.presence_penalty, self.frequency_penalty))
        if self.no_repeat_ngram is not None:
            shapers.append(NoRepeatNgram(self.no_repeat_ngram))
        bias = {**self.logit_bias, **dict.fromkeys(self.banned_ids, -math.inf)}
        if bias:
            shapers.append(Bias(bias))
        if self.min_new_tokens and len(self.eos_ids):
            shapers.append(LongEnough(self.min_new_tokens, tuple(self.eos_ids)))
        return shapers


class TokenLogprob(NamedTuple):
    """What the model thought of a token: its log-probability, before any filter, and the likeliest in its place."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Piece:
    """What one step brought to one text.

    Attributes:
        index: which of the request's texts.
        token: the new token; None where the text ended without one.
        text: what became certain of the text: whole characters, and nothing that may begin a stop string.
        logprob: of the token, if the request wants it.
        finish_reason: why the text ended; None while it goes on.
    """

    index: int
    token: int | None
    text: str
    logprob: TokenLogprob | None = None
    finish_reason: str | None = None


@dataclass(frozen=True)
class Completion:
    """One text.

    Attributes:
        tokens: without EOS.
        text: what the tokens say, cut before a stop string, and before a character whose last bytes were never
            generated; empty without a tokenizer.
        finish_reason: "eos", "stop", "length", "cancelled" or "error".
        logprobs: one for each token, if the request wants them.
        score: of a beam; of a drawn text its log-probability, EOS included, if the request wants it or ``best_of``.
        error: what ended it, where something went wrong.
    """

    tokens: tuple[int, ...]
    text: str
    finish_reason: str
    logprobs: tuple[TokenLogprob, ...] | None = None
    score: float | None = None
    error: GenerationError | None = None


@dataclass(frozen=True)
class Timings:
    """Seconds since the request was submitted."""

    started: float
    first_token: float
    finished: float

    def tokens_per_second(self, n_tokens: int) -> float:
        """How fast tokens came after the first."""
        return (n_tokens - 1) / max(self.finished - self.first_token, 1e-9)


@dataclass(frozen=True)
class Result:
    """The answer to a request.

    Attributes:
        completions: ``n`` of them, the best first where they were ranked; empty when the request was refused.
        prompt_tokens: how many tokens of the prompt the model saw.
        prompt_logprobs: one for each token of the prompt but the first, if the request wants them.
        timings: when it went on and ended.
        error: why the request was refused, or what ended the first text.
    """

    completions: tuple[Completion, ...]
    prompt_tokens: int
    timings: Timings
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    error: GenerationError | None = None

    @property
    def best(self) -> Completion:
        """The first text.

        Raises:
            GenerationError: when there is none.
        """
        if not self.completions:
            raise self.error or GenerationError("the request has no text")
        return self.completions[0]

    @property
    def tokens(self) -> tuple[int, ...]:
        """Of the first text."""
        return self.best.tokens

    @property
    def text(self) -> str:
        """The first text."""
        return self.best.text

    @property
    def finish_reason(self) -> str:
        """Why the first text ended."""
        return self.best.finish_reason
