"""The order of windows, as a function of seed, epoch and place: nothing is stored, nothing is replayed."""

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xlab.errors import ConfigError, DataError

_ROUNDS = 8
_LARGEST = 1 << 62


def order_key(seed: int, epoch: int) -> NDArray[np.uint64]:
    """Return the round keys of one epoch's order."""
    hashed = hashlib.blake2b(f"xlab order {seed} {epoch}".encode(), digest_size=8 * _ROUNDS)
    return np.frombuffer(hashed.digest(), dtype="<u8").astype(np.uint64)


def permute(indices: ArrayLike, n: int, key: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Map places to places by a keyed bijection of 0 … n − 1, in constant memory.

    A balanced Feistel network is a bijection of the next power of four (Luby & Rackoff 1988); what it sends beyond
    n goes through it again until it is back (cycle walking: Black & Rogaway 2002), fewer than four times on average.

    Args:
        indices: Integers in [0, n), of any shape.
        n: Up to 2⁶².
        key: Round keys, from ``order_key``.
    """
    if not 0 < n <= _LARGEST:
        raise ValueError(f"n must be in [1, 2**62], got {n}")
    places = np.array(indices, dtype=np.int64)
    if places.size and not 0 <= places.min() <= places.max() < n:
        raise ValueError(f"indices must be in [0, {n})")
    half_bits = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    walking = places.ravel().astype(np.uint64)
    outside = np.ones(walking.shape, dtype=bool)
    while outside.any():
        walking[outside] = _feistel(walking[outside], half_bits, key)
        outside = walking >= np.uint64(n)
    return walking.astype(np.int64).reshape(places.shape)


class TrainBatchSampler:
    """Batches of window indices in an order that only seed and epoch decide.

    The epoch's micro-batch m is places [m·B·W, (m + 1)·B·W) of the permuted order for all W ranks together, and each
    rank takes its B of them: any W with the same B·W sees the same micro-batches. An epoch holds whole optimiser steps
    of A·B·W places, so that any W, B and A with the same product see the same steps; what is left over is dropped. Only
    an epoch shorter than a step has as many micro-batches as there are.

    Args:
        n_windows: Windows in the split.
        batch_size: B, per rank.
        rank: This process.
        world_size: W.
        seed: The seed of the order.
        accumulated: A, the micro-batches of an optimiser step.

    Raises:
        DataError: when there are fewer windows than B·W.
    """

    def __init__(
        self,
        n_windows: int,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        accumulated: int = 1,
    ) -> None:
        _check(batch_size, rank, world_size)
        if n_windows < batch_size * world_size:
            raise DataError(
                f"The train split has {n_windows} windows, too few for one batch of {batch_size} on each of "
                f"{world_size} ranks. Set data.batch_size to at most {max(n_windows // world_size, 1)}, "
                "make data.seq_len smaller, or add text."
            )
        self._n_windows = n_windows
        self._batch_size = batch_size
        self._rank = rank
        self._world_size = world_size
        self._seed = seed
        self._accumulated = accumulated
        self._epoch = 0
        self._start = (0, 0)

    def __len__(self) -> int:
        """Return the batches of a whole epoch, wherever it is resumed."""
        whole = self._n_windows // (self._batch_size * self._world_size)
        return whole // self._accumulated * self._accumulated or whole

    @property
    def sampler(self) -> "TrainBatchSampler":
        """This object, where Lightning looks for ``set_epoch`` of a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self._epoch = epoch

    def resume(self, epoch: int, batch: int) -> None:
        """Let ``epoch``, and no other, begin at micro-batch ``batch``."""
        if not 0 <= batch <= len(self):
            raise DataError(f"Epoch {epoch} cannot be resumed at batch {batch}: it has {len(self)}.")
        self._epoch = epoch
        self._start = (epoch, batch)

    def __iter__(self) -> Iterator[list[int]]:
        key = order_key(self._seed, self._epoch)
        resumed_epoch, first = self._start
        for batch in range(first if self._epoch == resumed_epoch else 0, len(self)):
            start = (batch * self._world_size + self._rank) * self._batch_size
            yield permute(np.arange(start, start + self._batch_size), self._n_windows, key).tolist()


class EvalBatchSampler:
    """Batches of window indices in their order, each on one rank; −1 (an empty window) evens out the ranks.

    Args:
        n_windows: Windows in the split.
        batch_size: B, per rank.
        rank: This process.
        world_size: W.
    """

    def __init__(self, n_windows: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        _check(batch_size, rank, world_size)
        self._n_windows = n_windows
        self._batch_size = batch_size
        self._rank = rank
        self._world_size = world_size

    def __len__(self) -> int:
        return -(-self._n_windows // (self._batch_size * self._world_size))

    def __iter__(self) -> Iterator[list[int]]:
        for batch in range(len(self)):
            start = (batch * self._world_size + self._rank) * self._batch_size
            yield [i if i < self._n_windows else -1 for i in range(start, start + self._batch_size)]


def _check(batch_size: int, rank: int, world_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"data.batch_size must be at least 1, got {batch_size}.")
    if not 0 <= rank < world_size:
        raise ConfigError(f"Rank {rank} is not one of {world_size}.")


def _feistel(values: NDArray[np.uint64], half_bits: np.uint64, key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = values >> half_bits, values & mask
    for round_key in key:
        left, right = right, left ^ (_mix(right + round_key) & mask)
    joined: NDArray[np.uint64] = (left << half_bits) | right
    return joined


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scatter every bit over all others: SplitMix64's finaliser (Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return mixed
