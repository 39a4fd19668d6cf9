"""Make a prompt of a chat: by the checkpoint's own template, or a plain one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from xlab.data.chat_template import ChatTemplate
from xlab.data.tokenizers import Tokenizer
from xlab.errors import DataError
from xlab.serving.errors import RequestError, ServingError
from xlab.serving.schemas import Message

SPEAKERS = {"system": "System", "developer": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}
_RESULT = "7301946258"  # stands for what a tool gave, to see whether a template writes it


@dataclass(frozen=True)
class ChatPrompt:
    """A chat as the model is shown it.

    Attributes:
        ids: ends where the assistant's turn begins.
        text: what they say, for the log.
        stops: strings that end the turn, beside the end token.
        ends: tokens that end it, beside the end token.
    """

    ids: list[int]
    text: str
    stops: tuple[str, ...] = ()
    ends: tuple[int, ...] = ()


class PromptTemplate(Protocol):
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
    """The checkpoint's own template; see ``ChatTemplate``.

    Raises:
        ServingError: if it is no template.
    """

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        try:
            self._template = ChatTemplate(source, tokenizer)
        except DataError as error:
            raise ServingError(f"the checkpoint's chat template cannot be used: {error}") from error
        self._ends = tuple(self._template.turn_ends())

    def prompt(self, messages: Sequence[Message]) -> ChatPrompt:
        try:
            self._refuse_unwritten(messages)
            ids, text = self._template.prompt_ids((message.role, message.text) for message in messages)
        except DataError as error:
            raise RequestError(str(error), param="messages") from error
        return ChatPrompt(ids, text, ends=self._ends)

    def _refuse_unwritten(self, messages: Sequence[Message]) -> None:
        """Refuse what a tool gave where the template, which knows of no tools, would leave it out."""
        n_tools = sum(message.role == "tool" for message in messages)
        if not n_tools:
            return
        said = [(message.role, _RESULT if message.role == "tool" else message.text) for message in messages]
        if self._template.render(said, asks=True).count(_RESULT) < n_tools:
            raise DataError(
                "the model's chat template leaves out messages of the role 'tool'; say what the tool gave as the user"
            )


def template_of(source: str | None, tokenizer: Tokenizer) -> PromptTemplate:
    """The template of a checkpoint, or the plain one."""
    return PlainTemplate(tokenizer) if source is None else JinjaTemplate(source, tokenizer)
