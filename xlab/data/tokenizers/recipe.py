"""How to come by a tokenizer before the first token is stored."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property

import tokenizers

from xlab.data.digest import digest
from xlab.data.tokenizers.special_tokens import combined
from xlab.data.tokenizers.tokenizer import Tokenizer
from xlab.errors import ConfigError, DataError


class TokenizerRecipe(ABC):
    """How to come by a tokenizer before the first token is stored."""

    @abstractmethod
    def vocab_size_of(self, asked: int | None) -> int:
        """Return the vocabulary's size, known before any text is read.

        Args:
            asked: ``data.vocab_size``, or None where it is left open.

        Raises:
            ConfigError: when this recipe cannot give what is asked.
        """

    @abstractmethod
    def make(self, texts: Iterator[str], vocab_size: int) -> Tokenizer:
        """Make the tokenizer; ``texts`` are training documents, and need not be read.

        Raises:
            DataError: when the texts, or the file, cannot give this tokenizer.
        """

    @abstractmethod
    def identity(self) -> str:
        """Digest what, beside texts and size, decides the tokenizer."""


class ReadyTokenizer(TokenizerRecipe):
    """A tokenizer made elsewhere, which reads no text and has the size it has.

    Args:
        name: Where it comes from, as messages call it.
        sos_token: Which of its tokens starts a document; None looks for one by the usual names, or adds ``<|sos|>``.
        eos_token: Which one ends a document; else ``<|eos|>`` is added.
        pad_token: Which one fills what is left of a batch; else ``<|pad|>`` is added.
    """

    def __init__(
        self,
        name: str,
        *,
        sos_token: str | None = None,
        eos_token: str | None = None,
        pad_token: str | None = None,
    ) -> None:
        self._name = name
        self.sos_token, self.eos_token, self.pad_token = sos_token, eos_token, pad_token

    @abstractmethod
    def read(self) -> tuple[tokenizers.Tokenizer, dict[str, str | None]]:
        """Read the library's tokenizer, and which special tokens its files propose: ``eos_token`` and the like.

        Raises:
            DataError: when it is missing or damaged.
        """

    def load(self) -> Tokenizer:
        """Read the tokenizer, with the special tokens that were named, or else those that it proposes.

        Raises:
            DataError: when it is missing or damaged, or has not the tokens that were named.
        """
        backend, proposed = self.read()
        named = {"sos_token": self.sos_token, "eos_token": self.eos_token, "pad_token": self.pad_token}
        try:
            return Tokenizer(backend, **combined(named, proposed, backend))
        except DataError as error:
            raise DataError(f"{self._name}: {error}") from error

    def vocab_size_of(self, asked: int | None) -> int:
        return fixed_size(self._name, len(self._tokenizer), asked)

    def make(self, texts: Iterator[str], vocab_size: int) -> Tokenizer:
        self.vocab_size_of(vocab_size)
        return self._tokenizer

    def identity(self) -> str:
        return digest(type(self).__name__, 1, self._tokenizer.fingerprint)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return self.load()


def fixed_size(name: str, size: int, asked: int | None) -> int:
    """Return the size of a vocabulary that cannot have another.

    Raises:
        ConfigError: when another is asked.
    """
    if asked is not None and asked != size:
        raise ConfigError(f"data.vocab_size is {asked}, but {name} has {size} tokens; set data.vocab_size to null.")
    return size
