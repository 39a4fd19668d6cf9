"""What a variant changes, with its uncertainty: the seed is the sample, never the step.

Letters: K seeds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Method = Literal["paired", "unpaired", "single"]


@dataclass(frozen=True)
class Effect:
    """A variant's mean minus the baseline's, at one place of the curves.

    Attributes:
        difference: of the means.
        half_width: of the confidence interval; None for a single seed.
        p: of Student's t, or Welch's, two-sided; None for a single seed.
        n: seeds, or pairs of them; of two groups the smaller.
        method: "paired" by seed; "unpaired", Welch's; "single", no interval.
    """

    difference: float
    half_width: float | None
    p: float | None
    n: int
    method: Method

    @property
    def interval(self) -> tuple[float, float] | None:
        """The confidence interval's ends."""
        if self.half_width is None:
            return None
        return self.difference - self.half_width, self.difference + self.half_width


def paired(baseline: Mapping[int, float], variant: Mapping[int, float], *, level: float) -> Effect:
    """Compare by seed: (K,) differences and Student's t of them.

    Args:
        baseline: a figure for each seed.
        variant: the same; only seeds that both have count, of which there must be one.
        level: of confidence, such as 0.95.
    """
    seeds = sorted(baseline.keys() & variant.keys())
    differences = np.array([variant[seed] - baseline[seed] for seed in seeds])
    mean = float(differences.mean())
    if len(seeds) == 1:
        return Effect(mean, None, None, 1, "single")
    error = float(differences.std(ddof=1)) / math.sqrt(len(seeds))
    return _by_t(mean, error, len(seeds) - 1, n=len(seeds), method="paired", level=level)


def unpaired(baseline: Sequence[float], variant: Sequence[float], *, level: float) -> Effect:
    """Compare two groups of runs that have no seed in common, by Welch's t (Welch 1947).

    Args:
        baseline: (K,) a figure for each run, one at least.
        variant: the same, of another number perhaps.
        level: of confidence.
    """
    one, other = np.asarray(baseline, dtype=float), np.asarray(variant, dtype=float)
    mean, n = float(other.mean() - one.mean()), min(len(one), len(other))
    if n == 1:
        return Effect(mean, None, None, 1, "single")
    errors = one.var(ddof=1) / len(one), other.var(ddof=1) / len(other)
    # the degrees of freedom of Welch and Satterthwaite
    spread = errors[0] ** 2 / (len(one) - 1) + errors[1] ** 2 / (len(other) - 1)
    freedom = sum(errors) ** 2 / spread if spread else 1.0
    return _by_t(mean, math.sqrt(sum(errors)), float(freedom), n=n, method="unpaired", level=level)


def _by_t(mean: float, error: float, freedom: float, *, n: int, method: Method, level: float) -> Effect:
    """Test a mean of this standard error by Student's distribution."""
    if error <= 1e-13 * abs(mean):  # runs that differ by rounding alone
        return Effect(mean, 0.0, 1.0 if mean == 0 else 0.0, n, method)
    from scipy import stats

    half_width = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    return Effect(mean, half_width, float(2 * stats.t.sf(abs(mean) / error, freedom)), n, method)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values for their number, so that all are kept at once (Holm 1979); None stays None."""
    known = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    highest = 0.0
    for rank, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        adjusted[i] = highest
    return adjusted
