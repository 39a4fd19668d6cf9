"""Asks Telegram for updates again and again, and lives through everything it may answer."""

import asyncio
from contextlib import suppress
from typing import Any

from aiogram import Bot
from aiogram.exceptions import TelegramAPIError
from aiogram.methods import DeleteWebhook, TelegramMethod

from xlab.serving.telegram.clock import Clock
from xlab.serving.telegram.patience import Pause, call
from xlab.serving.telegram.session import CALL_TIMEOUT
from xlab.serving.telegram.updates import KINDS, Updates

LONG_POLL = 25  # seconds for which Telegram holds a question that it has no answer to


class GetRawUpdates(TelegramMethod[list[Any]]):
    """``getUpdates`` before aiogram's types: one update that they do not know must not hold back all others."""

    __returning__ = list[Any]
    __api_method__ = "getUpdates"

    offset: int | None = None
    limit: int | None = None
    timeout: int | None = None
    allowed_updates: list[str] | None = None


async def poll(bot: Bot, updates: Updates, clock: Clock) -> None:
    """Handle updates until cancelled.

    Raises:
        ConfigError: if Telegram does not know the token.
    """
    # with a webhook set, Telegram refuses to be asked
    await call(bot, DeleteWebhook(), clock, doing="taking the webhook away")
    offset: int | None = None
    pause = Pause(clock, "asking for updates")
    try:
        while True:
            ask = GetRawUpdates(offset=offset, timeout=LONG_POLL, allowed_updates=KINDS)
            try:
                found = await bot(ask, request_timeout=LONG_POLL + CALL_TIMEOUT)
            except TelegramAPIError as error:
                await pause.after(error)
                continue
            pause.reset()
            for raw in found:
                await updates.room()
                updates.accept(raw)
                offset = _after(raw, offset)
    except asyncio.CancelledError:
        if offset is not None:
            await _confirm(bot, offset)
        raise


def _after(raw: Any, offset: int | None) -> int | None:
    number = raw.get("update_id") if isinstance(raw, dict) else None
    return number + 1 if type(number) is int else offset


async def _confirm(bot: Bot, offset: int) -> None:
    """Telegram gives an update again until it is asked for a later one: without this, a restart repeats the last."""
    with suppress(TelegramAPIError):
        await bot(GetRawUpdates(offset=offset, limit=1, timeout=0, allowed_updates=KINDS), request_timeout=5)
