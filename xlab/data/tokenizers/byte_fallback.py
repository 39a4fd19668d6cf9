"""Byte-pair encoding over characters, in which rare characters fall back to their bytes."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from xlab.data.digest import digest
from xlab.data.tokenizers import pre_tokenization
from xlab.data.tokenizers.byte_level import (
    MAX_CHARACTERS,
    check_max_characters,
    first_characters,
    of_size,
    trained_size,
)
from xlab.data.tokenizers.recipe import TokenizerRecipe
from xlab.data.tokenizers.special_tokens import SPECIALS
from xlab.data.tokenizers.tokenizer import Tokenizer, settle_parallelism
from xlab.errors import ConfigError

_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_SAMPLE = 1 << 24  # characters


class ByteFallbackBPE(TokenizerRecipe):
    """Byte-pair encoding over characters, trained on the corpus; a character without a token is written in bytes.

    As SentencePiece has it (Kudo and Richardson 2018, arXiv 1808.06226) with ``byte_fallback``. But a space stays a
    space: were it written as ▁, a ▁ in the text would come back as a space.

    Args:
        min_frequency: How often a pair must occur to be merged.
        pattern: Where text is cut before pairs are merged: gpt2, cl100k, o200k, or a regular expression of your own.
        digits: How many digits stay together at most; None leaves that to the pattern.
        character_coverage: The share of the text whose characters get tokens of their own, the commonest first; it is
            counted on the first 16 million characters.
        max_characters: How much of the training documents is read, from the first on. Every word that is met is kept
            until the end of training: half a gigabyte of text takes about as much memory.
    """

    is_trained = True

    def __init__(
        self,
        min_frequency: int = 2,
        pattern: str = "gpt2",
        digits: int | None = None,
        character_coverage: float = 0.9995,
        max_characters: int = MAX_CHARACTERS,
    ) -> None:
        if min_frequency < 1:
            raise ConfigError(f"min_frequency must be at least 1, got {min_frequency}.")
        if not 0 <= character_coverage <= 1:
            raise ConfigError(f"character_coverage must be from 0 to 1, got {character_coverage}.")
        pre_tokenization.check(pattern, digits)
        check_max_characters(max_characters)
        self._min_frequency = min_frequency
        self._pattern = pattern
        self._digits = digits
        self._character_coverage = character_coverage
        self._max_characters = max_characters

    def vocab_size_of(self, asked: int | None) -> int:
        return trained_size(type(self).__name__, asked)

    def make(self, texts: Iterator[str], vocab_size: int) -> Tokenizer:
        settle_parallelism()
        texts = first_characters(texts, self._max_characters)
        sample = list(first_characters(texts, _SAMPLE))
        n_free = self.vocab_size_of(vocab_size) - len(SPECIALS) - len(_BYTES)
        characters = _commonest(sample, self._character_coverage)[:n_free]
        cuts = pre_tokenizers.Sequence(pre_tokenization.splits(self._pattern, self._digits))
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = cuts
        trainer = trainers.BpeTrainer(
            vocab_size=n_free,
            min_frequency=self._min_frequency,
            initial_alphabet=characters,
            show_progress=False,
        )
        backend.train_from_iterator(_known_parts(chain(sample, texts), characters), trainer)
        trained = json.loads(backend.to_str())["model"]
        learnt = sorted(trained["vocab"], key=trained["vocab"].__getitem__)
        order = [*SPECIALS, *_BYTES, *learnt]
        backend = tokenizers.Tokenizer(
            models.BPE(
                vocab={token: token_id for token_id, token in enumerate(order)},
                merges=[tuple(merge) for merge in trained["merges"]],
                byte_fallback=True,
            )
        )
        backend.pre_tokenizer = cuts
        backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
        return of_size(Tokenizer(backend), vocab_size)

    def identity(self) -> str:
        settings = [self._min_frequency, self._pattern, self._digits, self._character_coverage, self._max_characters]
        return digest("ByteFallbackBPE", 2, *settings)


def _commonest(texts: list[str], coverage: float) -> list[str]:
    """List the characters that make up ``coverage`` of the texts, the commonest first."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    ordered = sorted(counts, key=lambda character: (-counts[character], character))
    needed = coverage * counts.total()
    for number, character in enumerate(ordered):
        if needed <= 0:
            return ordered[:number]
        needed -= counts[character]
    return ordered


def _known_parts(texts: Iterator[str], characters: list[str]) -> Iterator[str]:
    """Cut texts where a character has no token; no merge could reach over it."""
    if not characters:
        return
    known = re.compile(f"[{re.escape(''.join(characters))}]+")
    for text in texts:
        yield from known.findall(text)
