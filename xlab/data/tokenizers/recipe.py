"""How to come by a tokenizer before the first token is stored."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import ClassVar

import tokenizers

from xlab.data.digest import digest
from xlab.data.tokenizers.special_tokens import SEP, combined
from xlab.data.tokenizers.tokenizer import Tokenizer
from xlab.errors import ConfigError, DataError


class TokenizerRecipe(ABC):
    """How to come by a tokenizer before the first token is stored."""

    is_trained: ClassVar[bool] = False
    """Whether ``make`` learns from the texts. Then tokens that are stored already bring the tokenizer themselves."""

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

    def has_separator(self) -> bool:
        """Tell whether the tokenizer will have ``<|sep|>``, which parts meta from text, without being asked to."""
        return False


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

    def has_separator(self) -> bool:
        return self._tokenizer.sep_id is not None

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return self.load()


class WithSeparator(TokenizerRecipe):
    """Another recipe's tokenizer, with ``<|sep|>`` among its tokens; ``data.vocab_size`` counts it too.

    Args:
        recipe: What makes the tokenizer; one that has the token stays as it is.
    """

    def __init__(self, recipe: TokenizerRecipe) -> None:
        self._recipe = recipe

    def vocab_size_of(self, asked: int | None) -> int:
        added = self._n_added
        try:
            return added + self._recipe.vocab_size_of(None if asked is None else asked - added)
        except ConfigError as error:
            if asked is None or not added:
                raise
            raise ConfigError(
                f"With data.meta, data.vocab_size ({asked}) counts {SEP} too. Without it: {error}"
            ) from error

    def make(self, texts: Iterator[str], vocab_size: int) -> Tokenizer:
        try:
            tokenizer = self._recipe.make(texts, vocab_size - self._n_added).with_separator()
        except DataError as error:  # of a size that it cannot have, without the separator
            raise DataError(f"Beside {SEP}: {error}") from error
        if len(tokenizer) != vocab_size:
            raise DataError(f"The vocabulary has {SEP} as text already, so it cannot part meta from text; rename it.")
        return tokenizer

    def identity(self) -> str:
        return digest("WithSeparator", 1, self._recipe.identity())

    def has_separator(self) -> bool:
        return True

    @property
    def _n_added(self) -> int:
        return 0 if self._recipe.has_separator() else 1


def made_without_text(recipe: TokenizerRecipe, vocab_size: int | None, why: str) -> Tokenizer:
    """Make a tokenizer that needs no text.

    Args:
        recipe: How.
        vocab_size: The size asked of it.
        why: What cannot train one, for the message.

    Raises:
        ConfigError: when it is to be trained.
    """

    def texts() -> Iterator[str]:
        raise ConfigError(
            f"The tokenizer is to be trained, which {why} cannot do: make it first with ./manage.py train-tokenizer "
            "and the same settings, then give --data.tokenizer TokenizerFile --data.tokenizer.path tokenizer.json."
        )
        yield

    return recipe.make(texts(), recipe.vocab_size_of(vocab_size))


def fixed_size(name: str, size: int, asked: int | None) -> int:
    """Return the size of a vocabulary that cannot have another.

    Raises:
        ConfigError: when another is asked.
    """
    if asked is not None and asked != size:
        raise ConfigError(f"data.vocab_size is {asked}, but {name} has {size} tokens; set data.vocab_size to null.")
    return size
