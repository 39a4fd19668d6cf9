"""The generation loop: a model gives logits, a strategy chooses, the chosen rows go on.

Letters: B rows, V vocabulary.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from xlab.inference import checks
from xlab.inference.stepper import Model, Stepper


class Step(NamedTuple):
    """What a strategy chose: row ``parents[i]`` goes on with ``tokens[i]``; without any, generation ends."""

    tokens: list[int]
    parents: list[int]


class Strategy(Protocol):
    """A way of choosing. It keeps what it needs between steps, and only it knows what it has generated."""

    def choose(self, logits: Tensor) -> Step:
        """Choose from the logits (B, V) of the rows that the step before left."""


def generate(model: Model, x: Tensor, output_length: int, block_size: int | None, strategy: Strategy) -> Iterator[Step]:
    """Yield the strategy's steps as they are made, ``output_length`` at most.

    The arguments are checked at the call; the model first runs when the first step is asked for. Leaving the iterator
    early costs nothing. The model's train or eval mode is left alone: pass one in eval mode, or dropout speaks too.

    Args:
        model: maps (B, T) ids to (B, T, V) logits; a ``CachedModel`` is driven over its cache.
        x: (T,) ids of the prompt, not empty.
        output_length: new tokens at most, ≥ 0.
        block_size: the longest context that the model sees: the last ``block_size`` tokens; None is no limit.
        strategy: chooses, and says when to end.

    Raises:
        GenerationError: for a prompt or a number that cannot be, or logits that nothing can be chosen from.
    """
    checks.prompt(x)
    output_length = checks.count("output_length", output_length, least=0, remedy="it is the number of new tokens")
    if block_size is not None:
        block_size = checks.count("block_size", block_size, least=1, remedy="None sets no limit")
    vocab_size = getattr(model, "vocab_size", None)
    checks.prompt_ids(x, vocab_size if isinstance(vocab_size, int) else None)
    # the last token is never fed back
    stepper = Stepper(model, block_size=block_size, max_len=x.numel() + max(output_length - 1, 0))
    return _steps(stepper, x, output_length, strategy)


# not inference_mode: a table that a module fills on first use here could not take part in training afterwards
@torch.no_grad()
def _steps(stepper: Stepper, x: Tensor, output_length: int, strategy: Strategy) -> Iterator[Step]:
    if not output_length:
        return
    logits = stepper.prefill(x)
    checks.prompt_ids(x, logits.size(-1))
    for taken in range(1, output_length + 1):
        step = strategy.choose(logits)
        yield step
        if not step.tokens or taken == output_length:
            return
        logits = stepper.decode(step.tokens, step.parents)
