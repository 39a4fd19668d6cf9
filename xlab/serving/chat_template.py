"""Make a prompt of a chat: by the checkpoint's own template, or a plain one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from xlab.data.tokenizers import Tokenizer
from xlab.serving.errors import RequestError, ServingError
from xlab.serving.schemas import Message

SPEAKERS = {"system": "System", "developer": "System", "user": "User", "assistant": "Assistant"}


@dataclass(frozen=True)
class ChatPrompt:
    """A chat as the model is shown it.

    Attributes:
        ids: ends where the assistant's turn begins.
        text: what they say, for the log.
        stops: strings that end the turn, beside the end token.
    """

    ids: list[int]
    text: str
    stops: tuple[str, ...] = ()


class ChatTemplate(Protocol):
    """Knows how a model was shown chats."""

    def prompt(self, messages: Sequence[Message]) -> ChatPrompt:
        """The prompt for the next message.

        Raises:
            RequestError: for messages that the template does not take.
        """


class PlainTemplate:
    """For models that were never shown a chat: a script, which ends before the user's next line."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def prompt(self, messages: Sequence[Message]) -> ChatPrompt:
        lines = [f"{SPEAKERS[message.role]}: {message.text}\n\n" for message in messages]
        text = "".join(lines) + "Assistant:"
        return ChatPrompt([self._tokenizer.sos_id, *self._tokenizer.encode(text)], text, stops=("\n\nUser:",))


class JinjaTemplate:
    """A template in Hugging Face's form: Jinja, with ``messages``, ``add_generation_prompt`` and the special tokens.

    It comes with the checkpoint, so it runs in Jinja's sandbox. What it writes itself may be special tokens; what a
    message holds is text, and never a special token, whatever it spells.

    Raises:
        ServingError: if it is no template.
    """

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        self._failures = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError)
        self._tokenizer = tokenizer
        self._ids = tokenizer.special_tokens
        # the longest first: one may begin with another
        names = sorted(self._ids, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, names)))
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ServingError(f"the checkpoint's chat template is no Jinja: {error}") from error

    def prompt(self, messages: Sequence[Message]) -> ChatPrompt:
        tokenizer = self._tokenizer
        specials = {name: getattr(tokenizer, f"{name}_token") for name in ("sos", "eos", "pad")}
        plain = [{"role": message.role, "content": self._apart(message.text)} for message in messages]
        try:
            text = self._template.render(
                messages=plain,
                add_generation_prompt=True,
                bos_token=specials["sos"],
                eos_token=specials["eos"],
                pad_token=specials["pad"],
            )
        except RequestError:
            raise
        except self._failures as error:
            raise RequestError(f"the chat template does not take these messages: {error}", param="messages") from error
        return ChatPrompt(self._encode(text), text.replace(_MARK, ""))

    def _apart(self, text: str) -> str:
        return self._special.sub(
            lambda found: "".join(f"{letter}{_MARK}" for letter in found[0]), text.replace(_MARK, "")
        )

    def _encode(self, text: str) -> list[int]:
        """Special tokens that the template wrote become their ids, all else text."""
        ids: list[int] = []
        at = 0
        for found in self._special.finditer(text):
            ids += self._tokenizer.encode(text[at : found.start()].replace(_MARK, ""))
            ids.append(self._ids[found[0]])
            at = found.end()
        ids += self._tokenizer.encode(text[at:].replace(_MARK, ""))
        if not ids or ids[0] != self._tokenizer.sos_id:
            ids.insert(0, self._tokenizer.sos_id)  # every text that the model has seen began so
        return ids


_MARK = "\ue000"  # of private use: keeps a special token's spelling in a message from being one


def _refuse(message: str) -> None:
    raise RequestError(f"the chat template does not take these messages: {message}", param="messages")


def template_of(source: str | None, tokenizer: Tokenizer) -> ChatTemplate:
    """The template of a checkpoint, or the plain one."""
    return PlainTemplate(tokenizer) if source is None else JinjaTemplate(source, tokenizer)
