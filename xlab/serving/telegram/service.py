"""The HTTP service as the bot sees it: a prompt goes out, pieces of text come back."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from xlab.errors import XLabError
from xlab.serving.telegram.events import EventStream
from xlab.serving.telegram.settings import WritingSettings

CONNECT = 10.0  # seconds to reach the service
WHOLE = 900.0  # seconds for a text, whatever trickles in
MOST_REQUESTS = 64  # for one text: more than the smallest context needs
ANSWER_LIMIT = 1 << 20  # bytes of an answer that is not a stream
EXPLANATION_LIMIT = 300  # characters of the service's own words that a user is shown

DOWN = "The model's service does not answer right now. Please try again in a minute."
BROKE_OFF = "The model's service broke off in the middle of the text."
STRANGE = "The model's service gave an answer that I do not understand. Please tell whoever runs this bot."
NO_ENTRY = "I am not let in to the model's service. Please tell whoever runs this bot."


class ServiceError(XLabError):
    """No text, or no more of it. The message is for the user; ``cause`` is for the log, and holds no user's text."""

    def __init__(self, message: str, *, cause: str) -> None:
        super().__init__(message)
        self.cause = cause


class Service:
    """A client of the service's OpenAI-shaped routes.

    Args:
        base: the service's address, such as ``http://127.0.0.1:8000``.
        key: sent as a bearer token, if the service asks for one.
        patience: seconds without a sign of life after which it counts as down.
    """

    def __init__(self, base: str, *, key: str | None, patience: float = 60.0) -> None:
        self._base = base.rstrip("/")
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._timeout = aiohttp.ClientTimeout(total=WHOLE, connect=CONNECT, sock_read=patience)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def stream(self, prompt: str, settings: WritingSettings) -> AsyncGenerator[str, None]:
        """Give pieces of the text after ``prompt`` as they are written.

        Where the context ends before the length is reached, the text goes on after its own end.

        Raises:
            ServiceError: if there is no text, or it breaks off.
        """
        card = await self._model_card()
        body = {
            "model": card["name"],
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "truncate_prompt": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if settings.top_k is not None:
            body["top_k"] = settings.top_k
        left = settings.length
        for _ in range(MOST_REQUESTS):
            end = _End()
            body |= {"prompt": prompt, "max_tokens": min(left, card["max_tokens"])}
            async with aclosing(self._pieces(body, end)) as pieces:
                async for piece in pieces:
                    prompt += piece
                    yield piece
            left -= end.n_tokens
            if end.reason != "length" or not end.n_tokens or left < 1:
                return

    async def _pieces(self, body: dict[str, Any], end: "_End") -> AsyncGenerator[str, None]:
        """Give the pieces of one request, and note how it ended."""
        async with self._asked("POST", "/v1/completions", interrupted=BROKE_OFF, json=body) as response:
            events = EventStream()
            async for chunk in response.content.iter_any():
                for data in events.add(chunk):
                    if data == "[DONE]":
                        return
                    if piece := end.read(json.loads(data)):
                        yield piece
        raise ServiceError(BROKE_OFF, cause="the stream ended without [DONE]")

    async def _model_card(self) -> dict[str, Any]:
        """The model's name and the most tokens of a text; asked each time, for the service may have changed models."""
        async with self._asked("GET", "/model_card") as response:
            card = await _json(response)
            limit = card["limits"]["max_tokens"]
            if not isinstance(card["name"], str) or type(limit) is not int or limit < 1:
                raise TypeError("no model card")
            return {"name": card["name"], "max_tokens": limit}

    @asynccontextmanager
    async def _asked(
        self, method: str, path: str, *, interrupted: str = DOWN, **how: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; give a good answer, and put into words what is wrong with any other."""
        if self._session is None:
            self._session = aiohttp.ClientSession(headers=self._headers, timeout=self._timeout)
        what, lost = f"{method} {self._base}{path}", DOWN
        try:
            async with self._session.request(method, self._base + path, allow_redirects=False, **how) as response:
                if response.status != 200:
                    raise await _refusal(response, what)
                lost = interrupted
                yield response
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            # the system's words name an address; aiohttp's may quote the answer, which is someone's text
            said = f": {error}" if isinstance(error, OSError) else ""
            raise ServiceError(lost, cause=f"{what}: {type(error).__name__}{said}") from None
        # what is wrong with the answer's form may quote a user's text: only its kind goes on
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ServiceError(STRANGE, cause=f"{what}: not understood ({type(error).__name__})") from None


@dataclass
class _End:
    """How the stream of one request ended: why, and after how many tokens."""

    reason: str | None = None
    n_tokens: int = 0

    def read(self, chunk: dict[str, Any]) -> str:
        """Take in one chunk of the stream, and give the text in it; the last ones may hold none."""
        if "error" in chunk:
            raise ServiceError(BROKE_OFF, cause=f"an error in the stream, type {_word(chunk['error'], 'type')}")
        for choice in chunk["choices"]:
            self.reason = choice.get("finish_reason") or self.reason
        self.n_tokens = int((chunk.get("usage") or {}).get("completion_tokens", self.n_tokens))
        text = "".join(choice["text"] for choice in chunk["choices"])
        # JSON may hold half a surrogate pair, which can neither be sent nor stored
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


async def _refusal(response: aiohttp.ClientResponse, what: str) -> ServiceError:
    cause = f"{what}: status {response.status}"
    if response.status in (401, 403):
        return ServiceError(NO_ENTRY, cause=f"{cause}; is XLAB_API_KEY or --api-key-file the service's key?")
    if response.status in (429, 503):
        seconds = response.headers.get("Retry-After", "")
        # an HTTP date is allowed too, but the service gives seconds
        when = f"in {int(seconds)} s" if re.fullmatch("[0-9]{1,5}", seconds) else "in a moment"
        return ServiceError(f"The model is busy. Please try again {when}.", cause=cause)
    if response.status >= 500:
        return ServiceError(DOWN, cause=cause)
    try:
        error = (await _json(response))["error"]
        explanation = " ".join(str(error["message"]).split())[:EXPLANATION_LIMIT]
    except (ValueError, KeyError, TypeError):
        return ServiceError(STRANGE, cause=cause)
    return ServiceError(f"The model's service refuses: {explanation}", cause=f"{cause}, code {_word(error, 'code')}")


async def _json(response: aiohttp.ClientResponse) -> dict[str, Any]:
    body = b""
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > ANSWER_LIMIT:
            raise ValueError("the answer is too long")
    answer = json.loads(body)
    if not isinstance(answer, dict):
        raise TypeError("the answer is no object")
    return answer


def _word(error: Any, name: str) -> str:
    """One of the service's own words, if it is one: nothing that could be a user's text."""
    word = error.get(name) if isinstance(error, dict) else None
    return word if isinstance(word, str) and word.isidentifier() and len(word) < 64 else "none"
