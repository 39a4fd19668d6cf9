"""Lets Telegram bring the updates: a route that only it can use, for it alone knows the secret."""

import asyncio
import hmac
import json
import logging
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from aiogram import Bot
from aiogram.methods import SetWebhook
from aiohttp import web

from xlab.serving.telegram.clock import Clock
from xlab.serving.telegram.patience import call
from xlab.serving.telegram.updates import KINDS, Updates

LOG = logging.getLogger(__name__)

SECRET_HEADER = "X-Telegram-Bot-Api-Secret-Token"
BODY_LIMIT = 1 << 20  # bytes; an update has some thousand
BODY_PATIENCE = 10.0  # seconds for a body to arrive
CONNECTIONS = 20  # that Telegram may open at once


@dataclass(frozen=True)
class WebhookSettings:
    """Where Telegram brings updates to.

    Attributes:
        url: what Telegram calls; a proxy in front of the bot answers for it with TLS.
        host, port: where the bot itself listens.
        secret: what Telegram shows with every update.
    """

    url: str
    host: str
    port: int
    secret: str = field(repr=False)


class Webhook:
    """A small server with one route: the path of the URL."""

    def __init__(self, settings: WebhookSettings, updates: Updates) -> None:
        self._settings = settings
        self._updates = updates
        application = web.Application(client_max_size=BODY_LIMIT)
        application.router.add_post(urlsplit(settings.url).path or "/", self._receive)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=2.0)

    async def start(self, bot: Bot, clock: Clock) -> None:
        """Listen, then tell Telegram.

        Raises:
            OSError: if the port is taken.
            ConfigError: if Telegram refuses the URL.
        """
        await self._runner.setup()
        await web.TCPSite(self._runner, self._settings.host, self._settings.port).start()
        LOG.info("listening on %s:%d", *self._runner.addresses[0][:2])
        setting = SetWebhook(
            url=self._settings.url,
            secret_token=self._settings.secret,
            allowed_updates=KINDS,
            max_connections=CONNECTIONS,
        )
        await call(bot, setting, clock, doing=f"setting the webhook {self._settings.url}")

    async def stop(self) -> None:
        """Listen no more. Telegram keeps what comes meanwhile for the next start."""
        await self._runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        # bytes: compare_digest refuses text beyond ASCII, and a header may hold anything
        shown = request.headers.get(SECRET_HEADER, "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(shown, self._settings.secret.encode()):
            return web.Response(status=401)
        if self._updates.is_full:
            return web.Response(status=503, headers={"Retry-After": "1"})  # Telegram brings it again
        try:
            update = json.loads(await asyncio.wait_for(request.read(), BODY_PATIENCE))
        except asyncio.TimeoutError:
            return web.Response(status=408)
        except (ValueError, RecursionError):
            return web.Response(status=400)
        self._updates.accept(update)
        return web.Response()  # at once: Telegram does not wait for a text
