"""Guess the next tokens of a text, so that one pass over the model can settle several of them.

Every token is still drawn from the model's own logits, by the text's own filters and generator: a guess only says what
the model should look at beyond the last token, and counts as long as what is drawn agrees with it. So the text is the
very text that would have been written without guesses, greedy or drawn (up to the rounding of a pass over more tokens).

Prompt look-up: Saxena 2023; draft models: Leviathan et al. 2022, arXiv 2211.17192. Here model and draft draw with the
same random numbers, so that they agree as often as their distributions let them (as in Daliri et al. 2024, arXiv
2408.07978), and no guess needs to be corrected.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from xlab.errors import GenerationError
from xlab.inference import checks
from xlab.inference.drawing import draw
from xlab.inference.filters import LogitFilter
from xlab.inference.rows import Row
from xlab.inference.sampling import Text
from xlab.inference.shaping import Constrained
from xlab.inference.slots import Slots
from xlab.inference.weights import Precision, prepare
from xlab.transformer.decoder import Decoder


class Guesser(Protocol):
    """Guesses how a text goes on, in one engine: it may remember the text that it guessed for last."""

    def guess(self, row: Row, text: Text, limit: int) -> list[int]:
        """Up to ``limit`` tokens that may follow ``row.ids``."""


def guesses_of(guesser: Guesser, vocab_size: int) -> Callable[[Row, Text, int], list[int]]:
    """What a guesser guesses, as the scheduler asks for it.

    Raises:
        GenerationError: at the call, when it is no guesser; later, for a guess that is no token of the model's.
    """
    if isinstance(guesser, type) or not callable(getattr(guesser, "guess", None)):
        raise GenerationError(f"guesser must be an object with guess, such as PromptLookup(), got {guesser!r}")

    def guess(row: Row, text: Text, limit: int) -> list[int]:
        guesses = list(guesser.guess(row, text, limit))[:limit]
        checks.ids("a guess", guesses, vocab_size)
        return guesses

    return guess


class PromptLookup:
    """What followed the last time that the last tokens occurred, in prompt or text.

    Args:
        n_tokens: tokens to guess at most.
        longest: tokens that must agree, tried first.
        shortest: tokens that must agree, tried last.

    Raises:
        GenerationError: for numbers below 1, or a shortest above the longest.
    """

    def __init__(self, n_tokens: int = 7, *, longest: int = 3, shortest: int = 2) -> None:
        checks.count("n_tokens", n_tokens, least=1, remedy="it is the number of tokens to guess")
        self.n_tokens = n_tokens
        checks.count("shortest", shortest, least=1, remedy="it is the number of tokens that must agree")
        checks.count("longest", longest, least=1, remedy="it is the number of tokens that must agree")
        if longest < shortest:
            raise GenerationError(f"longest is {longest}, below shortest, {shortest}; it is tried first")
        self.lengths = range(longest, shortest - 1, -1)
        self._row: Row | None = None
        self._after: dict[tuple[int, ...], int] = {}  # where the text went on after these tokens, the last time
        self._n_seen = 0

    def guess(self, row: Row, text: Text, limit: int) -> list[int]:
        if row is not self._row:
            self._row, self._after, self._n_seen = row, {}, 1
        ids = row.ids
        for place in range(self._n_seen, len(ids)):  # what follows ids[:place] begins at place
            for length in self.lengths:
                if length <= place:
                    self._after[tuple(ids[place - length : place])] = place
        self._n_seen = len(ids)
        for length in self.lengths:
            if (start := self._after.get(tuple(ids[-length:]))) is not None:
                period = len(ids) - start  # past the end the guess repeats itself
                return [ids[start + i % period] for i in range(min(limit, self.n_tokens))]
        return []


class DraftModel:
    """What a smaller model of the same vocabulary would write.

    Args:
        decoder: of the draft.
        n_tokens: tokens to guess at most.
        dtype: to decode in, as the engine's.

    Raises:
        GenerationError: for numbers below 1, or a cache larger than the memory that is free.
    """

    def __init__(self, decoder: Decoder, n_tokens: int = 4, *, dtype: Precision = "keep") -> None:
        checks.count("n_tokens", n_tokens, least=1, remedy="it is the number of tokens to guess")
        self.n_tokens = n_tokens
        self.vocab_size = decoder.vocab_size
        prepared = prepare(decoder, dtype)
        purpose = f"the draft model's cache of {decoder.max_len} tokens"
        checks.memory(decoder.cache_bytes(1, dtype=prepared.dtype), decoder.embedding.weight.device, purpose=purpose)
        cache = prepared.decoder.make_cache(1, dtype=prepared.dtype)
        self.slots = Slots(prepared.decoder, cache, project=prepared.project)
        self._row: Row | None = None  # the text's, which `_own` follows
        self._own: Row | None = None

    def guess(self, row: Row, text: Text, limit: int) -> list[int]:
        limit = min(limit, self.n_tokens, self.slots.cache.capacity - len(row.ids) + 1)  # the last is never fed
        if limit < 1:
            return []
        own = self._follow(row)
        twin = _Twin(text)
        guesses: list[int] = []
        while len(guesses) < limit:
            _, logits = self.slots.feed()
            if logits is None:  # a chunk of a prompt
                continue
            guesses.append(draw(logits, [twin])[0].token)
            twin.tokens.append(guesses[-1])
            own.ids.append(guesses[-1])
            if guesses[-1] in text.eos_ids:
                break
        return guesses

    def _follow(self, row: Row) -> Row:
        """The draft's own row, which holds what it has seen of the text's and nothing else."""
        if self._own is None or row is not self._row:
            if self._own is not None:
                self.slots.close(self._own)
            self._row, self._own = row, self.slots.open(row.ids, None)
            return self._own
        own = self._own
        alike = own.held
        while own.ids[:alike] != row.ids[:alike]:  # guesses that did not come true; there are few
            alike -= 1
        own.ids, own.held = list(row.ids), min(alike, len(row.ids) - 1)
        return own


class _Twin:
    """A text as the draft writes it on: the same history, filters and random numbers, and nothing of it is kept."""

    def __init__(self, text: Text) -> None:
        self.prompt, self.tokens = text.prompt, list(text.tokens)
        self.filters: tuple[LogitFilter, ...] = text.filters
        self.generator = None if text.generator is None else _copy(text.generator)
        self.n_logprobs: int | None = None
        # what a grammar forbids, the model's own draw will refuse
        self.shapers = [shaper for shaper in text.shapers if not isinstance(shaper, Constrained)]

    @property
    def shapes(self) -> bool:
        return bool(self.shapers)

    def shape(self, logits: Tensor) -> Tensor:
        logits = logits.clone()
        for shaper in self.shapers:
            logits = shaper(logits, self)
        return logits


def _copy(generator: torch.Generator) -> torch.Generator:
    twin = torch.Generator(generator.device)
    twin.set_state(generator.get_state())
    return twin
