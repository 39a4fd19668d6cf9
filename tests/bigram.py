"""An interpolated bigram, the least that a trained model must beat."""

import numpy as np
from numpy.typing import NDArray


def bigram_loss(train: NDArray[np.integer], held_out: NDArray[np.integer], vocab_size: int, start: int) -> float:
    """Give the mean loss, in nats, of the best mix of bigram, unigram and uniform on ``held_out``.

    The weights are chosen on ``held_out`` itself, which favours the bigram. ``start`` is given, not predicted, as in
    XLab's own figures.
    """
    train, held_out = train.astype(np.int64), held_out.astype(np.int64)
    unigram = np.bincount(train, minlength=vocab_size) / len(train)
    pairs, counts = np.unique(train[:-1] * vocab_size + train[1:], return_counts=True)
    firsts = np.bincount(train[:-1], minlength=vocab_size)
    wanted = held_out[1:] != start
    before, after = held_out[:-1][wanted], held_out[1:][wanted]
    places = np.minimum(np.searchsorted(pairs, before * vocab_size + after), len(pairs) - 1)
    seen = np.where(pairs[places] == before * vocab_size + after, counts[places], 0)
    bigram = seen / np.maximum(firsts[before], 1)
    weights = np.linspace(0.05, 0.95, 19)
    losses = [
        -np.log(share * bigram + (1 - share) * (0.98 * unigram[after] + 0.02 / vocab_size)).mean() for share in weights
    ]
    return float(min(losses))
