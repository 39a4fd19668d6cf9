"""A text that grows in a chat: messages edited as it comes, within Telegram's limits."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from aiogram.exceptions import (
    TelegramAPIError,
    TelegramBadRequest,
    TelegramNetworkError,
    TelegramRetryAfter,
    TelegramServerError,
)
from aiogram.methods import EditMessageText, TelegramMethod
from aiogram.types import InlineKeyboardMarkup

from xlab.serving.telegram.clock import Clock
from xlab.serving.telegram.session import TEXT_PATIENCE, Sender, is_gone, message
from xlab.serving.telegram.splitting import split

T = TypeVar("T")

NOT_MODIFIED = "message is not modified"


@dataclass
class _Shown:
    """A message in the chat: its number there, and what it shows."""

    number: int
    text: str


class LiveAnswer:
    """Shows a growing text in one chat.

    ``follow`` runs beside whoever calls ``add``; ``finish`` ends it and sees to it that the whole text arrives.

    Args:
        sender: calls the Bot API.
        chat: where to write.
        reply_to: the message that this is an answer to.
        interval: gives the seconds between two calls, which may change with the load.
    """

    def __init__(
        self, sender: Sender, clock: Clock, chat: int, *, reply_to: int | None, interval: Callable[[], float]
    ) -> None:
        self._sender = sender
        self._clock = clock
        self._chat = chat
        self._reply_to = reply_to
        self._interval = interval
        self._shown: list[_Shown] = []
        self._changed = asyncio.Event()
        self._ending = False
        self._last_call = self._not_before = float("-inf")
        self.text = ""

    @property
    def is_visible(self) -> bool:
        """Whether the chat shows any of it."""
        return bool(self._shown)

    def add(self, piece: str) -> None:
        """Let the text grow; returns at once."""
        self.text += piece
        self._changed.set()

    async def follow(self) -> None:
        """Show the text as it grows, until ``finish``. What fails here is mended by the next edit.

        Raises:
            TelegramAPIError: if there is no one to write to any more.
        """
        while not self._ending:
            await self._changed.wait()
            self._changed.clear()
            if self._ending:
                return
            try:
                await self._show()
            except TelegramRetryAfter as error:
                self._not_before = self._clock.now() + error.retry_after
                self._changed.set()
            except TelegramAPIError as error:
                if is_gone(error):
                    raise
                if isinstance(error, (TelegramNetworkError, TelegramServerError)):
                    self._changed.set()

    async def finish(self, following: "asyncio.Task[None]", keyboard: InlineKeyboardMarkup | None) -> None:
        """End ``follow``, and show the whole text with buttons under it.

        Args:
            following: the task that runs ``follow``; it is not cancelled, for a call may be under way.

        Raises:
            TelegramAPIError: if the text could not be delivered.
        """
        self._ending = True
        self._changed.set()
        await following
        await self._show(final=True, keyboard=keyboard)

    async def _show(self, *, final: bool = False, keyboard: InlineKeyboardMarkup | None = None) -> None:
        # Telegram refuses a message of white space alone
        parts = [part for part in split(self.text) if part.strip()]
        for index, part in enumerate(parts):
            under = keyboard if index == len(parts) - 1 else None
            if index == len(self._shown):
                reply_to = self._reply_to if index == 0 else None
                sent = await self._call(message(self._chat, part, reply_to=reply_to, keyboard=under), final=final)
                self._shown.append(_Shown(sent.message_id, part))
            elif under is not None or self._shown[index].text.strip() != part.strip():  # Telegram strips messages
                await self._edit(self._shown[index], part, under, final=final)

    async def _edit(self, shown: _Shown, part: str, under: InlineKeyboardMarkup | None, *, final: bool) -> None:
        edit = EditMessageText(chat_id=self._chat, message_id=shown.number, text=part, reply_markup=under)
        try:
            await self._call(edit, final=final)
        except TelegramBadRequest as error:
            if NOT_MODIFIED not in error.message:  # an edit whose answer was lost had arrived
                raise
        shown.text = part

    async def _call(self, method: TelegramMethod[T], *, final: bool) -> T:
        """Call now and then only; a text's end must arrive, what comes before may fail."""
        while (wait := max(self._last_call + self._interval(), self._not_before) - self._clock.now()) > 0:
            await self._clock.sleep(wait)
        try:
            return await (self._sender.insist(method, TEXT_PATIENCE) if final else self._sender.bot(method))
        finally:
            self._last_call = self._clock.now()
