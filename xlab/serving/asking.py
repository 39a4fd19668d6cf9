"""Put what a client asks into the engine's words, and refuse what this server cannot or will not do."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from xlab.errors import GenerationError
from xlab.inference import BeamSettings, Request
from xlab.inference.constraints import JsonSchemaConstraint
from xlab.inference.shaping import Constraint
from xlab.serving.errors import RequestError
from xlab.serving.limits import Limits
from xlab.serving.model import Served
from xlab.serving.schemas import ResponseFormat, Sampling

LONG_TEXT = 4096  # characters; longer ones are tokenized beside the event loop
Value = TypeVar("Value")

# what a beam search has no use for, and the values that ask for nothing
DRAWS: dict[str, tuple[Any, ...]] = {
    "temperature": (None, 1),
    "top_p": (None, 1),
    "top_k": (None,),
    "min_p": (None, 0),
    "typical_p": (None, 1),
    "repetition_penalty": (None, 1),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "no_repeat_ngram": (None,),
    "logit_bias": (None, {}),
    "seed": (None,),
    "stop": (None, []),
    "min_tokens": (None, 0),
    "best_of": (None,),
    "logprobs": (None, False),
    "stream": (None, False),
}


@dataclass(frozen=True)
class Prompt:
    """What a text goes on from.

    Attributes:
        text: as the client gave it, for ``echo``.
        ids: as the model sees it.
        has_start: whether a start token was put before it.
    """

    text: str
    ids: list[int]
    has_start: bool


async def prompts_of(model: Served, prompt: str | list[str] | list[int] | list[list[int]]) -> list[Prompt]:
    """Tokenize texts, each from its start; take token ids as they are.

    Raises:
        RequestError: for an id that is not in the vocabulary.
    """
    if isinstance(prompt, str):
        return await _encoded(model, [prompt])
    if isinstance(prompt[0], str):
        return await _encoded(model, [str(text) for text in prompt])
    lists = [prompt] if isinstance(prompt[0], int) else prompt
    given: list[list[int]] = [list(ids) for ids in lists]
    size = len(model.tokenizer)
    for ids in given:
        if max(ids) >= size:
            raise RequestError(
                f"the prompt contains token id {max(ids)}, outside the vocabulary of {size}; tokenize it with this "
                "model's tokenizer",
                param="prompt",
            )
    return [Prompt(model.tokenizer.decode(ids), ids, has_start=False) for ids in given]


async def beside_the_loop(work: Callable[[], Value], size: int) -> Value:
    """Do what takes long for long texts in another thread; ``size`` is their characters."""
    return await asyncio.to_thread(work) if size > LONG_TEXT else work()


async def _encoded(model: Served, texts: list[str]) -> list[Prompt]:
    encoded = await beside_the_loop(lambda: model.tokenizer.encode_batch(texts), sum(map(len, texts)))
    start = model.tokenizer.sos_id
    return [Prompt(text, [start, *ids], has_start=True) for text, ids in zip(texts, encoded, strict=True)]


async def requests_of(
    model: Served,
    limits: Limits,
    prompts: Sequence[Prompt],
    body: Sampling,
    *,
    max_tokens: int,
    stops: Sequence[str],
    ends: Sequence[int] = (),
    logprobs: int | None = None,
    prompt_logprobs: int | None = None,
    best_of: int | None = None,
) -> list[Request]:
    """Make the engine's requests, one for each prompt.

    Raises:
        RequestError: naming the field.
    """
    n = body.n or 1
    _check_sizes(model, limits, prompts, body, max_tokens=max_tokens, n_texts=best_of or n)
    how: dict[str, Any] = {
        "max_new_tokens": max(max_tokens, 1),
        "n": n,
        "eos_ids": list(dict.fromkeys([model.tokenizer.eos_id, *ends])),
        "banned_ids": model.banned_ids,
        "logprobs": logprobs,
        "prompt_logprobs": prompt_logprobs,
        "truncate": bool(body.truncate_prompt),
    }
    if body.beam_width is not None:
        _check_beams(body, body.beam_width, n)
        how["beams"] = BeamSettings(width=body.beam_width, length_penalty=body.length_penalty or 0.0)
    else:
        if body.length_penalty is not None:
            raise RequestError("length_penalty belongs to a beam search; give beam_width too", param="length_penalty")
        how |= {"best_of": best_of, "stop": stops, "seed": body.seed, "min_new_tokens": body.min_tokens or 0}
        how["temperature"] = 1.0 if body.temperature is None else body.temperature
        how["logit_bias"] = {int(token): bias for token, bias in (body.logit_bias or {}).items()}
        how["constraint"] = await constraint_of(model, body.response_format)
        for name in ("top_k", "top_p", "min_p", "typical_p", "no_repeat_ngram"):
            how[name] = getattr(body, name)
        for name in ("repetition_penalty", "presence_penalty", "frequency_penalty"):
            if getattr(body, name) is not None:
                how[name] = getattr(body, name)
        if how["temperature"] == 0 and (best_of or n) > 1:
            raise RequestError(
                f"at temperature 0 all {best_of or n} texts would be the same; draw, or ask for one", param="n"
            )
    requests = [Request(prompt.ids, **how) for prompt in prompts]
    try:
        for request in requests:
            request.check(model.vocab_size)
    except GenerationError as error:
        raise RequestError(str(error)) from error
    return requests


def _check_sizes(
    model: Served, limits: Limits, prompts: Sequence[Prompt], body: Sampling, *, max_tokens: int, n_texts: int
) -> None:
    if max_tokens > limits.max_tokens:
        raise RequestError(
            f"max_tokens is {max_tokens}, more than this server's {limits.max_tokens}; ask for fewer",
            param="max_tokens",
        )
    if (body.min_tokens or 0) > max_tokens:
        raise RequestError(f"min_tokens is {body.min_tokens}, more than max_tokens, {max_tokens}", param="min_tokens")
    for name, value in (("n", n_texts), ("beam_width", body.beam_width or 0)):
        if value > limits.texts:
            raise RequestError(f"{name} is {value}, more than this server's {limits.texts}; ask for fewer", param=name)
    if n_texts < (body.n or 1):
        raise RequestError(f"best_of is {n_texts}, less than n, {body.n}", param="best_of")
    longest = max(len(prompt.ids) for prompt in prompts)
    if longest > model.max_len and not body.truncate_prompt:
        raise RequestError(
            f"the prompt has {longest} tokens, the context {model.max_len}; shorten it, or set truncate_prompt to keep "
            "its end",
            param="prompt",
            code="context_length_exceeded",
        )


def _check_beams(body: Sampling, width: int, n: int) -> None:
    if n > width:
        raise RequestError(f"n is {n}, more than there are beams, {width}", param="n")
    if body.response_format is not None and body.response_format.type != "text":
        raise RequestError("response_format has no meaning in a beam search; leave one out", param="response_format")
    for name, nothing in DRAWS.items():
        value = getattr(body, name, None)
        if value not in nothing:
            raise RequestError(f"{name} has no meaning in a beam search; leave it or beam_width out", param=name)


async def constraint_of(model: Served, form: ResponseFormat | None) -> Constraint | None:
    """Make the grammar that the text must follow, beside the event loop.

    Raises:
        RequestError: if it cannot be followed, or this server lacks llguidance.
    """
    if form is None or form.type == "text":
        return None
    schema = {"type": "object"} if form.json_schema is None else form.json_schema.schema_
    try:
        return await asyncio.to_thread(JsonSchemaConstraint, schema, model.tokenizer, vocab_size=model.vocab_size)
    except GenerationError as error:
        raise RequestError(str(error), param="response_format") from error
