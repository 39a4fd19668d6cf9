"""What a request may ask: a check for each setting by itself, then for those that contradict each other."""

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from xlab.errors import GenerationError
from xlab.inference import checks
from xlab.inference.filters import MinP, Temperature, TopK, TopP, Typical
from xlab.inference.shaping import NoRepeatNgram, OccurrencePenalty, RepetitionPenalty

if TYPE_CHECKING:
    from xlab.inference.requests import BeamSettings, Request

_NOT_WITH_BEAMS = (
    *("temperature", "top_k", "top_p", "min_p", "typical_p", "best_of", "seed", "logprobs", "constraint"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty", "no_repeat_ngram", "min_new_tokens"),
)


def check(request: "Request", vocab_size: int | None) -> None:
    """Refuse what cannot be answered; ``vocab_size`` is None where the model does not tell it.

    Raises:
        GenerationError: naming the setting.
    """
    defaults = {field.name: field.default for field in fields(request)}
    for name, check_one in _CHECKS.items():
        value = getattr(request, name)
        if value is not None or defaults[name] is not None:
            check_one(name, value)
    _check_ids(request, vocab_size)
    if request.min_new_tokens > request.max_new_tokens:
        raise GenerationError(
            f"min_new_tokens is {request.min_new_tokens}, more than max_new_tokens, {request.max_new_tokens}"
        )
    if request.best_of is not None and request.best_of < request.n:
        raise GenerationError(f"best_of is {request.best_of}, less than n, {request.n}")
    if request.beams is not None:
        _check_beside_beams(request, request.beams, defaults)
    elif request.n_texts > 1 and request.temperature == 0:
        raise GenerationError(f"at temperature 0 all {request.n_texts} texts would be the same; draw, or ask for one")


def _check_ids(request: "Request", vocab_size: int | None) -> None:
    lowest, highest = checks.ids("the prompt", request.prompt, vocab_size)
    if not len(request.prompt):
        raise GenerationError("the prompt is empty; begin it with the tokenizer's sos token")
    if lowest < 0 or highest >= 2**63:  # where the vocabulary is known, this has been found
        raise GenerationError(f"the prompt contains token id {lowest if lowest < 0 else highest}; ids start at 0")
    for name in ("logit_bias", "banned_ids", "eos_ids"):
        checks.ids(name, getattr(request, name), vocab_size)
    if vocab_size is not None and len(set(request.banned_ids)) == vocab_size:
        raise GenerationError(f"banned_ids contains all {vocab_size} ids; leave at least one to generate")


def _check_beside_beams(request: "Request", beams: "BeamSettings", defaults: Mapping[str, object]) -> None:
    for name in _NOT_WITH_BEAMS:
        if getattr(request, name) != defaults[name]:
            raise GenerationError(f"{name} has no meaning in a beam search; leave it or the beams out")
    if len(request.stop) or request.logit_bias or len(request.eos_ids) > 1:
        raise GenerationError("a beam search ends by one EOS token, and takes no stop strings and no logit_bias")
    if request.n > beams.width:
        raise GenerationError(f"n is {request.n}, more than there are beams, {beams.width}")


def _prompt(name: str, value: Any) -> None:
    if not hasattr(value, "__getitem__") or isinstance(value, Mapping):  # a set has no order
        raise GenerationError(f"the {name} must be a list of token ids, got {checks.shown(value)}")


def _count(least: int, remedy: str) -> Callable[[str, Any], object]:
    return lambda name, value: checks.count(name, value, least=least, remedy=remedy)


def _seed(name: str, value: Any) -> None:
    if checks.count(name, value, least=0, remedy="leave it out to draw anew") >= 2**63:
        raise GenerationError(f"seed must be below 2**63, got {value}")


def _switch(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise GenerationError(f"{name} must be True or False, got {checks.shown(value)}")


def _strings(name: str, value: Any) -> None:
    is_list = isinstance(value, Sequence | Set) and not isinstance(value, str | bytes)
    if not is_list or not all(isinstance(string, str) and string for string in value):
        raise GenerationError(f"{name} must be a list of strings, none empty, got {checks.shown(value)}")


def _biases(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise GenerationError(f"{name} must be a dict of token ids and numbers, got {checks.shown(value)}")
    for bias in value.values():
        checks.number(name, bias)
        if bias != -math.inf:  # forbids the token
            checks.moderate(name, bias, remedy="100 is as good as certain, minus infinity forbids")


def _constraint(name: str, value: Any) -> None:
    if not callable(getattr(value, "mask", None)) or not callable(getattr(value, "accept", None)):
        raise GenerationError(f"{name} must have mask and accept, as RegexConstraint has, got {checks.shown(value)}")


def _beams(name: str, value: Any) -> None:
    from xlab.inference.requests import BeamSettings

    if not isinstance(value, BeamSettings):
        raise GenerationError(f"{name} must be BeamSettings, got {checks.shown(value)}")
    _count(1, "1 follows a single text")("beams.width", value.width)


_REPORTED = _count(0, "0 reports the chosen token alone, and leaving it out nothing")

# None is allowed where it is the default
_CHECKS: dict[str, Callable[[str, Any], object]] = {
    "prompt": _prompt,
    "max_new_tokens": _count(1, "it is the number of tokens to add"),
    "min_new_tokens": _count(0, "0 lets the text end at once"),
    "temperature": lambda _, value: Temperature(value),
    "top_k": lambda _, value: TopK(value),
    "top_p": lambda _, value: TopP(value),
    "min_p": lambda _, value: MinP(value),
    "typical_p": lambda _, value: Typical(value),
    "repetition_penalty": lambda _, value: RepetitionPenalty(value),
    "presence_penalty": lambda _, value: OccurrencePenalty(presence=value),
    "frequency_penalty": lambda _, value: OccurrencePenalty(frequency=value),
    "no_repeat_ngram": lambda _, value: NoRepeatNgram(value),
    "logit_bias": _biases,
    "stop": _strings,
    "n": _count(1, "it is the number of texts"),
    "best_of": _count(1, "it is the number of texts to choose from"),
    "seed": _seed,
    "logprobs": _REPORTED,
    "prompt_logprobs": _REPORTED,
    "truncate": _switch,
    "rolling": _switch,
    "constraint": _constraint,
    "beams": _beams,
}
