"""What every request passes: a name for it, its line in the log, the key, and an answer even where code fails."""

import ipaddress
import logging
import random
import re
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xlab.serving.calls import Call
from xlab.serving.errors import RequestError
from xlab.serving.keys import Keys
from xlab.serving.metrics import Metrics
from xlab.serving.streaming import ClientGoneError

logger = logging.getLogger("xlab.serving")

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
CLIENT_GONE = 499  # nginx's word for it
OPEN_PATHS = {"/", "/favicon.ico", "/health", "/health/live", "/health/ready", "/health_check/"}
OPEN_FOLDER = "/playground/"


class Reception:
    """Names each request, logs and counts it, and answers for code that failed.

    The name is X-Request-ID's where that is a plain word, so that a proxy's log and this one can be read side by side.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        method = scope["method"]
        if method == "HEAD":  # what answers GET answers HEAD; the connection leaves the body out
            scope = {**scope, "method": "GET"}
        scope["request_id"] = identity = _identity(scope)
        told: dict[str, Any] = {}
        scope["log"] = told
        status: int | None = None

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", identity.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_named)
        except (ClientGoneError, ClientDisconnect):
            status = CLIENT_GONE
        except Exception:
            logger.exception("a request failed", extra={"fields": {"id": identity}})
            if status is None:
                failed = RequestError(
                    "the server failed on this request; its log says why", status=500, code="internal"
                )
                await response_to(failed)(scope, receive, send_named)
            status = 500
        finally:
            self._note(scope, method, status or CLIENT_GONE, time.perf_counter() - started, told)

    def _note(self, scope: Scope, method: str, status: int, seconds: float, told: dict[str, Any]) -> None:
        route = getattr(scope.get("route"), "path", "other")
        known = method if method in {"GET", "POST", "HEAD", "OPTIONS"} else "other"
        self.metrics.requests.labels(route, known, status).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        client = scope.get("client")
        fields = {
            "id": scope["request_id"],
            "client": client[0] if client else None,
            "method": method,
            "path": scope["path"][:200],
            "status": status,
            "seconds": round(seconds, 4),
            **told,
            **_facts(scope.get("call"), with_texts="prompts" in told),
        }
        logger.info("request", extra={"fields": fields})


class Guard:
    """Lets requests through that bring a key, or that need none.

    A service without keys that is for this machine alone answers to this machine's names alone: another site's page,
    whose name was made to point here, could otherwise read what is written (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, keys: Keys, *, is_local: bool = False) -> None:
        self.app, self.keys, self.is_local = app, keys, is_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.is_local and not is_this_machine(host := _host(scope)):
            message = (
                f"the Host is {host[:60]!r}, and without a key this server is for its own machine alone; set a key"
            )
            await response_to(RequestError(message, status=403, code="foreign_host"))(scope, receive, send)
            return
        if scope["type"] == "http" and not _is_open(scope):
            try:
                self.keys.check([value for name, value in scope["headers"] if name == b"authorization"])
            except RequestError as error:
                answer = response_to(error)
                if scope["path"] in {"/docs", "/openapi.json"}:  # pages that a browser opens: it asks for the key
                    answer.headers["WWW-Authenticate"] = 'Basic realm="the API key is the password"'
                await answer(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _facts(call: Call | None, *, with_texts: bool) -> dict[str, Any]:
    """What the log tells of the texts that a request asked for."""
    if call is None:
        return {}
    results = [call.answers[index] for index in sorted(call.answers)]
    completions = [completion for result in results for completion in result.completions]
    facts: dict[str, Any] = {
        "prompt_tokens": sum(result.prompt_tokens for result in results),
        "completion_tokens": sum(len(completion.tokens) for completion in completions),
    }
    if results:
        facts["queued_seconds"] = round(max(result.timings.started for result in results), 4)
        facts["first_token_seconds"] = round(max(result.timings.first_token for result in results), 4)
    return facts | ({"texts": [completion.text for completion in completions]} if with_texts else {})


def _host(scope: Scope) -> str:
    """The name that a request asks for, without the port."""
    name: str = next((value for key, value in scope["headers"] if key == b"host"), b"").decode("latin-1")
    return name.rpartition(":")[0] if name.rpartition(":")[2].isdigit() else name


def is_this_machine(name: str) -> bool:
    """Whether a URL's host means the machine it is used on, whatever name servers say."""
    if name.lower() in {"", "localhost"}:  # none at all: no browser asks so
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def _is_open(scope: Scope) -> bool:
    path = scope["path"]
    return scope["method"] in {"GET", "HEAD"} and (path in OPEN_PATHS or path.startswith(OPEN_FOLDER))


def _identity(scope: Scope) -> str:
    given: list[bytes] = [value for name, value in scope["headers"] if name == b"x-request-id"]
    if len(given) == 1 and REQUEST_ID.fullmatch(name := given[0].decode("latin-1")):
        return name
    return f"{random.getrandbits(128):032x}"  # a name, not a secret: asking the system costs more than a token


def response_to(error: RequestError) -> JSONResponse:
    """The answer that tells a refusal."""
    return JSONResponse(error.as_json(), status_code=error.status, headers=error.headers())


def refusal_for(status: int, path: str, method: str) -> RequestError:
    """What the router's own errors become."""
    messages: dict[int, Callable[[], str]] = {
        404: lambda: f"there is nothing at {path[:200]!r}; /docs tells what there is",
        405: lambda: f"{path[:200]!r} does not take {method[:20]}; /docs tells what it takes",
    }
    message = messages.get(status, lambda: HTTPStatus(status).phrase)()
    return RequestError(message, status=status, code=HTTPStatus(status).phrase.lower().replace(" ", "_"))
