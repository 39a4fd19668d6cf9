"""The webhook: Telegram alone is let in, and what it brings is handled once."""

import asyncio
import io
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from telegram_stub import USER, Answer, BotApi, Refuse, Scene, driven, person, scene, until

from xlab.errors import ConfigError
from xlab.serving.telegram import webhook
from xlab.serving.telegram.webhook import SECRET_HEADER, WebhookSettings

SECRET = "a-secret-of-some-length"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


@asynccontextmanager
async def hooked(folder: Path, **changes: Any) -> AsyncIterator[tuple[Scene, aiohttp.ClientSession]]:
    """The bot with a webhook, and a client that calls it as Telegram does."""
    port = free_port()
    settings = WebhookSettings("https://example.org/hook", host="127.0.0.1", port=port, secret=SECRET)
    async with (
        scene(folder, webhook=settings, **changes) as there,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}", timeout=aiohttp.ClientTimeout(10)) as client,
    ):
        yield there, client


def update(number: int, text: str = "Once") -> dict[str, Any]:
    chat = {"id": USER, "type": "private"}
    return {
        "update_id": number,
        "message": {"message_id": number, "date": 1, "chat": chat, "from": person(USER), "text": text},
    }


async def bring(client: aiohttp.ClientSession, what: Any, secret: str = SECRET, path: str = "/hook") -> int:
    body: dict[str, Any] = {"data": io.BytesIO(what)} if isinstance(what, bytes) else {"json": what}
    async with client.post(path, headers={SECRET_HEADER: secret}, **body) as response:
        return response.status


def test_what_telegram_brings_is_answered_and_only_once(tmp_path: Path) -> None:
    async def play() -> None:
        async with hooked(tmp_path) as (there, client):
            assert there.api.webhook["url"] == "https://example.org/hook"
            assert there.api.webhook["secret_token"] == SECRET
            assert [await bring(client, update(5)) for _ in range(3)] == [200, 200, 200]
            await until(lambda: any(shown.buttons for shown in there.api.messages()))
            assert there.api.texts() == [" and so on"]
            assert len(there.service.requests) == 1
            assert there.api.count("getUpdates") == 0

    driven(play())


def test_no_one_else_is_let_in(tmp_path: Path) -> None:
    async def play() -> None:
        async with hooked(tmp_path) as (there, client):
            for secret in ("", SECRET[:-1], SECRET + "x", SECRET.upper(), "schlüssel"):
                assert await bring(client, update(5), secret) == 401
            assert await bring(client, update(5), path="/") == 404
            assert await bring(client, update(5), path="/hook/../hook/x") == 404
            async with client.get("/hook", headers={SECRET_HEADER: SECRET}) as response:
                assert response.status == 405
            assert not there.service.requests

    driven(play())


def test_bodies_that_are_no_update_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "BODY_PATIENCE", 0.3)

    async def play() -> None:
        async with hooked(tmp_path) as (there, client):
            assert await bring(client, b"not JSON") == 400
            assert await bring(client, b"\xff\xfe") == 400
            assert await bring(client, b"[" * 100_000) == 400
            assert await bring(client, b" " * (webhook.BODY_LIMIT + 1)) == 413
            for sense in (b"null", [], 7, {}, {"update_id": "x"}, {"update_id": 3, "message": {"text": "secret"}}):
                assert await bring(client, sense) == 200  # else Telegram would bring it again for ever

            async def slow() -> AsyncIterator[bytes]:
                yield b"{"
                await asyncio.sleep(5)

            async with client.post("/hook", data=slow(), headers={SECRET_HEADER: SECRET}) as response:
                assert response.status == 408
            assert await bring(client, update(5)) == 200
            await until(lambda: there.api.texts() == [" and so on"])

    driven(play())


def test_too_many_at_once_are_brought_again_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        async with hooked(tmp_path) as (there, client):
            there.api.fail("sendMessage", *[Refuse(429, "Too Many Requests", retry_after=50)] * 70)
            statuses = [
                await bring(client, update(number, "/help") | {"message": of_user(number)}) for number in range(1, 70)
            ]
            assert statuses == [200] * 64 + [503] * 5

    driven(play())


def of_user(user: int) -> dict[str, Any]:
    command = [{"type": "bot_command", "offset": 0, "length": 5}]
    chat = {"id": user, "type": "private"}
    return {"message_id": 1, "date": 1, "chat": chat, "from": person(user), "text": "/help", "entities": command}


def test_a_url_that_telegram_refuses_ends_the_bot(tmp_path: Path) -> None:
    async def play() -> None:
        api = BotApi()
        api.fail("setWebhook", Refuse(500), Refuse(400, "Bad Request: bad webhook: failed to resolve host"))
        with pytest.raises(ConfigError, match=r"https://example.org/hook: Telegram refuses: .*failed to resolve host"):
            async with hooked(tmp_path, api=api):
                pass

    driven(play())


def test_a_port_that_is_taken_ends_the_bot(tmp_path: Path) -> None:
    async def play() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            settings = WebhookSettings("https://x.org/", host="127.0.0.1", port=taken.getsockname()[1], secret=SECRET)
            with pytest.raises(OSError, match="address already in use"):
                async with scene(tmp_path, webhook=settings):
                    pass

    driven(play())


def test_stopping_lets_texts_end(tmp_path: Path) -> None:
    async def play() -> None:
        gate = asyncio.Event()
        async with hooked(tmp_path, drain=10.0) as (there, client):
            there.service.default = Answer([" and", gate, " so on"])
            await bring(client, update(5))
            await until(lambda: there.api.texts() == [" and"])
            there.stop.set()
            gate.set()
            await there.running
            assert there.api.texts() == [" and so on"]

    driven(play())
