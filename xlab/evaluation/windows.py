"""Score given tokens under a decoder, through windows that slide over texts of any length.

Letters: B windows, T positions, D width, V vocabulary, N scored tokens.
"""

import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from xlab.errors import ConfigError, GenerationError
from xlab.inference import checks
from xlab.transformer.decoder import Decoder

_LOGITS_AT_ONCE = 1 << 23  # 32 MB in fp32, however large the vocabulary
_BATCHES_AT_ONCE = 16

_Key = TypeVar("_Key")


class Window(NamedTuple):
    """Tokens (T + 1,) of a text: all but the last are read, and the last ``n_scored`` are predicted."""

    tokens: NDArray[np.int64]
    n_scored: int

    @property
    def targets(self) -> NDArray[np.int64]:
        """The tokens to predict, (N,)."""
        return self.tokens[len(self.tokens) - self.n_scored :]


class Score(NamedTuple):
    """What a window's scored tokens cost, in their order: nats (N,) in float64, and whether each was the likeliest."""

    nats: Tensor
    hits: Tensor


def sliding(tokens: NDArray[np.int64], *, max_len: int, stride: int) -> Iterator[Window]:
    """Score every token but the first once, in windows that begin at multiples of ``stride``.

    Each token sees all before it, or at least ``max_len - stride + 1`` of them; ``stride = max_len`` cuts the text into
    pieces that see nothing of each other.

    Raises:
        ConfigError: unless 1 ≤ ``stride`` ≤ ``max_len``.
    """
    if not 1 <= stride <= max_len:
        raise ConfigError(f"the stride must be from 1 to the context's {max_len} tokens, got {stride}")
    return _sliding(tokens, max_len, stride)


def _sliding(tokens: NDArray[np.int64], max_len: int, stride: int) -> Iterator[Window]:
    start, done = 0, 1
    while done < len(tokens):
        end = min(start + max_len + 1, len(tokens))
        yield Window(tokens[start:end], end - done)
        start, done = start + stride, end


def scores(
    decoder: Decoder, windows: Iterable[tuple[_Key, Window]], *, batch_size: int
) -> Iterator[tuple[_Key, Score]]:
    """Score windows, ``batch_size`` in a forward pass; each comes back once with its key, in another order.

    Raises:
        ConfigError: for a batch size below 1.
        GenerationError: for one beyond memory, and when the model gives a token no finite loss.
    """
    if batch_size < 1:
        raise ConfigError(f"the batch size must be at least 1, got {batch_size}")
    checks.memory(
        batch_bytes(decoder, batch_size),
        decoder.unembedding.device,
        purpose=f"a batch of {batch_size} windows of {decoder.max_len} tokens",
        remedy="give a smaller batch size",
    )
    remaining = iter(windows)
    while some := list(islice(remaining, min(_BATCHES_AT_ONCE * batch_size, sys.maxsize))):
        some.sort(key=lambda item: len(item[1].tokens))  # rows of about equal length need little padding
        for start in range(0, len(some), batch_size):
            keys, batch = zip(*some[start : start + batch_size], strict=True)
            yield from zip(keys, score(decoder, batch), strict=True)


def batch_bytes(decoder: Decoder, batch_size: int) -> int:
    """How much memory ``batch_size`` whole windows take at least: their tokens, and the activations of one layer.

    These are what goes in and comes out, and its widest product: a feed-forward layer holds two of them.
    """
    inner = max((weight.size(0) for weight in decoder.blocks.parameters() if weight.dim() == 2), default=0)
    d_model, item_size = decoder.unembedding.size(1), decoder.unembedding.element_size()
    of_token = _BATCHES_AT_ONCE * np.dtype(np.int64).itemsize + 2 * (d_model + inner) * item_size
    return batch_size * decoder.max_len * of_token


@torch.no_grad()
def score(decoder: Decoder, windows: tuple[Window, ...]) -> list[Score]:
    """Score windows in one forward pass.

    Raises:
        GenerationError: when the model gives a token no finite loss.
    """
    device = decoder.unembedding.device
    lengths = [len(window.tokens) - 1 for window in windows]
    ids = torch.zeros(len(windows), max(lengths), dtype=torch.long)  # (B, T)
    for row, (window, length) in enumerate(zip(windows, lengths, strict=True)):
        ids[row, :length] = torch.from_numpy(window.tokens[:-1])  # padded on the right: causal attention never sees it
    hidden = decoder.hidden(ids.to(device))  # (B, T, D)
    counts = [window.n_scored for window in windows]
    ends = zip(lengths, counts, strict=True)
    states = torch.cat([hidden[row, end - n : end] for row, (end, n) in enumerate(ends)])  # (N, D)
    wanted = torch.from_numpy(np.concatenate([window.targets for window in windows])).to(device)  # (N,)
    nats, hits = [], []
    n_at_once = max(1, _LOGITS_AT_ONCE // decoder.vocab_size)
    for some, targets in zip(torch.split(states, n_at_once), torch.split(wanted, n_at_once), strict=True):
        # fp32: bf16 logits lose the digits that two models differ in
        logits = decoder.logits(some).float()  # (n, V)
        nats.append(F.cross_entropy(logits, targets, reduction="none").double().cpu())
        hits.append((logits.argmax(dim=-1) == targets).cpu())
    losses = torch.cat(nats)
    if not losses.isfinite().all():
        raise GenerationError(
            "the model gives a token of the text no finite loss; its weights or activations overflowed: "
            "use an earlier checkpoint"
        )
    by_window = (x.split_with_sizes(counts) for x in (losses, torch.cat(hits)))
    return [Score(*pair) for pair in zip(*by_window, strict=True)]
