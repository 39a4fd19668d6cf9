"""A Bot API and an HTTP service of our own making, the bot between them, and a clock that runs fast."""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiogram.client.session.aiohttp import AiohttpSession
from aiohttp import web

from xlab.serving.telegram.bot import BotSettings, run
from xlab.serving.telegram.clock import Clock

TOKEN = "123456789:AAsecretSecretSecretSecretSecretSecr"
KEY = "service-key-1"
USER = 1001
DEADLINE = 15.0  # seconds after which a test has failed, never a measure of speed
MESSAGE_LIMIT = 4096


class FastClock(Clock):
    """Time runs ``speed`` times as fast, so that a second's pause is over soon."""

    def __init__(self, speed: float = 40.0) -> None:
        self.speed = speed

    def now(self) -> float:
        return time.monotonic() * self.speed

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.speed)


def driven(scene: Coroutine[Any, Any, None]) -> None:
    """Run a scene to its end, or fail."""
    asyncio.run(asyncio.wait_for(scene, 2 * DEADLINE))


async def until(true: Callable[[], Any]) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < end, "what was waited for did not happen"
        await asyncio.sleep(0.004)


def units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


@asynccontextmanager
async def serving(application: web.Application) -> AsyncIterator[str]:
    """Serve on a free port of this machine; give the address."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@dataclass
class Refuse:
    """An answer of the Bot API's that is none of success."""

    status: int
    description: str = "told to fail"
    retry_after: int | None = None

    def response(self) -> web.Response:
        body: dict[str, Any] = {"ok": False, "error_code": self.status, "description": self.description}
        if self.retry_after is not None:
            body["parameters"] = {"retry_after": self.retry_after}
        return web.json_response(body, status=self.status)


@dataclass
class Hang:
    """No answer at all, whether or not the call took effect."""

    takes_effect: bool


@dataclass
class Raw:
    """Something that is not the Bot API's."""

    status: int
    body: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Shown:
    """A message of the bot's, as a user sees it."""

    number: int
    text: str
    reply_to: int | None
    buttons: dict[str, str]  # by label, what a press carries
    at: list[float] = field(default_factory=list)  # when it was sent and edited


class BotApi:
    """What Telegram does, as far as the bot may notice; strict about what Telegram is strict about."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, str]]] = []
        self.chats: dict[int, dict[int, Shown]] = {}
        self.alerts: list[tuple[str | None, bool]] = []
        self.webhook: dict[str, str] = {}
        self.faults: dict[str, deque[Refuse | Hang | Raw | None]] = {}
        self._pending: list[dict[str, Any]] = []
        self._arrived = asyncio.Event()
        self._numbers = iter(range(1, 10**9))

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_post("/bot{token}/{method}", self._answer)
        application.router.add_get("/bot{token}/{method}", self._answer)  # after a redirect
        return application

    def fail(self, method: str, *faults: Refuse | Hang | Raw | None) -> None:
        """Answer the next calls of a method so; None lets one succeed."""
        self.faults.setdefault(method, deque()).extend(faults)

    def count(self, method: str) -> int:
        return sum(name == method for name, _ in self.calls)

    def messages(self, chat: int = USER) -> list[Shown]:
        return list(self.chats.get(chat, {}).values())

    def texts(self, chat: int = USER) -> list[str]:
        return [message.text for message in self.messages(chat)]

    def number(self) -> int:
        return next(self._numbers)

    # what users do

    def write(self, text: str | None, user: int = USER, **other: Any) -> int:
        number = self.number()
        message = {
            "message_id": number,
            "date": 1,
            "chat": {"id": user, "type": "private"},
            "from": person(user),
            **({} if text is None else {"text": text}),
            **other,
        }
        if text is not None and text.startswith("/"):
            message["entities"] = [{"type": "bot_command", "offset": 0, "length": len(text.split()[0])}]
        self.push({"update_id": self.number(), "message": message})
        return number

    def press(self, data: str, user: int = USER, message: int = 1) -> None:
        self.push({"update_id": self.number(), "callback_query": pressed(data, user, message)})

    def push(self, update: Any) -> None:
        self._pending.append(update)
        self._arrived.set()

    # what Telegram does

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        method = request.match_info["method"]
        data = {name: str(value) for name, value in (await request.post()).items()}
        self.calls.append((method, data))
        if request.match_info["token"] != TOKEN:
            return Refuse(401, "Unauthorized").response()
        if faults := self.faults.get(method):
            fault = faults.popleft()
            if isinstance(fault, Refuse):
                return fault.response()
            if isinstance(fault, Raw):
                return web.Response(status=fault.status, text=fault.body, headers=fault.headers)
            if isinstance(fault, Hang):
                if fault.takes_effect:
                    await self._result(method, data)
                await asyncio.sleep(DEADLINE)
        result = await self._result(method, data)
        return result.response() if isinstance(result, Refuse) else web.json_response({"ok": True, "result": result})

    async def _result(self, method: str, data: dict[str, str]) -> Any:
        if method == "getMe":
            return {"id": 123456789, "is_bot": True, "first_name": "Lab", "username": "lab_bot"}
        if method == "getUpdates":
            return await self._updates(data)
        if method == "sendMessage":
            return self._send(data)
        if method == "editMessageText":
            return self._edit(data)
        if method == "answerCallbackQuery":
            assert len(data.get("text", "")) <= 200
            self.alerts.append((data.get("text"), data.get("show_alert") == "true"))
        elif method == "setWebhook":
            self.webhook = data
        return True

    async def _updates(self, data: dict[str, str]) -> list[Any]:
        offset = int(data.get("offset", 0))

        def number(update: Any) -> int:
            found = update.get("update_id") if isinstance(update, dict) else None
            return found if isinstance(found, int) else 0

        self._pending = [update for update in self._pending if number(update) >= offset]
        end = time.monotonic() + float(data.get("timeout", 0))
        while not self._pending and time.monotonic() < end:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), end - time.monotonic())
            except asyncio.TimeoutError:
                break
        return self._pending[: int(data.get("limit", 100))]

    def _send(self, data: dict[str, str]) -> Any:
        if refusal := wrong(data):
            return refusal
        chat, number = int(data["chat_id"]), self.number()
        reply = json.loads(data.get("reply_parameters", "{}")).get("message_id")
        shown = Shown(number, data["text"], reply, buttons(data), [time.monotonic()])
        self.chats.setdefault(chat, {})[number] = shown
        return self._as_json(chat, shown)

    def _edit(self, data: dict[str, str]) -> Any:
        if refusal := wrong(data):
            return refusal
        chat, number = int(data["chat_id"]), int(data["message_id"])
        shown = self.chats.get(chat, {}).get(number)
        if shown is None:
            return Refuse(400, "Bad Request: message to edit not found")
        if shown.text.strip() == data["text"].strip() and shown.buttons == buttons(data):
            return Refuse(400, "Bad Request: message is not modified: specified new message content …")
        shown.text, shown.buttons = data["text"], buttons(data)
        shown.at.append(time.monotonic())
        return self._as_json(chat, shown)

    def _as_json(self, chat: int, shown: Shown) -> dict[str, Any]:
        where = {"id": chat, "type": "private"}
        return {"message_id": shown.number, "date": 1, "chat": where, "text": shown.text}


def person(user: int) -> dict[str, Any]:
    return {"id": user, "is_bot": False, "first_name": "Ada"}


def pressed(data: str, user: int, message: int) -> dict[str, Any]:
    chat = {"id": user, "type": "private"}
    on = {"message_id": message, "date": 1, "chat": chat, "text": "…"}
    return {"id": str(time.monotonic_ns()), "from": person(user), "chat_instance": "1", "data": data, "message": on}


def wrong(data: dict[str, str]) -> Refuse | None:
    """What Telegram refuses in a message."""
    assert "parse_mode" not in data  # text is text: nothing in it is markup
    if not data.get("text", "").strip():
        return Refuse(400, "Bad Request: message text is empty")
    if units(data["text"].strip()) > MESSAGE_LIMIT:
        return Refuse(400, "Bad Request: message is too long")
    if any(len(carried.encode()) > 64 for carried in buttons(data).values()):
        return Refuse(400, "Bad Request: BUTTON_DATA_INVALID")
    return None


def buttons(data: dict[str, str]) -> dict[str, str]:
    rows = json.loads(data.get("reply_markup", "{}")).get("inline_keyboard", [])
    found: dict[str, str] = {}
    for row in rows:
        for button in row:  # the rows of /settings have the same signs: told apart by what they carry
            label = button["text"] if button["text"] not in ("➖", "➕") else button["text"] + button["callback_data"]
            found[label] = button["callback_data"]
    return found


@dataclass
class Answer:
    """What the service answers to one request.

    Attributes:
        pieces: of the text; an event among them is waited for.
        end: "done", "error" for an error in the stream, "cut" for a lost connection, "hang" for silence, "open"
            for an end without [DONE].
        reason, n_tokens: what a whole stream says of its end.
        status: another than 200 refuses with ``body`` and ``headers``.
    """

    pieces: Iterable[str | asyncio.Event] = (" and", " so", " on")
    end: str = "done"
    reason: str = "stop"
    n_tokens: int = 3
    status: int = 200
    body: str = '{"error": {"message": "no", "type": "x", "param": null, "code": null}}'
    headers: dict[str, str] = field(default_factory=dict)


class ServiceStub:
    """The HTTP service as its contract says, or as told."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.answers: deque[Answer] = deque()
        self.default = Answer()
        self.card: Any = {"name": "tiny", "limits": {"max_tokens": 100}}
        self.n_streaming = 0
        self.n_left = 0  # streams that the client left

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/model_card", self._card)
        application.router.add_post("/v1/completions", self._complete)
        return application

    async def _card(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.json_response({"error": {"message": "no key", "code": "invalid_api_key"}}, status=401)
        return web.json_response(self.card)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        assert request.headers.get("Authorization") == f"Bearer {KEY}"
        self.requests.append(await request.json())
        answer = self.answers.popleft() if self.answers else self.default
        if answer.status != 200:
            return web.Response(status=answer.status, text=answer.body, headers=answer.headers)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.n_streaming += 1
        try:
            await self._stream(request, response, answer)
        except (asyncio.CancelledError, ConnectionError):
            self.n_left += 1
            raise
        finally:
            self.n_streaming -= 1
        return response

    async def _stream(self, request: web.Request, response: web.StreamResponse, answer: Answer) -> None:
        for piece in answer.pieces:
            if isinstance(piece, asyncio.Event):
                while not piece.is_set():  # a client that left is noticed by writing to it only
                    await response.write(b": still here\n\n")
                    await asyncio.sleep(0.01)
            else:
                choice = {"index": 0, "text": piece, "logprobs": None, "finish_reason": None}
                await response.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
        if answer.end == "done":
            last = {"choices": [{"index": 0, "text": "", "logprobs": None, "finish_reason": answer.reason}]}
            usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": answer.n_tokens}}
            for chunk in (last, usage):
                await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
            await response.write(b"data: [DONE]\n\n")
        elif answer.end == "error":
            await response.write(b'data: {"error": {"message": "boom", "type": "server_error"}}\n\n')
        elif answer.end == "cut":
            assert request.transport is not None
            request.transport.abort()
        elif answer.end == "hang":
            await asyncio.sleep(DEADLINE)


@dataclass
class Scene:
    """The bot at work between the two stubs."""

    api: BotApi
    service: ServiceStub
    settings: BotSettings
    stop: asyncio.Event
    running: "asyncio.Task[None]"

    async def end(self) -> None:
        """Stop the bot as SIGTERM does."""
        self.stop.set()
        await self.running


async def close_at_once(session: AiohttpSession) -> None:
    """aiogram waits a quarter of a second for TLS connections to close; there are none here."""
    if session._session is not None:
        await session._session.close()


@asynccontextmanager
async def scene(
    folder: Path,
    *,
    api: BotApi | None = None,
    service: ServiceStub | None = None,
    speed: float = 40.0,
    service_at: str | None = None,
    waits: bool = True,
    **changes: Any,
) -> AsyncIterator[Scene]:
    """Start the stubs and the bot; end it at the end.

    Args:
        service_at: where the bot looks for the service, if not at the stub.
        speed: of the bot's clock.
        waits: until the bot listens.
        changes: to its settings.
    """
    AiohttpSession.close = close_at_once  # type: ignore[method-assign]
    api, service, stop = api or BotApi(), service or ServiceStub(), asyncio.Event()
    async with serving(api.application()) as api_base, serving(service.application()) as service_base:
        options: dict[str, Any] = {
            "api_base": api_base,
            "service": service_at or service_base,
            "key": KEY,
            "allowed": frozenset(),
            "rate": 100,
            "database": folder / "telegram.sqlite3",
            "drain": 0.0,
            "service_patience": 1.0,
        }
        settings = BotSettings(TOKEN, **(options | changes))
        running = asyncio.create_task(run(settings, stop, clock=FastClock(speed)))
        there = Scene(api, service, settings, stop, running)
        try:
            await until(lambda: not waits or api.count("getUpdates") or api.webhook or running.done())
            yield there
        finally:
            stop.set()
            await asyncio.wait([running])
        running.result()
