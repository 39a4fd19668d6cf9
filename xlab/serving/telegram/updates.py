"""From raw updates to handlers: each understood by itself, handled once, and only so many at a time."""

import asyncio
import logging
from collections import OrderedDict
from typing import Any

from aiogram import Bot, Dispatcher
from aiogram.exceptions import TelegramAPIError
from aiogram.types import Update
from pydantic import ValidationError

from xlab.serving.telegram.generations import place_of

LOG = logging.getLogger(__name__)

KINDS = ["message", "callback_query"]  # what Telegram is asked to send
AT_ONCE = 64  # updates being handled; texts are written outside of this
REMEMBERED = 1000  # numbers of past updates, for Telegram sends one again if it saw no answer


class Updates:
    """Feeds updates to the dispatcher, in tasks of their own."""

    def __init__(self, bot: Bot, dispatcher: Dispatcher, *, at_once: int = AT_ONCE) -> None:
        self._bot = bot
        self._dispatcher = dispatcher
        self._at_once = at_once
        self._tasks: set[asyncio.Task[None]] = set()
        self._seen: OrderedDict[int, None] = OrderedDict()

    @property
    def is_full(self) -> bool:
        """Whether further updates must wait."""
        return len(self._tasks) >= self._at_once

    async def room(self) -> None:
        """Wait until there is room for an update."""
        while self.is_full:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    def accept(self, raw: Any) -> None:
        """Handle an update as Telegram sent it; one that makes no sense is logged, without what it says."""
        try:
            update = Update.model_validate(raw, context={"bot": self._bot})
        except (ValidationError, RecursionError):
            LOG.warning("an update makes no sense and is skipped")
            return
        # aiogram warns of kinds that it does not know, and quotes them whole; we asked for these two only
        if update.update_id in self._seen or not (update.message or update.callback_query):
            return
        self._seen[update.update_id] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        task = asyncio.create_task(self._handle(update))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self, patience: float) -> None:
        """Let what is being handled end; after ``patience`` seconds, end it."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _handle(self, update: Update) -> None:
        try:
            await self._dispatcher.feed_update(self._bot, update)
        except TelegramAPIError as error:
            LOG.warning("update %d: not answered: %s", update.update_id, error)
        except Exception as error:  # its message may quote someone's text; its kind and place do not
            LOG.error("update %d: %s at %s", update.update_id, type(error).__name__, place_of(error))
