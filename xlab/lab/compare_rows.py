"""A comparison's figures in rows, the same for the page and for the terminal."""

import math
from collections.abc import Callable

import numpy as np

from xlab.lab.comparison import Comparison, Place
from xlab.lab.page_parts import NOTHING, Rows
from xlab.lab.report_plots import short
from xlab.lab.run_groups import RunGroup, differing, written
from xlab.lab.runs import Run
from xlab.lab.verdict import decimals, difference, p_value


def figures(comparison: Comparison) -> tuple[list[str], Rows]:
    """What each variant reached, and what it cost."""
    contrasts = {contrast.variant: contrast for contrast in comparison.contrasts[comparison.place]}
    columns = ["seeds", "mean", "difference", "p", *_COSTS]
    digits = figure_digits(comparison)
    rows: Rows = []
    for variant in comparison.variants:
        values, contrast = comparison.figures[variant.name], contrasts.get(variant.name)
        against = ["baseline", NOTHING] if contrast is None else [difference(contrast), p_value(contrast.p)]
        costs = [_mean(variant, cost) for cost in _COSTS.values()]
        shown = [NOTHING if math.isnan(cost) else short(cost) for cost in costs]
        rows.append((variant.name, [str(len(values)), f"{np.mean(values):.{digits}f}", *against, *shown]))
    # a cost that nobody logged is no column
    known = [i for i in range(len(columns)) if i < 4 or any(cells[i] != NOTHING for _, cells in rows)]
    return [columns[i] for i in known], [(name, [cells[i] for i in known]) for name, cells in rows]


def effects(comparison: Comparison, place: Place) -> tuple[list[str], Rows]:
    """What each variant changes at a place."""
    rows = [(each.variant, [difference(each), p_value(each.p)]) for each in comparison.contrasts[place]]
    return ["difference", "p"], rows


def settings(comparison: Comparison) -> Rows:
    """The settings that differ, in the variants' order."""
    return [(key, [written(value) for value in values]) for key, values in differing(comparison.variants).items()]


def runs(comparison: Comparison) -> tuple[list[str], Rows]:
    """Every run: its seed, its end, and what it was made of."""
    rows: Rows = []
    digits = figure_digits(comparison)
    for variant in comparison.variants:
        for run, value in zip(variant.runs, comparison.figures[variant.name], strict=True):
            seed = NOTHING if run.seed is None else str(run.seed)
            data, commit = run.data_fingerprint or NOTHING, run.record.get("commit") or NOTHING
            cells = [seed, f"{value:.{digits}f}", run.status, f"{run.step:,}", data[:8], str(commit)[:8]]
            rows.append((str(run.folder), cells))
    return ["seed", comparison.metric.rpartition("/")[2].replace("_", " "), "status", "steps", "data", "code"], rows


def figure_digits(comparison: Comparison) -> int:
    """How many decimals of a variant's mean tell it from the others'."""
    means = [float(np.mean(values)) for values in comparison.figures.values()]
    return decimals((max(means) - min(means)) / 10 or 1)


def _mean(variant: RunGroup, cost: Callable[[Run], float]) -> float:
    known = [value for run in variant.runs if not math.isnan(value := cost(run))]
    return float(np.mean(known)) if known else math.nan


def _tokens_per_second(run: Run) -> float:
    if "tokens_per_s" not in run.metrics:
        return math.nan
    # the median: the first steps are slow, and a machine has other work at times
    return float(np.nanmedian(run.series("tokens_per_s").values))


def _recorded(key: str) -> Callable[[Run], float]:
    return lambda run: float(run.record.get(key) or math.nan)


_COSTS: dict[str, Callable[[Run], float]] = {
    "tokens/s": _tokens_per_second,
    "minutes": lambda run: run.last("train_seconds") / 60,
    "parameters": _recorded("parameters"),
    "FLOPs/token": _recorded("flops_per_token"),
    "peak memory": _recorded("peak_memory_bytes"),
}
