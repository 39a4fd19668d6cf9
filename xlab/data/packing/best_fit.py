"""Best-fit decreasing bin packing of many pieces at once.

Pieces of one length are placed together, so the time depends on how many lengths there are, not how many pieces
(the idea of histogram packing: Krell et al. 2021, arXiv 2107.02027).
"""

import numpy as np
from numpy.typing import NDArray


def best_fit(lengths: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
    """Give each piece a row: the longest first, each into the row with the least room that takes it (Johnson 1973).

    Args:
        lengths: of the pieces, (P,), each in [1, ``capacity``].
        capacity: of a row.

    Returns:
        (P,) the row of each piece; rows are numbered from 0 without a gap.
    """
    order = np.argsort(-lengths, kind="stable")
    rows = np.empty(len(lengths), dtype=np.int64)
    room = _Room(capacity)
    distinct, firsts, numbers = np.unique(-lengths[order], return_index=True, return_counts=True)
    for negated, first, number in zip(distinct.tolist(), firsts.tolist(), numbers.tolist(), strict=True):
        placed = 0
        while placed < number:
            taken = room.place(-negated, number - placed)
            rows[order[first + placed : first + placed + len(taken)]] = taken
            placed += len(taken)
    return rows


class _Room:
    """Rows, by how much room each has left."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._n_rows = 0
        self._rows: list[list[NDArray[np.int64]]] = [[] for _ in range(capacity + 1)]
        self._has_rows = np.zeros(capacity + 1, dtype=bool)

    def place(self, length: int, number: int) -> NDArray[np.int64]:
        """Put up to ``number`` pieces of one length into rows of equal room; return their rows."""
        fitting = np.flatnonzero(self._has_rows[length:])
        if fitting.size:
            room = length + int(fitting[0])
            rows = self._rows[room].pop()
            self._has_rows[room] = bool(self._rows[room])
        else:
            room = self._capacity
            rows = np.arange(self._n_rows, self._n_rows - (-number // (room // length)))
            self._n_rows += len(rows)
        # what is left of a row is the tightest fit for the next piece of that length, as long as it takes one
        in_a_row = room // length
        taken = np.repeat(rows, in_a_row)[:number]
        used, rest = divmod(len(taken), in_a_row)
        self._keep(rows[:used], room - in_a_row * length)
        self._keep(rows[used : used + 1] if rest else rows[:0], room - rest * length)
        self._keep(rows[used + bool(rest) :], room)
        return taken

    def _keep(self, rows: NDArray[np.int64], room: int) -> None:
        if len(rows) and room:
            self._rows[room].append(rows)
            self._has_rows[room] = True
