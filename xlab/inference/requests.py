"""What can be asked of the engine, and what it answers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from xlab.errors import GenerationError
from xlab.inference import checks
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
        prompt: token ids, not empty.
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
        truncate: of a prompt that is longer than the context, keep the last tokens: as many as leave room for
            ``max_new_tokens``, and at least half of the context; otherwise it is refused.
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

    def check(self, vocab_size: int | None) -> None:
        """Refuse what cannot be answered.

        Raises:
            GenerationError: naming the setting.
        """
        if not len(self.prompt):
            raise GenerationError("the prompt is empty; begin it with the tokenizer's sos token")
        if vocab_size is not None:
            for ids, subject in (
                (self.prompt, "the prompt contains token id"),
                (self.logit_bias, "logit_bias contains token id"),
                (self.banned_ids, "banned_ids contains token id"),
                (self.eos_ids, "eos_ids contains token id"),
            ):
                for token_id in (min(ids, default=0), max(ids, default=0)):
                    checks.token(subject, token_id, vocab_size)
            if len(set(self.banned_ids)) == vocab_size:
                raise GenerationError(f"banned_ids contains all {vocab_size} ids; leave at least one to generate")
        checks.count("max_new_tokens", self.max_new_tokens, least=1, remedy="it is the number of tokens to add")
        checks.count("min_new_tokens", self.min_new_tokens, least=0, remedy="0 lets the text end at once")
        checks.count("n", self.n, least=1, remedy="it is the number of texts")
        for name in ("logprobs", "prompt_logprobs"):
            if (value := getattr(self, name)) is not None:
                checks.count(name, value, least=0, remedy="None reports nothing, 0 the chosen token alone")
        if self.min_new_tokens > self.max_new_tokens:
            raise GenerationError(
                f"min_new_tokens is {self.min_new_tokens}, more than max_new_tokens, {self.max_new_tokens}"
            )
        if self.best_of is not None and checks.count("best_of", self.best_of, least=1, remedy="None is n") < self.n:
            raise GenerationError(f"best_of is {self.best_of}, less than n, {self.n}")
        if isinstance(self.stop, str) or not all(self.stop):
            raise GenerationError(f"stop must be a list of strings, none empty, got {self.stop!r}")
        if any(math.isnan(bias) for bias in self.logit_bias.values()):
            raise GenerationError("logit_bias contains NaN")
        if (self.n_texts > 1) and self.temperature == 0 and self.beams is None:
            raise GenerationError(f"at temperature 0 all {self.n_texts} texts would be the same; draw, or ask for one")
        self.filters()
        self.shapers()
        if self.beams is not None:
            self._check_beams(self.beams)

    def _check_beams(self, beams: BeamSettings) -> None:
        alone = {
            "top_k": None,
            "top_p": None,
            "min_p": None,
            "typical_p": None,
            "best_of": None,
            "seed": None,
            "logprobs": None,
            "constraint": None,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "no_repeat_ngram": None,
            "min_new_tokens": 0,
        }
        for name, default in alone.items():
            if getattr(self, name) != default:
                raise GenerationError(f"{name} has no meaning in a beam search; leave it or the beams out")
        if self.stop or self.logit_bias or len(self.eos_ids) > 1:
            raise GenerationError("a beam search ends by one EOS token, and takes no stop strings and no logit_bias")
        checks.count("beams.width", beams.width, least=1, remedy="1 follows a single text")
        if self.n > beams.width:
            raise GenerationError(f"n is {self.n}, more than there are beams, {beams.width}")

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
        if self.min_new_tokens and self.eos_ids:
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
        text: what the tokens say, cut before a stop string; empty without a tokenizer.
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
