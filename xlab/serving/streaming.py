"""Answers that wait or stream, and end at once when the client goes away."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from xlab.serving.calls import Call
from xlab.serving.errors import RequestError

Value = TypeVar("Value")
DONE = b"data: [DONE]\n\n"
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


async def unless_gone(work: Coroutine[Any, Any, Value], receive: Receive, call: Call) -> Value:
    """Wait for ``work``; if the client goes away before, cancel its call.

    Raises:
        ClientGoneError: then.
        RequestError: what the work raises.
    """
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        if not working.done():
            call.cancel()
        await _end(working, watching)


class EventStream(Response):
    """Server-sent events, each sent as it comes; the call ends when the client goes away.

    Args:
        events: encoded; a RequestError that it raises becomes the last of them.
        call: what is cancelled when the stream ends early.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], call: Call) -> None:
        super().__init__()
        self.events, self.call = events, call
        # nginx would gather the events, and a cache keep them
        self.headers.update({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watching = asyncio.ensure_future(_gone(receive))
        sending = asyncio.ensure_future(self._send(send, watching))
        try:
            await asyncio.wait({sending, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                raise ClientGoneError
            sending.result()
        finally:
            self.call.cancel()  # nothing to cancel, where all was sent
            await _end(sending, watching)

    async def _send(self, send: Send, gone: "asyncio.Future[None]") -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for event in self.events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        except RequestError as error:
            await send({"type": "http.response.body", "body": event_of(error.as_json()), "more_body": True})
        await asyncio.sleep(0)  # events that lay ready went by at once; who left meanwhile is noticed now
        if gone.done():
            raise ClientGoneError
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def event_of(value: dict[str, Any]) -> bytes:
    """One server-sent event, in ASCII: some clients take U+2028 for the end of a line."""
    return b"data: " + _encode(value).encode() + b"\n\n"


async def _gone(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def _end(*tasks: "asyncio.Future[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
