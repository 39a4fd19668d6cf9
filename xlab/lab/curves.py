"""Curves of runs brought to the same places: where all of them have been, and what they had reached there.

Letters: N points of a run's series, K runs of a variant, P points of a curve that is drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xlab.lab.metrics_file import Numbers
from xlab.lab.runs import AXES, Run, Series


@dataclass(frozen=True)
class Band:
    """A metric over the runs of a variant, at steps that all of them reached.

    Attributes:
        places: by axis of ``AXES``, (P,), the mean over runs; an axis that is not known for all is left out.
        values: (K, P) of each run.
        seeds: K of them; None where they do not tell the runs apart.
    """

    places: dict[str, Numbers]
    values: Numbers
    seeds: list[int] | None


def at(series: Series, axis: str, place: float) -> float | None:
    """Give a series' value at a place, on the line between its neighbours; None outside of what it covers."""
    places = series.over(axis)
    known = np.isfinite(places) & np.isfinite(series.values)
    places, values = places[known], series.values[known]
    # a rounding away from the last validation is the last validation
    if not len(places) or not places[0] * (1 - 1e-9) <= place <= places[-1] * (1 + 1e-9):
        return None
    return float(np.interp(place, places, values))


def reached(series: Sequence[Series], axis: str) -> float | None:
    """Give the farthest place that all series reached; None where one has no such axis."""
    ends = [one.over(axis)[-1] if len(one) else np.nan for one in series]
    return float(min(ends)) if ends and np.all(np.isfinite(ends)) else None


def band(runs: Sequence[Run], metric: str, n_points: int) -> Band | None:
    """Draw runs as one curve with a band; None when no run logged the metric.

    Args:
        runs: of a variant.
        metric: what was logged.
        n_points: at most; of a series with more, a point is the mean of its neighbours.
    """
    logged = [(run.seed, thinned(run.series(metric), n_points)) for run in runs if metric in run.metrics]
    logged = [(seed, series) for seed, series in logged if len(series)]
    all_series = [series for _, series in logged]
    if not all_series:
        return None
    finest = max(all_series, key=len)
    start, end = max(one.steps[0] for one in all_series), min(one.steps[-1] for one in all_series)
    grid = finest.steps[(finest.steps >= start) & (finest.steps <= end)]
    if not len(grid):
        return None
    values = np.stack([np.interp(grid, one.steps, one.values) for one in all_series])
    places = {}
    for axis in AXES:
        over = np.stack([np.interp(grid, one.steps, one.over(axis)) for one in all_series]).mean(axis=0)
        if np.isfinite(over).all():
            places[axis] = over
    seeds = [seed for seed, _ in logged if seed is not None]
    return Band(places, values, seeds if len(set(seeds)) == len(logged) else None)


def thinned(series: Series, n_points: int) -> Series:
    """Average neighbours, so that at most ``n_points`` are left; points that are no number are dropped first."""
    known = np.isfinite(series.values)
    columns = [series.values, series.steps, series.tokens, series.seconds, series.flops]
    columns = [column[known] for column in columns]
    size = -(-len(columns[0]) // n_points)
    if size > 1:
        starts = np.arange(0, len(columns[0]), size)
        counts = np.diff(np.append(starts, len(columns[0])))
        columns = [np.add.reduceat(column, starts) / counts for column in columns]
    return Series(*columns)
