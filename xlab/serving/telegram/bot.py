"""The whole bot: its parts put together, run until it is told to stop, and ended in good order."""

import asyncio
import logging
import signal
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiogram import Bot, Dispatcher
from aiogram.exceptions import TelegramAPIError
from aiogram.methods import GetMe, SetMyCommands

from xlab.serving.telegram.clock import Clock
from xlab.serving.telegram.generations import Generations
from xlab.serving.telegram.handlers import COMMANDS, Handlers
from xlab.serving.telegram.patience import call
from xlab.serving.telegram.polling import poll
from xlab.serving.telegram.service import Service
from xlab.serving.telegram.session import Sender, make_bot
from xlab.serving.telegram.store import Bounds, Store
from xlab.serving.telegram.updates import Updates
from xlab.serving.telegram.webhook import Webhook, WebhookSettings

LOG = logging.getLogger(__name__)

FAREWELL = 5.0  # seconds to deliver what texts have when they are ended


@dataclass(frozen=True)
class BotSettings:
    """What the command's options say.

    Attributes:
        token: the bot's; with it, anyone is the bot.
        api_base: where the Bot API is.
        service: where the HTTP service is.
        key: the service's key, if it asks for one.
        allowed: users who may use the bot; empty lets everyone.
        rate: texts that a user may ask for in a minute.
        database: the file for settings and texts.
        drain: seconds for texts to end by themselves when the bot is stopped.
        webhook: where Telegram brings updates to; without it, the bot asks for them.
        service_patience: seconds without a sign of life after which the service counts as down.
    """

    token: str = field(repr=False)
    api_base: str
    service: str
    key: str | None = field(repr=False)
    allowed: frozenset[int]
    rate: int
    database: Path
    drain: float
    webhook: WebhookSettings | None = None
    service_patience: float = 60.0
    bounds: Bounds = Bounds()  # noqa: RUF009 (frozen)


async def run(settings: BotSettings, stop: asyncio.Event, *, clock: Clock | None = None) -> None:
    """Run the bot until ``stop`` is set.

    Raises:
        ConfigError: if the database cannot be opened, or Telegram refuses the token or the webhook.
        OSError: if the webhook's port is taken.
    """
    clock = clock or Clock()
    store = Store(settings.database, bounds=settings.bounds)
    service = Service(settings.service, key=settings.key, patience=settings.service_patience)
    bot = make_bot(settings.token, settings.api_base)
    sender = Sender(bot, clock)
    generations = Generations(service, store, sender, clock)
    handlers = Handlers(sender, store, generations, clock, allowed=settings.allowed, rate=settings.rate)
    dispatcher = Dispatcher(disable_fsm=True)  # it would remember a state for every user
    dispatcher.include_router(handlers.router())
    updates = Updates(bot, dispatcher)
    patience = 0.0
    try:
        await _until(stop, _work(settings, bot, updates, clock))
        patience = settings.drain
    finally:
        await updates.drain(FAREWELL)
        await generations.drain(patience, FAREWELL)
        await service.close()
        await bot.session.close()
        await store.close()
        LOG.info("stopped")


def run_until_signalled(settings: BotSettings) -> None:
    """Run the bot until SIGTERM or SIGINT; a second one ends it at once.

    Raises:
        ConfigError, OSError: as ``run`` does.
    """

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)

        def on_signal() -> None:
            stop.set()
            for number in numbers:
                loop.remove_signal_handler(number)

        with suppress(NotImplementedError):  # on Windows, where Ctrl-C still ends it
            for number in numbers:
                loop.add_signal_handler(number, on_signal)
        await run(settings, stop)

    asyncio.run(main())


async def _work(settings: BotSettings, bot: Bot, updates: Updates, clock: Clock) -> None:
    """Handle updates until cancelled."""
    me = await call(bot, GetMe(), clock, doing="reaching Telegram")
    LOG.info("@%s writes with %s", me.username, settings.service)
    if not settings.allowed:
        LOG.warning("anyone may use this bot; --allow USER_ID makes it private")
    try:
        await bot(SetMyCommands(commands=COMMANDS))
    except TelegramAPIError as error:  # the menu is a comfort
        LOG.warning("the menu of commands is not set: %s", error)
    if settings.webhook is None:
        await poll(bot, updates, clock)
        return
    webhook = Webhook(settings.webhook, updates)
    try:
        await webhook.start(bot, clock)
        await asyncio.Event().wait()
    finally:
        await webhook.stop()


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Work until told to stop; what goes wrong in the work is raised."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.wait([working, stopping])
    if not working.cancelled():
        working.result()
