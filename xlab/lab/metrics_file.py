"""Read metrics.jsonl into columns, whatever state a run has left it in.

Letters: N rows that have a metric.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Columns = dict[str, tuple[Numbers, Numbers]]  # of each metric (N,) optimiser steps done, and (N,) values


def read_columns(path: Path) -> tuple[Columns, int]:
    """Give a file's columns, and how many of its lines are broken; a last line that is just being written is none.

    The file counts steps from 0, as Lightning does: what it calls step 9 is known after ten of them.
    """
    rows, n_broken = _rows(path)
    # rows of the same keys become columns at once, which takes a tenth of the time of one number after the other
    shapes: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        shapes.setdefault(tuple(row), []).append(row)
    parts: dict[str, list[tuple[Numbers, Numbers]]] = {}
    for keys, alike in shapes.items():
        columns = dict(zip(keys, zip(*(row.values() for row in alike), strict=True), strict=True))
        steps, are_steps = _numbers(columns.pop("step", (None,) * len(alike)))
        for key, column in columns.items():
            values, are_numbers = _numbers(column)
            known = are_steps & are_numbers
            if known.any():
                parts.setdefault(key, []).append((steps[known] + 1, values[known]))
    return {key: _in_order(found) for key, found in parts.items()}, n_broken


def _in_order(parts: list[tuple[Numbers, Numbers]]) -> tuple[Numbers, Numbers]:
    steps, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(steps, kind="stable")
    return steps[order], values[order]


def _numbers(column: tuple[Any, ...]) -> tuple[Numbers, NDArray[np.bool_]]:
    """Give a column's numbers, and where it has any."""
    with contextlib.suppress(ValueError, OverflowError):  # lists of several lengths, whoever logged them
        found = np.array(column)
        if found.dtype.kind in "fi" and found.ndim == 1:
            return found.astype(np.float64), np.ones(len(column), dtype=np.bool_)
    known = [isinstance(value, int | float) for value in column]
    numbers = [value if is_known else np.nan for value, is_known in zip(column, known, strict=True)]
    return np.array(numbers, dtype=np.float64), np.array(known, dtype=np.bool_)


def _rows(path: Path) -> tuple[list[dict[str, Any]], int]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return [], 0
    if lines and _row(lines[-1]) is None:
        lines.pop()
    try:
        # one call for all lines takes a third of the time of one call for each
        rows = json.loads(b"[" + b",".join(lines) + b"]")
    except ValueError:
        rows = [_row(line) for line in lines]
    whole = [row for row in rows if isinstance(row, dict)]
    return whole, len(rows) - len(whole)


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
