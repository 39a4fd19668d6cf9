"""A table of runs: what each is and has reached, those that are asked for, in the order that is asked for."""

import fnmatch
import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

from xlab.errors import ConfigError
from xlab.lab.page_parts import NOTHING, Rows
from xlab.lab.report_plots import short
from xlab.lab.run_groups import flat, written
from xlab.lab.run_notes import read_notes
from xlab.lab.runs import Run

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_SHOWN = ("val/loss", "val/bits_per_byte")


def value(run: Run, key: str) -> Any:
    """Look a key up: name, status, tag, note, seed, step, size, minutes, a metric's last value, a setting, or a field
    of run.json, in this order; None where the run has none of the name."""
    own: dict[str, Callable[[], Any]] = {
        "name": lambda: run.name,
        "status": lambda: run.status,
        "tag": lambda: read_notes(run.folder).tags,
        "note": lambda: read_notes(run.folder).note,
        "seed": lambda: run.seed,
        "step": lambda: run.step,
        "size": lambda: run.size,
        "minutes": lambda: _minutes(run),
    }
    if key in own:
        return own[key]()
    if key in run.metrics:
        return run.last(key)
    return flat(run.settings).get(key, run.record.get(key))


def parse_filter(text: str) -> Callable[[Run], bool]:
    """Read KEY=VALUE, KEY!=VALUE, KEY<VALUE and their like; ``=`` knows * and ?, and whether a tag is among others.

    Raises:
        ConfigError: for a text that is none of these.
    """
    match = re.fullmatch(r"([\w./]+)\s*(<=|>=|!=|=|<|>)\s*(.+)", text.strip())
    if match is None:
        raise ConfigError(f"--filter {text!r} cannot be read; write status=failed, val/loss<3 or model.n_layers>=4")
    key, sign, wanted = match.groups()
    return lambda run: _holds(value(run, key), sign, wanted)


def sort(runs: Sequence[Run], key: str) -> list[Run]:
    """Order runs by a key of ``value``, after a - from the greatest; runs without one come last."""
    name = key.removeprefix("-")
    known: dict[bool, list[tuple[Any, Run]]] = {True: [], False: []}
    for run in runs:
        found = value(run, name)
        is_known = found is not None and not (isinstance(found, float) and math.isnan(found))
        known[is_known].append((found, run))
    if runs and not known[True]:
        raise ConfigError(f"--sort {name} is nothing that these runs have; try name, step, val/loss or a setting's key")
    # numbers before words, where a setting is now one and now the other
    ordered = sorted(known[True], key=lambda each: _rank(each[0]), reverse=key.startswith("-"))
    return [run for _, run in [*ordered, *known[False]]]


def rows(runs: Sequence[Run]) -> tuple[list[str], Rows]:
    """A row for each run."""
    columns = ["status", "step", *_SHOWN, "minutes", "size", "tags", "note"]
    table: Rows = []
    for run in runs:
        notes = read_notes(run.folder)
        figures = [NOTHING if math.isnan(run.last(metric)) else f"{run.last(metric):.4f}" for metric in _SHOWN]
        minutes = _minutes(run)
        spent = NOTHING if math.isnan(minutes) else f"{minutes:.1f}"
        cells = [run.status, f"{run.step:,}", *figures, spent, written_size(run), ", ".join(notes.tags), notes.note]
        table.append((run.name, cells))
    used = [i for i, _ in enumerate(columns) if i < 6 or any(cells[i] for _, cells in table)]
    return [columns[i] for i in used], [(name, [cells[i] for i in used]) for name, cells in table]


def _minutes(run: Run) -> float:
    return run.last("train_seconds") / 60


def written_size(run: Run) -> str:
    """Write what a run takes on the disk: 61.7MB."""
    return f"{short(run.size)}B"


def _holds(found: Any, sign: str, wanted: str) -> bool:
    if isinstance(found, list):
        is_in = any(_holds(each, "=", wanted) for each in found)
        return is_in if sign == "=" else not is_in if sign == "!=" else False
    if found is None:
        return sign == "!="
    try:
        return _COMPARISONS[sign](float(found), float(wanted))
    except (TypeError, ValueError):
        is_like = fnmatch.fnmatchcase(written(found).casefold(), wanted.casefold())
        return is_like if sign == "=" else not is_like if sign == "!=" else False


def _rank(found: Any) -> tuple[int, float, str]:
    is_number = isinstance(found, int | float)
    return (0, float(found), "") if is_number else (1, 0.0, written(found))
