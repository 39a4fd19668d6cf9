"""Texts being written: one at a time for a user, so many in all, each ended on request."""

import asyncio
import logging
import traceback
from contextlib import aclosing, suppress

from aiogram.enums import ChatAction
from aiogram.exceptions import TelegramAPIError, TelegramBadRequest, TelegramRetryAfter
from aiogram.methods import SendChatAction
from aiogram.types import InlineKeyboardMarkup

from xlab.serving.telegram.clock import Clock
from xlab.serving.telegram.keyboards import text_keyboard
from xlab.serving.telegram.live_answer import LiveAnswer
from xlab.serving.telegram.service import BROKE_OFF, Service, ServiceError
from xlab.serving.telegram.session import Sender, is_gone
from xlab.serving.telegram.store import TEXT_LIMIT, Store, StoredText, StoreError

LOG = logging.getLogger(__name__)

AT_ONCE = 64  # texts of all users together
EDIT_INTERVAL = 1.0  # seconds between two calls in one chat: core.telegram.org/bots/faq#my-bot-is-hitting-limits
CALLS_PER_SECOND = 20.0  # in all chats; Telegram allows about 30, and there are answers to buttons beside
TYPING_INTERVAL = 4.5  # seconds; Telegram shows "typing…" for five
WRITTEN_LIMIT = 64 * 1024  # characters; no length that can be set comes near it

NOTHING = "The model ended the text here."
NOT_SHOWN = "Telegram did not take the text; it may consist of characters that cannot be shown."
MISTAKE = "Something went wrong on my side. Please tell whoever runs this bot."
RESTARTING = "I am being restarted, so the text ends here for now."


class Generation:
    """One text being written for one user.

    Args:
        user: who asked, and the chat to write to: they are the same number in a private chat.
        prompt: what to continue.
        reply_to: the message that the text is an answer to.
        asked_in: the message that stays behind the buttons, for ``Repeat`` to answer to.
    """

    def __init__(self, user: int, prompt: str, *, reply_to: int | None, asked_in: int | None) -> None:
        self.user = user
        self.prompt = prompt[-TEXT_LIMIT:]
        self.reply_to = reply_to
        self.asked_in = asked_in
        self.writing: asyncio.Task[None] | None = None
        self.note: str | None = None  # what to say after the text
        self.is_stopped = False

    def stop(self, note: str | None = None) -> None:
        """End the text where it is; what stands is delivered."""
        is_written = self.writing is not None and self.writing.done()
        if not is_written and not self.is_stopped:
            self.is_stopped, self.note = True, note
            if self.writing is not None:
                self.writing.cancel()


class Generations:
    """Starts texts, and knows which are being written."""

    def __init__(self, service: Service, store: Store, sender: Sender, clock: Clock) -> None:
        self._service = service
        self._store = store
        self._sender = sender
        self._clock = clock
        self._running: dict[int, tuple[Generation, asyncio.Task[None]]] = {}

    @property
    def is_full(self) -> bool:
        """Whether no further text can be started now."""
        return len(self._running) >= AT_ONCE

    def is_writing(self, user: int) -> bool:
        """Whether this user has a text being written."""
        return user in self._running

    def start(self, generation: Generation) -> None:
        """Begin to write; the caller has asked ``is_writing`` and ``is_full``."""
        task = asyncio.create_task(self._run(generation))
        self._running[generation.user] = generation, task
        task.add_done_callback(lambda _: self._running.pop(generation.user))

    def stop(self, user: int) -> bool:
        """End this user's text where it is; say whether there was one."""
        if user not in self._running:
            return False
        self._running[user][0].stop()
        return True

    async def drain(self, patience: float, farewell: float) -> None:
        """Let the texts end by themselves for ``patience`` seconds, then end them, with ``farewell`` for delivery."""
        for seconds in (patience, farewell):
            if tasks := [task for _, task in self._running.values()]:
                await asyncio.wait(tasks, timeout=seconds)
            for generation, _ in self._running.values():
                generation.stop(RESTARTING)
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _interval(self) -> float:
        return max(EDIT_INTERVAL, len(self._running) / CALLS_PER_SECOND)

    async def _run(self, generation: Generation) -> None:
        live = LiveAnswer(
            self._sender, self._clock, generation.user, reply_to=generation.reply_to, interval=self._interval
        )
        typing = asyncio.create_task(self._type(generation.user, live))
        following = asyncio.create_task(live.follow())
        generation.writing = asyncio.create_task(self._write(generation, live))
        if generation.is_stopped:
            generation.writing.cancel()
        try:
            await asyncio.wait([generation.writing, following], return_when=asyncio.FIRST_COMPLETED)
            generation.writing.cancel()  # if it is following that ended: there is no one to write to
            await asyncio.wait([generation.writing])
            if not generation.writing.cancelled():
                generation.writing.result()  # only a mistake of ours is still an exception here
            await self._finish(generation, live, following)
        except TelegramAPIError as error:
            LOG.info("user %d: text not delivered: %s", generation.user, error)
        except Exception as error:  # a mistake of ours: its message may quote a text, its kind and place do not
            LOG.error("user %d: %s at %s", generation.user, type(error).__name__, place_of(error))
            with suppress(TelegramAPIError):
                await self._sender.say(generation.user, MISTAKE, reply_to=generation.reply_to)
        finally:
            for task in (typing, following, generation.writing):
                task.cancel()
            await asyncio.gather(typing, following, generation.writing, return_exceptions=True)

    async def _write(self, generation: Generation, live: LiveAnswer) -> None:
        try:
            settings = await self._store.settings(generation.user)
            async with aclosing(self._service.stream(generation.prompt, settings)) as pieces:
                async for piece in pieces:
                    live.add(piece)
                    if len(live.text) > WRITTEN_LIMIT:
                        raise ServiceError(BROKE_OFF, cause="the text is longer than was asked for")
        except ServiceError as error:
            LOG.warning("user %d: %s", generation.user, error.cause)
            generation.note = str(error)
        except StoreError as error:
            LOG.error("user %d: %s", generation.user, error)
            generation.note = "My memory does not work right now. Please try again later."

    async def _finish(self, generation: Generation, live: LiveAnswer, following: "asyncio.Task[None]") -> None:
        """Deliver the whole text with its buttons, and what is to be said about it."""
        has_text = bool(live.text.strip())
        keyboard = await self._keyboard(generation, live.text, has_text=has_text)
        note = generation.note
        if not has_text and note is None and not generation.is_stopped:
            note = NOTHING
        try:
            await live.finish(following, keyboard)
        except TelegramBadRequest as error:
            if is_gone(error):
                raise
            LOG.warning("user %d: text refused: %s", generation.user, error)
            has_text, note = False, NOT_SHOWN
        if note is not None:
            under = None if has_text else keyboard
            await self._sender.say(generation.user, note, reply_to=generation.reply_to, keyboard=under)

    async def _keyboard(self, generation: Generation, text: str, *, has_text: bool) -> InlineKeyboardMarkup | None:
        stored = StoredText(generation.prompt, text, generation.asked_in)
        try:
            return text_keyboard(await self._store.keep(generation.user, stored), has_text=has_text)
        except StoreError as error:  # a text without buttons is better than none
            LOG.error("user %d: %s", generation.user, error)
            return None

    async def _type(self, chat: int, live: LiveAnswer) -> None:
        """Show "typing…" until there is something to read."""
        while not live.is_visible:
            pause = TYPING_INTERVAL
            try:
                await self._sender.bot(SendChatAction(chat_id=chat, action=ChatAction.TYPING))
            except TelegramRetryAfter as error:
                pause = max(pause, error.retry_after)
            except TelegramAPIError as error:
                LOG.debug("user %d: no typing action: %s", chat, error)
            await self._clock.sleep(pause)


def place_of(error: BaseException) -> str:
    """The file and line that an exception was raised at."""
    *_, frame = traceback.extract_tb(error.__traceback__)
    return f"{frame.filename}:{frame.lineno}"
