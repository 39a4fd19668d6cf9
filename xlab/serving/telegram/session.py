"""Calls of the Bot API whose errors never show the token or anyone's text, and that wait when they are told to."""

from typing import Any, TypeVar

from aiogram import Bot
from aiogram.client.default import DefaultBotProperties
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import (
    TelegramAPIError,
    TelegramBadRequest,
    TelegramForbiddenError,
    TelegramNetworkError,
    TelegramRetryAfter,
    TelegramServerError,
)
from aiogram.methods import SendMessage, TelegramMethod
from aiogram.types import InlineKeyboardMarkup, ReplyParameters

from xlab.serving.telegram.clock import Clock
from xlab.serving.telegram.credentials import hide

T = TypeVar("T")

CALL_TIMEOUT = 20  # seconds for one call
LINE_PATIENCE = 60.0  # seconds over which a line that should arrive is tried again
TEXT_PATIENCE = 900.0  # … and a text that must
GONE = ("chat not found", "message to edit not found", "message can't be edited", "message_id_invalid")


class QuietSession(AiohttpSession):
    """aiogram's session, but errors tell only what Telegram or the network said.

    The Bot API has the token in every URL, and aiohttp's errors may quote the URL; aiogram's error for an answer that
    it cannot read quotes the answer, which may be people's messages.
    """

    async def make_request(self, bot: Bot, method: TelegramMethod[T], timeout: int | None = None) -> T:
        """Call a method.

        Raises:
            TelegramAPIError: with a message that may be logged.
        """
        try:
            return await super().make_request(bot, method, timeout=timeout)
        except TelegramAPIError as error:
            cause = error.__cause__
            # the system's words name an address; aiohttp's may quote the URL or the answer
            said = str(error.message) if cause is None or isinstance(cause, OSError) else type(cause).__name__
            error.message = hide(said, bot.token)
            raise error from None
        except Exception as error:
            message = f"the answer is not the Bot API's ({type(error).__name__})"
            raise TelegramServerError(method=method, message=message) from None


def make_bot(token: str, api_base: str) -> Bot:
    """A bot whose messages are plain text: no parse mode, so that ``<b>&`` arrives as it is."""
    session = QuietSession(api=TelegramAPIServer.from_base(api_base), timeout=CALL_TIMEOUT)
    return Bot(token, session=session, default=DefaultBotProperties(link_preview_is_disabled=True))


def is_gone(error: TelegramAPIError) -> bool:
    """Whether there is no one to write to any more: the bot is blocked, or the message was deleted."""
    if isinstance(error, TelegramForbiddenError):
        return True
    return isinstance(error, TelegramBadRequest) and any(sign in error.message.lower() for sign in GONE)


class Sender:
    """Sends what must arrive."""

    def __init__(self, bot: Bot, clock: Clock) -> None:
        self.bot = bot
        self._clock = clock

    async def insist(self, method: TelegramMethod[T], patience: float = LINE_PATIENCE) -> T:
        """Call a method until it succeeds, waiting as long as Telegram says, or longer and longer.

        A message whose answer was lost on the way is sent twice rather than never.

        Raises:
            TelegramAPIError: if it is refused, or ``patience`` seconds were not enough.
        """
        give_up, pause = self._clock.now() + patience, 1.0
        while True:
            try:
                return await self.bot(method)
            except (TelegramRetryAfter, TelegramNetworkError, TelegramServerError) as error:
                wait = float(error.retry_after) if isinstance(error, TelegramRetryAfter) else pause
                if self._clock.now() + wait > give_up:
                    raise
            pause = min(pause * 2, 30.0)
            await self._clock.sleep(wait)

    async def say(
        self, chat: int, text: str, *, reply_to: int | None = None, keyboard: InlineKeyboardMarkup | None = None
    ) -> None:
        """Send a message of at most 4096 UTF-16 units."""
        await self.insist(message(chat, text, reply_to=reply_to, keyboard=keyboard))


def message(
    chat: int, text: str, *, reply_to: int | None = None, keyboard: InlineKeyboardMarkup | None = None
) -> SendMessage:
    """A new message, as an answer to another if that one is still there."""
    reply: dict[str, Any] = {}
    if reply_to is not None:
        reply["reply_parameters"] = ReplyParameters(message_id=reply_to, allow_sending_without_reply=True)
    return SendMessage(chat_id=chat, text=text, reply_markup=keyboard, **reply)
