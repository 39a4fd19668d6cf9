"""Conversations as tokens, and which of them are the assistant's: what supervised fine-tuning learns.

A conversation is stored as its template writes it, between sos and eos; beside the tokens stands for each whether it
belongs to an answer. Letters: N tokens, P stretches of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xlab.data.chat_template import PLAIN
from xlab.data.digest import digest
from xlab.data.token_reader import TokenReader
from xlab.errors import ConfigError

ANSWERS = "answers"  # train.answers.bin says of each token in train.bin whether it is one


@dataclass(frozen=True)
class Chat:
    """How conversations become tokens, and what of them counts.

    Args:
        template: a file with a chat template (Jinja, as Hugging Face's), or the template itself; left out, that of the
            model that the run starts from, and else a plain script.
        prompt_in_loss: whether all of a conversation is predicted, or the assistant's answers alone.
        max_tokens: the most tokens of a conversation, its sos and eos among them: of longer ones the last turns go, and
            of a first answer that is too long its end; left out, as many as one window takes.
    """

    template: str | None = None
    prompt_in_loss: bool = False
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 3:
            raise ConfigError(
                f"data.chat.max_tokens must be at least 3, for sos, an answer and eos; got {self.max_tokens}."
            )

    def settled(self, seq_len: int) -> "Chat":
        """Fill in what was left out, and read the template: settings that need no file any more.

        Raises:
            ConfigError: when the template's file cannot be read, or is none.
        """
        most = seq_len + 1 if self.max_tokens is None else self.max_tokens
        return replace(self, template=PLAIN if self.template is None else _template(self.template), max_tokens=most)

    def identity(self) -> str:
        """Digest what decides the tokens; ``prompt_in_loss`` does not."""
        return digest("Chat", 1, self.template, self.max_tokens)

    def description(self) -> dict[str, Any]:
        """What prepared data tell of how they were made."""
        return {"template": self.template, "max_tokens": self.max_tokens}


def same_chat(description: Mapping[str, Any], chat: Chat | None) -> bool:
    """Tell whether prepared data, by their description, hold conversations as these settings want them."""
    return bool(description.get("chat") == (None if chat is None else chat.description()))


@dataclass(frozen=True)
class AnswerPlaces:
    """Finds the tokens that are no answers, and so are given.

    Args:
        answers: of each token of the documents, whether it belongs to an answer.
    """

    answers: TokenReader

    def within(self, store: TokenReader, starts: ArrayLike, lengths: ArrayLike) -> NDArray[np.bool_]:
        """Tell which tokens of some stretches of a store are given.

        Args:
            store: The documents, as many tokens as ``answers`` has.
            starts: (P,) the stretches' first places in the stream.
            lengths: (P,) how many tokens they have; they may reach over the stream's ends.

        Returns:
            (sum of lengths,), the stretches one after the other.
        """
        firsts, sizes = np.asarray(starts, dtype=np.int64), np.asarray(lengths, dtype=np.int64)
        before = np.cumsum(sizes) - sizes
        places = np.arange(int(sizes.sum())) + np.repeat(firsts - before, sizes)
        given = np.zeros(len(places), dtype=np.bool_)
        inside = (places >= 0) & (places < store.n_tokens)
        given[inside] = self.answers.gather(places[inside]) == 0
        return given


def last_answer(is_answer: NDArray[Any]) -> int:
    """Return where the last answer of a stored conversation begins: after what a model is asked; 1 if there is none."""
    begins = np.flatnonzero(np.diff(np.asarray(is_answer, dtype=np.int8), prepend=np.int8(0)) == 1)
    return int(begins[-1]) if len(begins) else 1


def _template(template: str) -> str:
    if "{{" in template or "{%" in template:
        return template
    path = Path(template).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"data.chat.template: {path} cannot be read: {reason}; name a file of Jinja.") from error
    if "{{" not in text and "{%" not in text:
        raise ConfigError(f"data.chat.template: {path} holds no Jinja; a template writes {{{{ message.content }}}}.")
    return text
