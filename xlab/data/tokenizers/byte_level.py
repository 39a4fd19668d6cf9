"""Byte-pair encoding over bytes, trained on the corpus."""

from collections.abc import Iterator

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from xlab.data.digest import digest
from xlab.data.tokenizers import pre_tokenization
from xlab.data.tokenizers.recipe import TokenizerRecipe
from xlab.data.tokenizers.special_tokens import SPECIALS
from xlab.data.tokenizers.tokenizer import Tokenizer, settle_parallelism
from xlab.errors import ConfigError, DataError

MAX_CHARACTERS = 500_000_000
_SMALLEST_VOCABULARY = 256 + len(SPECIALS)


class ByteLevelBPE(TokenizerRecipe):
    """Byte-pair encoding over UTF-8 bytes, trained on the corpus: no text is unknown to it.

    Sennrich et al. 2016, arXiv 1508.07909; over bytes as in GPT-2 (Radford et al. 2019).

    Args:
        min_frequency: How often a pair must occur to be merged.
        pattern: Where text is cut before pairs are merged: gpt2, cl100k, o200k, or a regular expression of your own.
        digits: How many digits stay together at most; None leaves that to the pattern.
        max_characters: How much of the training documents is read, from the first on. Every word that is met is kept
            until the end of training: half a gigabyte of text takes about as much memory.
    """

    is_trained = True

    def __init__(
        self,
        min_frequency: int = 2,
        pattern: str = "gpt2",
        digits: int | None = None,
        max_characters: int = MAX_CHARACTERS,
    ) -> None:
        if min_frequency < 1:
            raise ConfigError(f"min_frequency must be at least 1, got {min_frequency}.")
        pre_tokenization.check(pattern, digits)
        check_max_characters(max_characters)
        self._min_frequency = min_frequency
        self._pattern = pattern
        self._digits = digits
        self._max_characters = max_characters

    def vocab_size_of(self, asked: int | None) -> int:
        return trained_size(type(self).__name__, asked)

    def make(self, texts: Iterator[str], vocab_size: int) -> Tokenizer:
        settle_parallelism()
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = byte_level(self._pattern, self._digits)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size_of(vocab_size),
            min_frequency=self._min_frequency,
            special_tokens=SPECIALS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(first_characters(texts, self._max_characters), trainer)
        return of_size(Tokenizer(backend), vocab_size)

    def identity(self) -> str:
        return digest("ByteLevelBPE", 3, self._min_frequency, self._pattern, self._digits, self._max_characters)


def byte_level(pattern: str, digits: int | None = None) -> pre_tokenizers.PreTokenizer:
    """Cut text, and write each byte as one of 256 letters."""
    if pattern == "gpt2" and digits is None:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)  # which has that pattern built in
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*pre_tokenization.splits(pattern, digits), letters])


def check_max_characters(max_characters: int) -> None:
    """Refuse to train on nothing.

    Raises:
        ConfigError: for less than one character.
    """
    if max_characters < 1:
        raise ConfigError(f"max_characters must be at least 1, got {max_characters}.")


def first_characters(texts: Iterator[str], n_characters: int) -> Iterator[str]:
    """Pass texts on, whole ones, until there are so many characters."""
    for text in texts:
        yield text
        n_characters -= len(text)
        if n_characters <= 0:
            return


def trained_size(recipe: str, asked: int | None) -> int:
    """Check the size that is asked of a vocabulary to train.

    Raises:
        ConfigError: when none is asked, or one that has no room for every byte.
    """
    if asked is None:
        raise ConfigError(f"{recipe} is trained to a size: set data.vocab_size, for example to 8192.")
    if asked < _SMALLEST_VOCABULARY:
        raise ConfigError(
            f"data.vocab_size must be at least {_SMALLEST_VOCABULARY} (256 bytes and sos, eos, pad), got {asked}."
        )
    return asked


def of_size(tokenizer: Tokenizer, vocab_size: int) -> Tokenizer:
    """Return the tokenizer if training gave as many tokens as were asked.

    Raises:
        DataError: when the texts had no more pairs to merge.
    """
    if len(tokenizer) < vocab_size:
        raise DataError(
            f"The training texts give a vocabulary of {len(tokenizer)} tokens, not {vocab_size}. "
            f"Set data.vocab_size to at most {len(tokenizer)}, or add text."
        )
    return tokenizer
