"""POST /v1/completions: texts that go on from prompts."""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from xlab.inference import Completion, Handle, Result, TokenLogprob
from xlab.inference.requests import Piece
from xlab.inference.sampling import Sampler
from xlab.serving.asking import Prompt, prompts_of, requests_of
from xlab.serving.calls import Call, News
from xlab.serving.errors import RequestError
from xlab.serving.schemas import CompletionBody
from xlab.serving.scores import CompletionScores, finite
from xlab.serving.service import Service
from xlab.serving.streaming import DONE, EventStream, event_of, unless_gone

REASONS = {"eos": "stop"}  # the engine's words for an end, where OpenAI has others


@dataclass(frozen=True)
class Asked:
    """One call of the API, on its way from the body to the answer."""

    service: Service
    body: CompletionBody
    prompts: Sequence[Prompt]
    call: Call
    identity: str

    @property
    def n(self) -> int:
        return self.body.n or 1

    @property
    def writes(self) -> bool:
        """Whether text is wanted beside the prompt's scores."""
        return self.body.max_tokens != 0

    @property
    def scores(self) -> bool:
        return self.body.logprobs is not None

    @cached_property
    def head(self) -> dict[str, Any]:
        """What the answer, and every chunk of it, begins with."""
        return {
            "id": f"cmpl-{self.identity}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self.service.model.name,
        }


async def complete(service: Service, body: CompletionBody, http: HttpRequest) -> Response:
    """Answer, or begin a stream.

    Raises:
        RequestError: for what cannot be done.
        ClientGoneError: when nobody waits for the answer any more.
    """
    service.model.check_name(body.model)
    _check(body)
    prompts = await prompts_of(service.model, body.prompt)
    requests = await requests_of(
        service.model,
        service.limits,
        prompts,
        body,
        max_tokens=min(16, service.limits.max_tokens) if body.max_tokens is None else body.max_tokens,
        stops=body.stops,
        logprobs=body.logprobs,
        prompt_logprobs=body.logprobs if body.echo else None,
        best_of=body.best_of,
    )
    call = service.submit(http, requests, [prompt.text for prompt in prompts], streams=bool(body.stream))
    asked = Asked(service, body, prompts, call, http.scope["request_id"])
    if body.stream:
        first = await unless_gone(call.next(), http.receive, call)
        return EventStream(_events(asked, first), call)
    results = await unless_gone(call.results(), http.receive, call)
    return JSONResponse(_answer(asked, results))


def _check(body: CompletionBody) -> None:
    if body.max_tokens == 0 and not body.echo:
        raise RequestError(
            "max_tokens is 0, so there would be nothing to answer; set echo, or ask for tokens", param="echo"
        )
    if body.stream_options is not None and not body.stream:
        raise RequestError("stream_options belongs to a stream; set stream too", param="stream_options")
    if body.stream and (body.best_of or 1) > (body.n or 1):
        raise RequestError("best_of knows its texts only at their end; leave it or stream out", param="best_of")


def _answer(asked: Asked, results: Sequence[Result]) -> dict[str, Any]:
    choices = []
    for number, (prompt, result) in enumerate(zip(asked.prompts, results, strict=True)):
        handle = asked.call.prompts[number]
        for index, completion in enumerate(result.completions):
            choices.append({"index": number * asked.n + index, **_choice(asked, prompt, handle, completion, index)})
    tokens = sum(len(completion.tokens) for result in results for completion in result.completions)
    return {**asked.head, "choices": choices, "usage": usage(asked.call, tokens if asked.writes else 0)}


def _choice(asked: Asked, prompt: Prompt, handle: Handle, completion: Completion, index: int) -> dict[str, Any]:
    body = asked.body
    text, tokens = (completion.text, completion.tokens) if asked.writes else ("", ())
    choice: dict[str, Any] = {"text": text, "logprobs": None, "finish_reason": reason_of(completion.finish_reason)}
    if not asked.writes:
        choice["finish_reason"] = "length"
    if asked.scores:
        scored: list[TokenLogprob | int] = list(completion.logprobs or ()) if asked.writes else []
        if body.echo:
            # a text that ended has a score for its end as well; lm-eval counts on one for each token drawn
            scored = [*prompt_scores(prompt, handle), *scored, *(_end(handle, index) if asked.writes else ())]
        choice["logprobs"] = _lists(asked).of(scored)
    if body.echo:
        choice["text"] = _seen(asked, prompt, handle) + text
    if body.beam_width is not None or (body.best_of or 1) > asked.n:
        choice["score"] = None if completion.score is None else finite(completion.score)
    if body.return_token_ids:
        choice |= {"token_ids": list(tokens), "prompt_token_ids": list(handle.job.prompt)}
    return choice


async def _events(asked: Asked, first: News) -> AsyncIterator[bytes]:
    """The chunks of a stream, those of one step together: the texts of all prompts, as they come."""
    lists: dict[tuple[int, int], CompletionScores] = {}
    n_tokens, n_open, news = 0, len(asked.prompts), first
    while True:
        chunks = []
        for piece in news.pieces:
            place = (news.index, piece.index)
            begun = {} if place in lists else _begin(asked, news.index, lists.setdefault(place, _lists(asked)))
            choice = _chunk(asked, asked.call.prompts[news.index], piece, lists[place], begun)
            n_tokens += piece.token is not None and asked.writes
            if choice["text"] or choice["finish_reason"] or choice["logprobs"] or choice.get("token_ids"):
                chunks.append(_event(asked, [{"index": news.index * asked.n + piece.index, **choice}]))
        if chunks:
            yield b"".join(chunks)
        n_open -= news.is_last
        if not n_open:
            break
        news = await asked.call.next()
    if asked.body.stream_options is not None and asked.body.stream_options.include_usage:
        yield event_of({**asked.head, "choices": [], "usage": usage(asked.call, n_tokens)})
    yield DONE


def _begin(asked: Asked, number: int, lists: CompletionScores) -> dict[str, Any]:
    """What belongs to the prompt, and stands in a text's first chunk."""
    prompt, handle = asked.prompts[number], asked.call.prompts[number]
    begun: dict[str, Any] = {"prompt_token_ids": list(handle.job.prompt)} if asked.body.return_token_ids else {}
    if asked.body.echo:
        begun["text"] = _seen(asked, prompt, handle)
        if asked.scores:
            begun["logprobs"] = lists.of(prompt_scores(prompt, handle))
    return begun


def _chunk(
    asked: Asked, handle: Handle, piece: Piece, lists: CompletionScores, begun: dict[str, Any]
) -> dict[str, Any]:
    """What a piece brings to its choice, after what it began with."""
    choice: dict[str, Any] = {"text": "", "logprobs": None, **begun, "finish_reason": "length"}
    if asked.writes:
        choice["text"] += piece.text
        choice["finish_reason"] = reason_of(piece.finish_reason)
        scored: list[TokenLogprob | int] = [] if piece.logprob is None else [piece.logprob]
        if asked.body.echo and piece.finish_reason == "eos":
            scored += _end(handle, piece.index)
        if asked.scores and scored:
            new = lists.of(scored)
            choice["logprobs"] = {name: begun.get("logprobs", {}).get(name, []) + new[name] for name in new}
    if asked.body.return_token_ids:
        choice["token_ids"] = [piece.token] if piece.token is not None and asked.writes else []
    return choice


def _event(asked: Asked, choices: list[dict[str, Any]]) -> bytes:
    options = asked.body.stream_options
    end = {"usage": None} if options is not None and options.include_usage else {}
    return event_of({**asked.head, "choices": choices, **end})


def _lists(asked: Asked) -> CompletionScores:
    return CompletionScores(
        asked.service.texts, n_top=asked.body.logprobs or 0, with_ids=bool(asked.body.return_token_ids)
    )


def _seen(asked: Asked, prompt: Prompt, handle: Handle) -> str:
    """The prompt as the model saw it: its end alone, where it was truncated."""
    ids = handle.job.prompt
    return prompt.text if len(ids) == len(prompt.ids) else asked.service.model.tokenizer.decode(ids)


def prompt_scores(prompt: Prompt, handle: Handle) -> list[TokenLogprob | int]:
    """The scores of a prompt's tokens; the first has none, unless it stands after a start token of our own."""
    scores = handle.prompt_logprobs or []
    if prompt.has_start and len(handle.job.prompt) == len(prompt.ids):
        return list(scores)
    return [handle.job.prompt[0], *scores]


def _end(handle: Handle, index: int) -> list[TokenLogprob]:
    """The score of the end token that a drawn text ended by."""
    strategy = handle.job.strategy
    if not isinstance(strategy, Sampler) or handle.request.n_texts > handle.request.n:
        return []
    end = strategy.texts[index].end
    return [] if end is None or end.logprob is None else [TokenLogprob(end.token, end.logprob, end.top)]


def usage(call: Call, n_tokens: int) -> dict[str, int]:
    """How many tokens were read and written."""
    n_prompt = sum(len(handle.job.prompt) for handle in call.prompts.values())
    return {"prompt_tokens": n_prompt, "completion_tokens": n_tokens, "total_tokens": n_prompt + n_tokens}


def reason_of(finish_reason: str | None) -> str | None:
    """Why a text ended, in OpenAI's words."""
    return None if finish_reason is None else REASONS.get(finish_reason, finish_reason)
