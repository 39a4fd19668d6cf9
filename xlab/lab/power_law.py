"""Fit L(x) = E + A·x^-α to the losses of small runs, with its uncertainty, and predict larger ones.

Letters: K points, R fits at once, G exponents.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xlab.errors import DataError

Numbers = NDArray[np.float64]

_LEAST, _MOST = 0.005, 3.0  # bounds of α; what is fitted to text lies between 0.05 and 0.5
_GRID, _ZOOMS = 40, 3
_DRAWS = 1000


@dataclass(frozen=True)
class PowerLaw:
    """L(x) = E + A·(x / scale)^-α, so that A is the loss above E at ``scale``.

    Args:
        floor: E, the loss that no size gets below.
        amplitude: A, at ``scale``.
        exponent: α.
        scale: the geometric mean of the x that it was fitted to.
    """

    floor: float
    amplitude: float
    exponent: float
    scale: float

    def __call__(self, x: float) -> float:
        """Give the loss at x."""
        return float(self.floor + self.amplitude * (x / self.scale) ** -self.exponent)


@dataclass(frozen=True)
class Fit:
    """A law, and how sure it is.

    Args:
        law: the one with the least squares.
        draws: laws fitted to losses drawn about it; empty where nothing tells how far losses scatter.
        noise: standard deviation of a run's loss about the law; None where it is not known.
        free: how many parameters were fitted.
        level: of the intervals.
        remarks: what a reader must know before believing it.
    """

    law: PowerLaw
    draws: Sequence[PowerLaw]
    noise: float | None
    free: int
    level: float
    remarks: Sequence[str]

    def interval(self, x: float, *, runs: int = 1) -> tuple[float, float] | None:
        """Give where the mean loss of so many new runs at x lies, with the fit's own uncertainty; None if unknown."""
        if not self.draws or self.noise is None:
            return None
        draws = np.array([law(x) for law in self.draws])
        generator = np.random.default_rng(1)
        draws = draws + generator.normal(0.0, self.noise / runs**0.5, len(draws))
        return self._between(draws)

    def band(self, x: float) -> tuple[float, float] | None:
        """Give where the law itself lies at x; None if unknown."""
        return self._between(np.array([law(x) for law in self.draws])) if self.draws else None

    def of(self, name: str) -> tuple[float, float] | None:
        """Give the interval of ``floor``, ``amplitude`` or ``exponent``; None if unknown, or held fixed."""
        if not self.draws or (name == "floor" and self.free == 2):
            return None
        return self._between(np.array([getattr(law, name) for law in self.draws]))

    def _between(self, draws: Numbers) -> tuple[float, float]:
        low, high = np.quantile(draws, [(1 - self.level) / 2, (1 + self.level) / 2])
        return float(low), float(high)


def fit(
    x: Sequence[float], losses: Sequence[float], *, floor: float | None = None, level: float = 0.95, seed: int = 0
) -> Fit:
    """Fit the law to runs by least squares; the intervals come from losses drawn about it (a parametric bootstrap).

    Args:
        x: (K,) sizes or costs, above 0; runs of several seeds share one.
        losses: (K,) theirs.
        floor: E, if it is to be held fixed.
        level: of the intervals.
        seed: of the draws.

    Raises:
        DataError: for fewer than two different x, or a number that is none.
    """
    places, values = np.asarray(x, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if not (np.isfinite(places).all() and np.isfinite(values).all() and (places > 0).all()):
        raise DataError("a size or a loss is no positive number; leave the run that diverged out")
    distinct = len(np.unique(places))
    if distinct < 2:
        raise DataError(f"a law needs two sizes at least, and there is {distinct}; train more widths")
    remarks = []
    held = floor
    if floor is None and distinct < 4:
        held = 0.0
        remarks.append(
            f"{distinct} sizes are too few for three parameters: E is held at 0 and two are fitted, which promises "
            "too much to large models; train four widths at least, or give --floor."
        )
    scale = float(np.exp(np.log(places).mean()))
    law = _least_squares(places / scale, values[None], held, scale)[0]
    free = 3 if held is None else 2
    spread = values - np.array([law(place) for place in places])
    left = len(values) - free
    if left < 1:
        remarks.append("There are as many parameters as runs: nothing tells how sure the fit is. Train more seeds.")
        return Fit(law, [], None, free, level, remarks)
    if free == 3 and (law.floor == 0.0 or not _LEAST * 1.01 < law.exponent < _MOST / 1.01):
        remarks.append("The fit lies at the edge of what is allowed (E ≥ 0): the sizes do not show where losses end.")
    noise = float(np.sqrt((spread**2).sum() / left))
    generator = np.random.default_rng(seed)
    # σ itself is known from few runs only: drawn, too, the intervals are as wide as Student's t
    sigmas = noise * np.sqrt(left / generator.chisquare(left, _DRAWS))
    drawn = (values - spread) + generator.normal(0.0, sigmas[:, None], (_DRAWS, len(values)))
    draws = _least_squares(places / scale, drawn, held, scale)
    return Fit(law, draws, noise, free, level, remarks)


def _least_squares(z: Numbers, values: Numbers, floor: float | None, scale: float) -> list[PowerLaw]:
    """Search α alone: for each, E and A are those of a straight line, kept at 0 or above.

    Args:
        z: (K,) x, over ``scale``.
        values: (R, K) losses of R fits.
        floor: E, if it is held.
        scale: what the law is told.
    """
    rows = np.arange(len(values))
    logs = np.linspace(math.log(_LEAST), math.log(_MOST), _GRID)[None].repeat(len(values), axis=0)  # (R, G)
    for _ in range(_ZOOMS):
        best = _lines(z, values, floor, logs)[2].argmin(axis=1)
        low, high = logs[rows, np.maximum(best - 1, 0)], logs[rows, np.minimum(best + 1, _GRID - 1)]
        logs = np.linspace(low, high, _GRID, axis=1)
    least, amplitude, errors = _lines(z, values, floor, logs)
    best = errors.argmin(axis=1)
    found = np.stack([array[rows, best] for array in (least, amplitude, np.exp(logs))], axis=1)
    return [PowerLaw(floor, amplitude, exponent, scale) for floor, amplitude, exponent in found.tolist()]


def _lines(z: Numbers, values: Numbers, floor: float | None, logs: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Give E, A and the sum of squares, (R, G) each, for each logarithm of α."""
    powers = z ** -np.exp(logs)[..., None]  # (R, G, K)
    losses = values[:, None]  # (R, 1, K)
    if floor is None:
        centred = powers - powers.mean(axis=-1, keepdims=True)
        amplitude = (centred * losses).sum(axis=-1) / (centred**2).sum(axis=-1)
        least = np.broadcast_to(losses.mean(axis=-1), amplitude.shape) - amplitude * powers.mean(axis=-1)
        through_zero = (powers * losses).sum(axis=-1) / (powers**2).sum(axis=-1)
        # at an edge of what is allowed the best is on the edge
        least, amplitude = np.where(least < 0, 0.0, least), np.where(least < 0, through_zero, amplitude)
        least = np.where(amplitude < 0, losses.mean(axis=-1), least)
    else:
        amplitude = (powers * (losses - floor)).sum(axis=-1) / (powers**2).sum(axis=-1)
        least = np.full_like(amplitude, floor)
    amplitude = np.maximum(amplitude, 0.0)
    errors = ((least[..., None] + amplitude[..., None] * powers - losses) ** 2).sum(axis=-1)
    return least, amplitude, errors
