"""What the bot says to a command, a text, a press of a button, and to whom it says nothing."""

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import ceil
from typing import Any

from aiogram import F, Router
from aiogram.enums import ChatType
from aiogram.exceptions import TelegramBadRequest
from aiogram.filters import Command, CommandStart
from aiogram.methods import AnswerCallbackQuery, EditMessageText
from aiogram.types import BotCommand, CallbackQuery, Message, TelegramObject

from xlab.serving.telegram.clock import Clock
from xlab.serving.telegram.generations import Generation, Generations
from xlab.serving.telegram.keyboards import CONTINUE, EXPLAIN, REPEAT, RESET, SET, changed, settings_keyboard
from xlab.serving.telegram.limits import RateLimit, Seldom
from xlab.serving.telegram.session import Sender
from xlab.serving.telegram.settings import MEANINGS
from xlab.serving.telegram.store import Store, StoreError

FLOOD, MINUTE = 60, 60.0  # updates of one user in a minute; the rest is not even answered
HANDLED_AT_ONCE = 8  # updates of one user: a chat that Telegram holds up must not take the places of all others
LINE_PAUSE = 5.0  # seconds in which a line like "I am still writing" is said once
FLOOD_PAUSE = 60.0

COMMANDS = [
    BotCommand(command="help", description="What this bot does"),
    BotCommand(command="settings", description="Temperature, top-k, top-p, length"),
    BotCommand(command="stop", description="End the text that is being written"),
]
WELCOME = "Send me the beginning of a text, and a language model will continue it. /help tells more."
HELP = """\
I continue any text you send, with a language model. It goes on with your words; it does not answer questions.

🔁 Repeat continues the same text anew, ➡️ Continue goes on where the last one ended.
/settings sets temperature, top-k, top-p and the length.
/stop ends the text that is being written.

I keep your settings and your last texts, so that the buttons work; no one else sees them."""
TEXT_ONLY = "I can continue text only. Send me the beginning of one."
STRANGER = "I am sorry, this bot is private. Your Telegram id is {user}; whoever runs it can let you in."
TOO_FAST = "That was a lot at once. Please go on in {seconds} s."
STILL_WRITING = "I am still writing your last text. /stop ends it."
CROWDED = "Many texts are being written right now. Please try again in a moment."
SETTINGS = "How I write. The middle buttons tell what each setting does."
STALE_TEXT = "I no longer have this text. Please send it again."
STALE_BUTTON = "This button is of an earlier version. /settings shows the present ones."
NO_MEMORY = "My memory does not work right now. Please try again later."


class Handlers:
    """The bot's side of the conversation.

    Args:
        allowed: users who may use the bot; empty lets everyone.
        rate: texts that a user may ask for in a minute.
    """

    def __init__(
        self,
        sender: Sender,
        store: Store,
        generations: Generations,
        clock: Clock,
        *,
        allowed: frozenset[int],
        rate: int,
    ) -> None:
        self._sender = sender
        self._store = store
        self._generations = generations
        self._allowed = allowed
        self._texts = RateLimit(rate, MINUTE, clock)
        self._updates = RateLimit(FLOOD, MINUTE, clock)
        self._lines = Seldom(LINE_PAUSE, clock)
        self._warnings = Seldom(FLOOD_PAUSE, clock)
        self._handled: Counter[int] = Counter()  # updates of each user that are being handled

    def router(self) -> Router:
        """Everything the bot reacts to."""
        router = Router()
        router.message.outer_middleware(self._admit)
        router.callback_query.outer_middleware(self._admit)
        router.message.register(self._start, CommandStart())
        router.message.register(self._help, Command("help"))
        router.message.register(self._settings, Command("settings"))
        router.message.register(self._stop, Command("stop"))
        router.message.register(self._text, F.text)
        router.message.register(self._no_text)
        router.callback_query.register(self._set, F.data.regexp(f"^({SET}|{RESET})(:|$)"))
        router.callback_query.register(self._explain, F.data.startswith(f"{EXPLAIN}:"))
        router.callback_query.register(self._again, F.data.regexp(f"^({REPEAT}|{CONTINUE}):"))
        router.callback_query.register(self._stale)
        return router

    async def _admit(
        self,
        handler: Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]],
        event: TelegramObject,
        data: dict[str, Any],
    ) -> Any:
        """Let through what is written in private, not too fast, by someone who is allowed."""
        assert isinstance(event, (Message, CallbackQuery))
        chat = event.chat if isinstance(event, Message) else event.message.chat if event.message else None
        user = event.from_user
        if user is None or user.is_bot or (chat is not None and chat.type != ChatType.PRIVATE):
            return
        if wait := self._updates.wait(user.id):
            if self._warnings.due((user.id, "flood")):
                await self._sender.say(user.id, TOO_FAST.format(seconds=ceil(wait)))
        elif self._allowed and user.id not in self._allowed:
            if self._warnings.due((user.id, "stranger")):
                await self._sender.say(user.id, STRANGER.format(user=user.id))
        elif self._handled[user.id] < HANDLED_AT_ONCE:
            self._handled[user.id] += 1
            try:
                await handler(event, data)
            finally:
                self._handled.subtract([user.id])
                self._handled += Counter()  # forgets who has none

    async def _start(self, message: Message) -> None:
        await self._sender.say(message.chat.id, WELCOME)

    async def _help(self, message: Message) -> None:
        await self._sender.say(message.chat.id, HELP)

    async def _no_text(self, message: Message) -> None:
        if self._lines.due((message.chat.id, "text only")):  # an album is many messages
            await self._sender.say(message.chat.id, TEXT_ONLY)

    async def _stop(self, message: Message) -> None:
        stopped = self._generations.stop(message.chat.id)
        await self._sender.say(message.chat.id, "Stopped." if stopped else "I am not writing anything.")

    async def _text(self, message: Message) -> None:
        user = message.chat.id
        if refusal := self._refusal(user):
            if self._lines.due((user, "refusal")):
                await self._sender.say(user, refusal)
            return
        here = message.message_id
        self._generations.start(Generation(user, message.text or "", reply_to=here, asked_in=here))

    async def _again(self, query: CallbackQuery) -> None:
        """Repeat or Continue."""
        user = query.from_user.id
        kind, _, name = (query.data or "").partition(":")
        try:
            stored = await self._store.text(user, name)
        except StoreError:
            await self._answer(query, NO_MEMORY)
            return
        if stored is None:
            await self._answer(query, STALE_TEXT)
            return
        if refusal := self._refusal(user):
            await self._answer(query, refusal)
            return
        pressed = query.message.message_id if query.message else None
        prompt = stored.prompt + stored.written if kind == CONTINUE else stored.prompt
        reply_to = pressed if kind == CONTINUE else stored.message
        self._generations.start(Generation(user, prompt, reply_to=reply_to, asked_in=reply_to))
        await self._answer(query)

    def _refusal(self, user: int) -> str | None:
        """Why this user can have no text now; if there is no reason, it is counted as given."""
        if self._generations.is_writing(user):
            return STILL_WRITING
        if self._generations.is_full:
            return CROWDED
        if wait := self._texts.wait(user):
            return TOO_FAST.format(seconds=ceil(wait))
        return None

    async def _settings(self, message: Message) -> None:
        try:
            settings = await self._store.settings(message.chat.id)
        except StoreError:
            await self._sender.say(message.chat.id, NO_MEMORY)
            return
        await self._sender.say(message.chat.id, SETTINGS, keyboard=settings_keyboard(settings))

    async def _set(self, query: CallbackQuery) -> None:
        user = query.from_user.id
        try:
            after = await self._store.change(user, lambda before: changed(before, query.data or ""))
        except ValueError:
            await self._answer(query, STALE_BUTTON)
            return
        except StoreError:
            await self._answer(query, NO_MEMORY)
            return
        await self._answer(query)
        if query.message is not None:
            edit = EditMessageText(
                chat_id=user,
                message_id=query.message.message_id,
                text=SETTINGS,
                reply_markup=settings_keyboard(after),
            )
            with suppress(TelegramBadRequest):  # not modified: the value was there already, at the end of the scale
                await self._sender.insist(edit)

    async def _explain(self, query: CallbackQuery) -> None:
        name = (query.data or "").partition(":")[2]
        await self._answer(query, MEANINGS.get(name, STALE_BUTTON))

    async def _stale(self, query: CallbackQuery) -> None:
        await self._answer(query, STALE_BUTTON)

    async def _answer(self, query: CallbackQuery, alert: str | None = None) -> None:
        """Tell Telegram that a press was seen; with an alert, the user reads it in a window."""
        answer = AnswerCallbackQuery(callback_query_id=query.id, text=alert, show_alert=alert is not None)
        with suppress(TelegramBadRequest):  # too late: Telegram waits half a minute for it
            await self._sender.insist(answer)
