"""Remember where each of many texts was first, in few bytes a text."""

from array import array
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """A split and a number in it."""

    split: str
    number: int

    def __str__(self) -> str:
        return f"{self.split} {self.number}"


class FirstPlaces:
    """Remember where each text was first, by its digest, in 36 to 72 bytes a text.

    A hash table with open addressing of three numbers a slot: the digest's halves and the place.

    Args:
        n_slots: How many it begins with, at least 2.
    """

    def __init__(self, n_slots: int = 1 << 10) -> None:
        self._splits: list[str] = []
        self._n_slots, self._n_used = n_slots, 0
        self._slots = array("Q", bytes(24 * self._n_slots))

    def first(self, digest: bytes, place: Place) -> Place:
        """Return where this digest of 16 bytes was first: ``place``, if it was nowhere yet."""
        if place.split not in self._splits:
            self._splits.append(place.split)
        low, high = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
        # 0 marks a free slot
        packed = (place.number << 8 | self._splits.index(place.split)) + 1
        found = _find(self._slots, self._n_slots, low, high, packed) - 1
        if found == packed - 1:
            self._n_used += 1
            if 3 * self._n_used > 2 * self._n_slots:
                self._grow()
        return Place(self._splits[found & 0xFF], found >> 8)

    def _grow(self) -> None:
        larger = array("Q", bytes(24 * 2 * self._n_slots))
        for at in range(0, len(self._slots), 3):
            low, high, packed = self._slots[at : at + 3]
            if packed:
                _find(larger, 2 * self._n_slots, low, high, packed)
        self._slots, self._n_slots = larger, 2 * self._n_slots


def _find(slots: "array[int]", n_slots: int, low: int, high: int, packed: int) -> int:
    """Return the place beside a digest, which is put there if there is none."""
    slot = low % n_slots
    while slots[3 * slot + 2]:
        if slots[3 * slot] == low and slots[3 * slot + 1] == high:
            return slots[3 * slot + 2]
        slot = (slot + 1) % n_slots
    slots[3 * slot], slots[3 * slot + 1], slots[3 * slot + 2] = low, high, packed
    return packed
