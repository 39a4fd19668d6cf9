"""Feed a model its own choices: logits after a prompt (prefill), then after each token (decode).

Letters: B rows, T positions, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from xlab.errors import GenerationError

# a torch module, or anything else that maps (B, T) token ids to (B, T, V) logits
Model = Callable[..., Any]


class Cache(Protocol):
    """What a model remembers of the positions it has seen, a row for each text."""

    def reorder(self, rows: Tensor, /) -> object:
        """Make row i what row ``rows[i]`` was; rows may repeat or be left out, so their number may change."""


@runtime_checkable
class CachedModel(Protocol):
    """A model that need not see a position twice: ``model(ids, cache)`` appends ids and returns their logits."""

    def make_cache(self, batch_size: int, max_len: int | None = None) -> Cache:
        """An empty cache for ``batch_size`` rows of up to ``max_len`` positions."""


class Stepper:
    """Rows of equal length that grow a token at a time, over a cache where the model offers one.

    While a row fits into ``block_size``, each position passes through the model once. Beyond it, every step recomputes
    the last ``block_size`` tokens: a cached position was computed from tokens that have left the window,
    so dropping its oldest entries would not give what a forward pass over the window gives.

    Args:
        model: maps (B, T) ids to (B, T, V) logits.
        block_size: the longest context that the model sees; None is no limit but the model's own ``max_len``, if it
            has one.
        max_len: the length at which rows stop growing; a cache is no longer than that.

    Raises:
        GenerationError: when a context outgrows the model, or the model returns something other than logits.
    """

    def __init__(self, model: Model, *, block_size: int | None, max_len: int) -> None:
        self.model = model
        self.block_size = max_len if block_size is None else min(block_size, max_len)
        model_max_len = getattr(model, "max_len", None)
        self.model_max_len = model_max_len if isinstance(model_max_len, int) else self.block_size
        self.cache: Cache | None = None

    def prefill(self, x: Tensor) -> Tensor:
        """Start one row from the prompt ``x`` (T,) and return the logits (1, V) after it."""
        self.ids = x.to(_device_of(self.model, x), torch.long).unsqueeze(0)  # (1, T)
        if isinstance(self.model, CachedModel) and self.ids.size(1) <= self.block_size:
            self.cache = self.model.make_cache(1, min(self.block_size, self.model_max_len))
        return self._forward(self.ids)

    def decode(self, tokens: Sequence[int], parents: Sequence[int]) -> Tensor:
        """Let row ``parents[i]`` go on with ``tokens[i]``, for each i, and return the logits (B, V) after them."""
        if list(parents) != list(range(self.ids.size(0))):
            rows = torch.tensor(parents, device=self.ids.device)
            self.ids = self.ids[rows]
            if self.cache is not None:
                self.cache.reorder(rows)
        new = torch.tensor(tokens, device=self.ids.device).unsqueeze(1)  # (B, 1)
        self.ids = torch.cat([self.ids, new], dim=1)
        return self._forward(new)

    def _forward(self, new: Tensor) -> Tensor:
        length = self.ids.size(1)
        if min(length, self.block_size) > self.model_max_len:
            raise GenerationError(
                f"a context of {length} tokens is longer than the model's max_len, {self.model_max_len}; "
                f"block_size={self.model_max_len} lets it see the last {self.model_max_len}"
            )
        if length > self.block_size:
            self.cache = None
        seen = (self.ids[:, -self.block_size :],) if self.cache is None else (new, self.cache)
        logits = self.model(*seen)
        if not isinstance(logits, Tensor) or logits.dim() != 3 or logits.size(0) != new.size(0):
            got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise GenerationError(f"the model must return logits of shape (B, T, V) for ids (B, T), got {got}")
        return logits[:, -1]


def _device_of(model: Model, x: Tensor) -> torch.device:
    """Where the model's parameters are; where ``x`` is when there are none."""
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return x.device if parameter is None else parameter.device
