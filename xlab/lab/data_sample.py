"""Count distinct things among many in bounded memory: by a sample of their hashes that halves when it grows too big."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_CAPACITY = 1 << 20  # a million distinct hashes, 16 MB


@dataclass(frozen=True)
class Share:
    """A part of a whole, both counted on a sample: 1 in ``one_in`` by hash; of everything if that is 1."""

    part: int
    whole: int
    one_in: int = 1

    @property
    def value(self) -> float:
        """From 0 to 1; 0 where there was nothing to count."""
        return self.part / self.whole if self.whole else 0.0

    @property
    def is_exact(self) -> bool:
        return self.one_in == 1


class HashSample:
    """Distinct 64-bit hashes and how often each came.

    While there are no more than ``capacity``, all are kept, and what is counted is exact. From then on only hashes
    that end in one zero bit are kept, then two, and so on: one distinct thing in 2, in 4 … *with all its occurrences*,
    so that shares of the sample estimate shares of the whole (Wegman's adaptive sampling; Flajolet 1990).

    Args:
        capacity: Distinct hashes to keep at most. Memory is 16 bytes for each, and as much again while it grows.
    """

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._capacity = capacity
        self._zero_bits = 0
        self._hashes = np.empty(0, dtype=np.uint64)  # sorted
        self._counts = np.empty(0, dtype=np.int64)
        self._waiting: list[Hashes] = []
        self._n_waiting = 0

    def add(self, hashes: Hashes) -> None:
        """Count hashes (N,), which must be as good as random in their last bits."""
        kept = self.sampled(hashes)
        self._waiting.append(kept)
        self._n_waiting += len(kept)
        if self._n_waiting >= max(self._capacity // 2, 1):
            self._settle()

    def sampled(self, hashes: Hashes) -> Hashes:
        """Return those of (N,) hashes that the sample is of."""
        return hashes[self.is_sampled(hashes)] if self._zero_bits else hashes

    def is_sampled(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Tell which of (N,) hashes those are."""
        kept: NDArray[np.bool_] = hashes & np.uint64(self.one_in - 1) == 0
        return kept

    @property
    def one_in(self) -> int:
        """1 while everything is kept, then 2, 4 …"""
        return 1 << self._zero_bits

    @property
    def hashes(self) -> Hashes:
        """The distinct hashes of the sample, sorted."""
        self._settle()
        return self._hashes

    def repeated(self) -> Share:
        """The share of occurrences that had come before."""
        self._settle()
        n_occurrences = int(self._counts.sum())
        return Share(n_occurrences - len(self._hashes), n_occurrences, self.one_in)

    def _settle(self) -> None:
        """Sort what waits into what is kept, and halve the sample until it fits."""
        if self._n_waiting:
            new, counts = np.unique(self.sampled(np.concatenate(self._waiting)), return_counts=True)
            everything = np.concatenate([self._hashes, new])
            order = np.argsort(everything, kind="stable")
            everything = everything[order]
            first = np.flatnonzero(np.concatenate([[True], everything[1:] != everything[:-1]])[: len(everything)])
            totals = np.concatenate([self._counts, counts])[order]
            self._hashes = everything[first]
            self._counts = np.add.reduceat(totals, first) if len(first) else totals
            self._waiting, self._n_waiting = [], 0
        while len(self._hashes) > self._capacity:
            self._zero_bits += 1
            kept = self.is_sampled(self._hashes)
            self._hashes, self._counts = self._hashes[kept], self._counts[kept]


class Sought:
    """Which hashes of one sample come by in other data; memory does not grow with the others.

    Args:
        sample: Of the data that are looked for; complete.
    """

    def __init__(self, sample: HashSample) -> None:
        self._sample = sample
        self._hashes = sample.hashes
        self._found = np.zeros(len(self._hashes), dtype=bool)
        self.one_in = sample.one_in

    def see(self, hashes: Hashes) -> None:
        """Look at hashes (N,) of the other data."""
        hashes = self._sample.sampled(hashes)
        places, known = self._places(hashes)
        self._found[places[known]] = True

    def askable(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Tell of (N,) hashes which ones the sample is of."""
        return self._sample.is_sampled(hashes)

    def was_seen(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Tell of (N,) hashes of the sample which ones were seen in the other data."""
        places, known = self._places(hashes)
        seen = np.zeros(len(hashes), dtype=bool)
        seen[known] = self._found[places[known]]
        return seen

    def _places(self, hashes: Hashes) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        if not len(self._hashes):
            return np.zeros(len(hashes), dtype=np.int64), np.zeros(len(hashes), dtype=bool)
        places = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        return places, self._hashes[places] == hashes
