"""Wait longer and longer for Telegram to work again, unless waiting cannot help."""

import logging
from typing import TypeVar

from aiogram import Bot
from aiogram.exceptions import (
    TelegramAPIError,
    TelegramBadRequest,
    TelegramConflictError,
    TelegramNotFound,
    TelegramRetryAfter,
    TelegramUnauthorizedError,
)
from aiogram.methods import TelegramMethod

from xlab.errors import ConfigError
from xlab.serving.telegram.clock import Clock

T = TypeVar("T")

LOG = logging.getLogger(__name__)

LONGEST_PAUSE = 60.0  # seconds between two tries


class Pause:
    """The waits between tries of one thing."""

    def __init__(self, clock: Clock, doing: str) -> None:
        self._clock = clock
        self._doing = doing
        self._seconds = 1.0

    def reset(self) -> None:
        """It works again."""
        self._seconds = 1.0

    async def after(self, failure: TelegramAPIError) -> None:
        """Say in a line what failed, and wait.

        Raises:
            ConfigError: if Telegram does not know the token.
        """
        if isinstance(failure, (TelegramUnauthorizedError, TelegramNotFound)):
            raise ConfigError(
                f"Telegram does not know the bot's token ({failure.message}); copy @BotFather's, and check --api-base"
            ) from None
        seconds, self._seconds = self._seconds, min(self._seconds * 2, LONGEST_PAUSE)
        reason = str(failure)
        if isinstance(failure, TelegramRetryAfter):
            seconds, reason = float(failure.retry_after), "Telegram asks for a pause (429)"
        elif isinstance(failure, TelegramConflictError):
            reason = "another program uses this bot's token (409 Conflict); end one of the two"
        LOG.warning("%s: %s; trying again in %.0f s", self._doing, reason, seconds)
        await self._clock.sleep(seconds)


async def call(bot: Bot, method: TelegramMethod[T], clock: Clock, *, doing: str) -> T:
    """Call a method that the bot cannot begin without, until it works.

    Raises:
        ConfigError: if Telegram refuses it.
    """
    pause = Pause(clock, doing)
    while True:
        try:
            return await bot(method)
        except TelegramBadRequest as error:
            raise ConfigError(f"{doing}: Telegram refuses: {error.message}") from None
        except TelegramAPIError as error:
            await pause.after(error)
