"""Which tokens may be generated, and which one ends a text."""

import operator
from collections.abc import Iterable
from contextlib import suppress
from typing import SupportsIndex

import torch
from torch import Tensor

from xlab.errors import GenerationError
from xlab.inference import checks


class Vocabulary:
    """The token ids that a text may contain.

    Args:
        eos_class: the id that ends a text; None lets only the length end it.
        exclude_classes: ids that are never generated.

    How many ids there are is read off the first logits, and both arguments are checked against it there.
    """

    def __init__(self, eos_class: int | None = None, exclude_classes: Iterable[int] | None = None) -> None:
        self.eos_class = None if eos_class is None else _id("eos_class", eos_class)
        excluded = () if exclude_classes is None else exclude_classes  # a tensor has no truth value
        if not isinstance(excluded, Iterable):
            raise GenerationError(f"exclude_classes must be a list of token ids, got {excluded!r}")
        self.exclude_classes = sorted({_id("exclude_classes", token_id) for token_id in excluded})
        self._mask: Tensor | None = None

    def restrict(self, logits: Tensor) -> Tensor:
        """Return logits or log-probabilities (..., V) with -inf at the excluded ids.

        Raises:
            GenerationError: when an id is outside the vocabulary, or every id is excluded.
        """
        if self._mask is None:
            self._mask = self._make_mask(logits)
        # added, not filled in: a NaN at an excluded id stays a NaN, to be found
        return logits + self._mask

    def _make_mask(self, logits: Tensor) -> Tensor:
        vocab_size = logits.size(-1)
        if self.eos_class is not None:
            checks.token("eos_class is", self.eos_class, vocab_size)
        for token_id in self.exclude_classes:
            checks.token("exclude_classes contains", token_id, vocab_size)
        if len(self.exclude_classes) == vocab_size:
            raise GenerationError(f"exclude_classes contains all {vocab_size} classes; leave at least one to generate")
        mask = torch.zeros(vocab_size, dtype=logits.dtype)
        mask[self.exclude_classes] = -torch.inf
        return mask.to(logits.device)


def _id(name: str, token_id: SupportsIndex) -> int:
    with suppress(TypeError):
        if not isinstance(token_id, bool):
            return operator.index(token_id)
    raise GenerationError(f"{name} takes whole numbers, the ids of tokens, got {token_id!r}")
