"""Remember which of many documents were seen, in few bytes each."""

from array import array

DIGEST_SIZE = 16
_TABLES = 256
_FIRST_SLOTS = 16


class DigestSet:
    """A set of 16-byte digests in 24 to 48 bytes each, where Python's own takes some 110.

    256 hash tables with open addressing, chosen by a digest's last byte: each grows when its time has come, so that
    growing takes neither twice the memory nor a pause.
    """

    def __init__(self) -> None:
        self._tables = [_empty(_FIRST_SLOTS) for _ in range(_TABLES)]
        self._sizes = [0] * _TABLES

    def __len__(self) -> int:
        return sum(self._sizes)

    @property
    def n_bytes(self) -> int:
        """The memory that the digests take."""
        return sum(table.itemsize * len(table) for table in self._tables)

    def add(self, digest: bytes) -> bool:
        """Put in a digest of 16 bytes; tell whether it is new."""
        low, high = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
        if not low and not high:
            high = 1 << 63  # zeros mark a free slot; a digest has a chance of 2⁻¹²⁸ to be this one
        number = high >> 56
        table = self._tables[number]
        if not _insert(table, low, high):
            return False
        self._sizes[number] += 1
        if 3 * self._sizes[number] > len(table):  # two thirds of the slots, of two numbers each
            self._tables[number] = _grown(table)
        return True


def _empty(slots: int) -> "array[int]":
    return array("Q", bytes(2 * 8 * slots))


def _insert(table: "array[int]", low: int, high: int) -> bool:
    mask = len(table) - 1
    at = 2 * low & mask
    while table[at] or table[at + 1]:
        if table[at] == low and table[at + 1] == high:
            return False
        at = at + 2 & mask
    table[at], table[at + 1] = low, high
    return True


def _grown(table: "array[int]") -> "array[int]":
    larger = _empty(len(table))  # twice as many: a slot is two numbers
    for at in range(0, len(table), 2):
        if table[at] or table[at + 1]:
            _insert(larger, table[at], table[at + 1])
    return larger
