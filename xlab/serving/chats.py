"""POST /v1/chat/completions: the next message of a chat."""

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from xlab.inference import Result
from xlab.serving.asking import Prompt, beside_the_loop, requests_of
from xlab.serving.calls import Call, News
from xlab.serving.completions import reason_of, usage
from xlab.serving.errors import RequestError
from xlab.serving.schemas import ChatBody
from xlab.serving.scores import chat_scores, finite
from xlab.serving.service import Service
from xlab.serving.streaming import DONE, EventStream, event_of, unless_gone


async def chat(service: Service, body: ChatBody, http: HttpRequest) -> Response:
    """Answer, or begin a stream.

    Raises:
        RequestError: for what cannot be done.
        ClientGoneError: when nobody waits for the answer any more.
    """
    service.model.check_name(body.model)
    if body.stream_options is not None and not body.stream:
        raise RequestError("stream_options belongs to a stream; set stream too", param="stream_options")
    size = sum(len(message.text) for message in body.messages)
    shown = await beside_the_loop(lambda: service.template.prompt(body.messages), size)
    asked = body.max_completion_tokens if body.max_tokens is None else body.max_tokens
    requests = await requests_of(
        service.model,
        service.limits,
        [Prompt(shown.text, shown.ids, has_start=True)],
        body,
        max_tokens=service.limits.max_tokens if asked is None else asked,
        stops=[] if body.beam_width is not None else [*body.stops, *shown.stops],
        ends=shown.ends,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )
    call = service.submit(http, requests, [shown.text], streams=bool(body.stream))
    head = {"id": f"chatcmpl-{http.scope['request_id']}", "created": int(time.time()), "model": service.model.name}
    if body.stream:
        first = await unless_gone(call.next(), http.receive, call)
        head["object"] = "chat.completion.chunk"
        return EventStream(_events(service, body, call, head, first), call)
    results = await unless_gone(call.results(), http.receive, call)
    return JSONResponse(_answer(service, body, call, {**head, "object": "chat.completion"}, results[0]))


def _answer(service: Service, body: ChatBody, call: Call, head: dict[str, Any], result: Result) -> dict[str, Any]:
    choices = []
    for index, completion in enumerate(result.completions):
        choice: dict[str, Any] = {
            "index": index,
            "message": {"role": "assistant", "content": completion.text, "refusal": None},
            "logprobs": _scores(service, body, completion.logprobs or ()),
            "finish_reason": reason_of(completion.finish_reason),
        }
        if body.beam_width is not None:
            choice["score"] = None if completion.score is None else finite(completion.score)
        if body.return_token_ids:
            choice |= {"token_ids": list(completion.tokens), "prompt_token_ids": list(call.prompts[0].job.prompt)}
        choices.append(choice)
    n_tokens = sum(len(completion.tokens) for completion in result.completions)
    return {**head, "choices": choices, "usage": usage(call, n_tokens)}


def _scores(service: Service, body: ChatBody, tokens: Sequence[Any]) -> dict[str, Any] | None:
    return chat_scores(service.texts, tokens, n_top=body.top_logprobs or 0) if body.logprobs else None


async def _events(
    service: Service, body: ChatBody, call: Call, head: dict[str, Any], first: News
) -> AsyncIterator[bytes]:
    """The chunks of a stream: who speaks, what is said, and why it ended."""
    wants_usage = body.stream_options is not None and body.stream_options.include_usage
    end = {"usage": None} if wants_usage else {}
    begun: set[int] = set()
    n_tokens, news = 0, first
    while True:
        chunks = []
        for piece in news.pieces:
            delta = {"content": piece.text} if piece.text else {}
            choice: dict[str, Any] = {"index": piece.index, "delta": delta, "logprobs": None}
            if piece.index not in begun:
                choice["delta"] = {"role": "assistant", "content": piece.text}
                if body.return_token_ids:
                    choice["prompt_token_ids"] = list(call.prompts[0].job.prompt)
            if piece.logprob is not None:
                choice["logprobs"] = _scores(service, body, [piece.logprob])
            if body.return_token_ids:
                choice["token_ids"] = [] if piece.token is None else [piece.token]
            choice["finish_reason"] = reason_of(piece.finish_reason)
            n_tokens += piece.token is not None
            if choice["delta"] or choice["finish_reason"] or choice["logprobs"] or choice.get("token_ids"):
                begun.add(piece.index)
                chunks.append(event_of({**head, "choices": [choice], **end}))
        if chunks:
            yield b"".join(chunks)
        if news.is_last:
            break
        news = await call.next()
    if wants_usage:
        yield event_of({**head, "choices": [], "usage": usage(call, n_tokens)})
    yield DONE
