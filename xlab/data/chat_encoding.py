"""Encode conversations: which stretches of the rendered text are answers, and what goes where one is too long."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xlab.data.chat import Chat
from xlab.data.chat_template import ChatTemplate
from xlab.data.sources.source import Document, Message
from xlab.data.tokenizers import Tokenizer
from xlab.errors import DataError

_ANSWERING = "assistant"


class Encoded(NamedTuple):
    """A conversation as it is stored.

    Attributes:
        tokens: (N,) from sos to eos.
        answers: (N,) which of them belong to answers.
        is_cut: whether something of it had to go.
    """

    tokens: NDArray[np.int64]
    answers: NDArray[np.bool_]
    is_cut: bool


@dataclass
class ConversationCounts:
    """What became of a split's conversations.

    Attributes:
        read: how many there were.
        cut: of how many something had to go.
        left_out: how many had to go as a whole.
        answer_tokens: tokens of answers that were stored.
    """

    read: int = 0
    cut: int = 0
    left_out: int = 0
    answer_tokens: int = 0

    def add(self, encoded: Encoded | None) -> None:
        """Count a conversation."""
        self.read += 1
        if encoded is None:
            self.left_out += 1
        else:
            self.cut += encoded.is_cut
            self.answer_tokens += int(encoded.answers.sum())


@dataclass(frozen=True)
class _Stretch:
    """A part of a rendered conversation: a text, or the id of a special token."""

    part: str | int
    is_answer: bool
    ends_answer: bool


class ChatEncoder:
    """Makes tokens of conversations.

    What stands before an answer is encoded as it is when the model is asked, so a model learns to go on from the very
    tokens it will be given.

    Args:
        chat: settled settings.
        tokenizer: ready.

    Raises:
        DataError: if the template is none.
    """

    def __init__(self, chat: Chat, tokenizer: Tokenizer) -> None:
        assert chat.template is not None
        assert chat.max_tokens is not None
        self._template = ChatTemplate(chat.template, tokenizer)
        self._tokenizer = tokenizer
        self._max_tokens = chat.max_tokens

    def encode(self, conversations: Sequence[Document]) -> list[Encoded | None]:
        """Encode conversations side by side; None for one that no answer is left of.

        Raises:
            DataError: when the template does not take a conversation.
        """
        stretches = []
        for conversation in conversations:
            try:
                stretches.append(list(self._stretches(conversation.messages)))
            except DataError as error:
                raise DataError(f"{conversation.place}: {error}") from error
        texts = [stretch.part for listed in stretches for stretch in listed if isinstance(stretch.part, str)]
        encoded = iter(self._tokenizer.encode_batch(texts))
        return [self._joined(listed, encoded) for listed in stretches]

    def _stretches(self, messages: Sequence[Message]) -> Iterator[_Stretch]:
        """Cut a rendered conversation where answers begin and end, and at special tokens."""
        text = self._template.render(messages, asks=False)
        edges = [0, *self._edges(text, messages), len(text)]
        for number, (start, end) in enumerate(pairwise(edges)):
            parts = list(self._template.parts(text[start:end]))
            is_last = number == len(edges) - 2 and isinstance(parts[-1] if parts else None, str)
            if is_last and str(parts[-1]).isspace():
                parts.pop()  # nothing follows that it would be parted from
            for place, part in enumerate(parts):
                is_answer = number % 2 == 1
                yield _Stretch(part, is_answer, ends_answer=is_answer and place == len(parts) - 1)

    def _edges(self, text: str, messages: Sequence[Message]) -> Iterator[int]:
        """Find where answers begin and end: from where the model is asked to where the template closes the turn."""
        for number, message in enumerate(messages):
            if message.role != _ANSWERING:
                continue
            asked = self._template.render(messages[:number], asks=True)
            answered = self._template.render(messages[: number + 1], asks=False)
            if not (answered.startswith(asked) and text.startswith(answered)):
                raise DataError(
                    f"the chat template does not write message {number} behind what came before, alike whether more "
                    "follows or not, so its place cannot be told; set data.chat.template to one that only appends"
                )
            if not answered[len(asked) :].strip():
                raise DataError(
                    f"the chat template writes nothing of message {number}, which is the assistant's, so there is "
                    "nothing to learn; set data.chat.template to one that writes every message"
                )
            yield len(asked)
            # white space behind the token that ends the turn parts it from the next, and nobody says it
            behind = answered.rstrip()
            closes = list(self._template.parts(behind[len(asked) :]))
            yield len(behind) if closes and isinstance(closes[-1], int) else len(answered)

    def _joined(self, stretches: list[_Stretch], encoded: Iterator[list[int]]) -> Encoded | None:
        tokenizer = self._tokenizer
        ids: list[int] = []
        answers: list[bool] = []
        ends: list[int] = []  # of answers, in tokens
        for stretch in stretches:
            some = [stretch.part] if isinstance(stretch.part, int) else next(encoded)
            if not ids and some[:1] != [tokenizer.sos_id]:
                ids, answers = [tokenizer.sos_id], [False]
            ids += some
            answers += [stretch.is_answer] * len(some)
            if stretch.ends_answer:
                ends.append(len(ids))
        if not ids or ids[-1] != tokenizer.eos_id:
            answers.append(bool(ends) and ends[-1] == len(ids))  # an answer at the end is learnt to end
            ids.append(tokenizer.eos_id)
            ends = [*ends[:-1], len(ids)] if answers[-1] else ends
        if len(ids) <= self._max_tokens:
            return Encoded(np.array(ids), np.array(answers), is_cut=False)
        return self._cut(ids, answers, ends)

    def _cut(self, ids: list[int], answers: list[bool], ends: list[int]) -> Encoded | None:
        """Keep as many whole turns as fit, the last an answer; of a first answer that is too long its beginning."""
        eos_id = self._tokenizer.eos_id
        for end in reversed(ends):
            kept = ids[:end] if ids[end - 1] == eos_id else [*ids[:end], eos_id]
            if len(kept) <= self._max_tokens:
                return Encoded(np.array(kept), np.array([*answers[:end], True][: len(kept)]), is_cut=True)
        kept, which = ids[: self._max_tokens], answers[: self._max_tokens]
        if not any(which):  # the prompt alone is too long
            return None
        return Encoded(np.array(kept), np.array(which), is_cut=True)
