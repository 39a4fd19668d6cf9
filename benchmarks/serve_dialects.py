"""What clients of ``serve_load`` send and what they read: XLab's completions, and litgpt's ``/predict``."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.serve_clients import Reply, post


class AnswerError(RuntimeError):
    """An answer that is no text: an error of the server's, or one that was cut short."""


@dataclass(frozen=True)
class Written:
    """A text that came back.

    Attributes:
        text: joined.
        ids: its tokens, where the server tells them.
        times: when each token came.
    """

    text: str
    ids: tuple[int, ...] | None
    times: tuple[float, ...]


class Dialect(Protocol):
    """How to ask a server for a text, and to read it."""

    def request(self, prompt: Mapping[str, Any], *, new_tokens: int, streams: bool = True) -> bytes:
        """The request for a text of so many tokens, greedy; ``prompt`` has ``ids`` and ``text``."""

    def read(self, reply: Reply) -> Written:
        """The text of an answer.

        Raises:
            AnswerError: when it has none.
        """


class Completions:
    """XLab's ``/v1/completions``, by token ids."""

    def request(self, prompt: Mapping[str, Any], *, new_tokens: int, streams: bool = True) -> bytes:
        # min_tokens forbids EOS; the ids tell how many tokens an event brings
        asked = {"prompt": prompt["ids"], "max_tokens": new_tokens, "min_tokens": new_tokens, "temperature": 0}
        return post("/v1/completions", json.dumps({**asked, "stream": streams, "return_token_ids": True}).encode())

    def read(self, reply: Reply) -> Written:
        _check(reply)
        if not reply.headers.get("content-type", "").startswith("text/event-stream"):
            choice = json.loads(reply.body)["choices"][0]
            ids = choice["token_ids"]
            return Written(choice["text"], tuple(ids), (reply.parts[-1][0],) * len(ids))
        pieces, ids, times, last = [], [], [], ""
        for time, event in _events(reply.parts):
            last = event
            if event == "[DONE]":
                continue
            value = json.loads(event)
            if "error" in value:
                raise AnswerError(value["error"]["message"])
            choice = value["choices"][0]
            pieces.append(choice["text"])
            ids += choice["token_ids"]
            times += [time] * len(choice["token_ids"])
        if last != "[DONE]":
            raise AnswerError("the stream ended without [DONE]")
        return Written("".join(pieces), tuple(ids), tuple(times))


class Predict:
    """litgpt's ``/predict``: a JSON object a line, one for each token."""

    def request(self, prompt: Mapping[str, Any], *, new_tokens: int, streams: bool = True) -> bytes:
        if not streams:
            raise ValueError("litgpt serve was started to stream")
        return post("/predict", json.dumps({"prompt": prompt["text"]}).encode())  # how many is said at the start

    def read(self, reply: Reply) -> Written:
        _check(reply)
        lines = [(time, line) for time, part in reply.parts for line in part.splitlines() if line]
        return Written("".join(json.loads(line)["output"] for _, line in lines), None, tuple(time for time, _ in lines))


DIALECTS: dict[str, Dialect] = {"xlab": Completions(), "litgpt": Predict()}


def _check(reply: Reply) -> None:
    if reply.fault is not None:
        raise AnswerError(reply.fault)
    if reply.status != 200:
        raise AnswerError(f"status {reply.status}: {reply.body.decode(errors='replace')[:200]}")


def _events(parts: Sequence[tuple[float, bytes]]) -> list[tuple[float, str]]:
    """Server-sent events, each with the time of the part that it ended in."""
    events, held = [], b""
    for time, part in parts:
        *whole, held = (held + part).split(b"\n\n")
        events += [(time, event.decode().removeprefix("data: ")) for event in whole]
    if held:
        raise AnswerError("the stream ended within an event")
    return events
