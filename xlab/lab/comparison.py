"""Compare variants of a run at equal tokens, operations or time, and say what can be told.

The baseline is compared with each other variant; every run counts once, by the value that its curve has at a place
that all runs reached.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from xlab.errors import ConfigError, DataError
from xlab.lab import curves, effects
from xlab.lab.comparability import Pairing, pairing
from xlab.lab.effects import Effect
from xlab.lab.run_groups import RunGroup, differing, written
from xlab.lab.runs import AXES, Run

BITS_PER_BYTE = "val/bits_per_byte"
# runs that ended so are left out: they say nothing of where they would have come to
LOST = ("failed", "not started", "waiting")


@dataclass(frozen=True)
class Place:
    """Where on the curves variants are compared.

    Attributes:
        axis: one of ``AXES``.
        amount: of it.
    """

    axis: str
    amount: float


@dataclass(frozen=True)
class Contrast:
    """A variant against the baseline.

    Attributes:
        variant: its name.
        effect: the variant's mean minus the baseline's.
        p: adjusted for the number of contrasts, by Holm's method; None for a single seed.
        is_told: whether the difference is told from chance at the level asked for.
        is_better: whether the variant's mean is the better one.
    """

    variant: str
    effect: Effect
    p: float | None
    is_told: bool
    is_better: bool


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        metric: what is compared.
        level: of confidence.
        place: where.
        baseline: the variant that the others are compared with.
        variants: those that have runs to compare, the baseline first.
        figures: for each variant, its runs' values at the place.
        contrasts: for the place's axis, and for each other axis that all runs know at the farthest place that all
            reached, what became of each variant; in the order of ``variants``.
        remarks: what a reader must know before believing it.
        left_out: runs that are not part of it, and why.
    """

    metric: str
    level: float
    place: Place
    baseline: str
    variants: list[RunGroup]
    figures: Mapping[str, list[float]]
    contrasts: Mapping[Place, list[Contrast]]
    remarks: list[str]
    left_out: list[str]

    @property
    def higher_is_better(self) -> bool:
        return higher_is_better(self.metric)


def compare(
    variants: Sequence[RunGroup],
    *,
    metric: str = BITS_PER_BYTE,
    baseline: str | None = None,
    at: tuple[str, float | None] | None = None,
    level: float = 0.95,
    allow_different_data: bool = False,
) -> Comparison:
    """Compare variants by a metric.

    Args:
        variants: two at least.
        metric: what was logged with each validation.
        baseline: a variant's name; "baseline" or "base", or else the first, if not given.
        at: an axis and how much of it; without an amount the most that all runs reached, without an axis of tokens.
        level: of confidence, in (0, 1).
        allow_different_data: compare runs that did not see the same documents, unpaired and marked.

    Raises:
        ConfigError: for a baseline or level that cannot be, or a metric that these runs cannot be compared by.
        DataError: for fewer than two variants with runs that can be compared, or runs that saw different data.
    """
    if not 0 < level < 1:
        raise ConfigError(f"--level must be between 0 and 1, such as 0.95, got {level:g}")
    first = _baseline(variants, baseline)
    kept, left_out = _usable(variants, metric, at)
    if first not in [variant.name for variant in kept] or len(kept) < 2:
        raise DataError(_too_few(first, kept, variants, left_out))
    kept.sort(key=lambda variant: variant.name != first)
    pairs = pairing(kept, metric=metric, allow_different_data=allow_different_data)
    place = _place(pairs.variants, metric, at)
    contrasts = {place: _contrasts(pairs, metric, place, level)}
    for axis in AXES:
        other = _farthest(pairs.variants, metric, axis)
        if axis not in (place.axis, "steps") and other is not None and _covers(pairs.variants, metric, other):
            contrasts[other] = _contrasts(pairs, metric, other, level)
    figures = {variant.name: [_value(run, metric, place) for run in variant.runs] for variant in pairs.variants}
    remarks = [*pairs.remarks, *_remarks(contrasts[place], pairs.variants)]
    return Comparison(metric, level, place, first, pairs.variants, figures, contrasts, remarks, left_out)


def higher_is_better(metric: str) -> bool:
    """Whether more of a metric is better, as of accuracy and speed; of losses less is."""
    return metric.rpartition("/")[2] in ("accuracy", "tokens_per_s", "mfu")


def _baseline(variants: Sequence[RunGroup], name: str | None) -> str:
    names = [variant.name for variant in variants]
    if name is not None and name not in names:
        raise ConfigError(f"--baseline {name} is none of the variants: {', '.join(names)}")
    return name or next((known for known in ("baseline", "base") if known in names), names[0])


def _usable(
    variants: Sequence[RunGroup], metric: str, at: tuple[str, float | None] | None
) -> tuple[list[RunGroup], list[str]]:
    """Leave out runs that have nothing to be compared by; say of each why."""
    kept, left_out = [], []
    for variant in variants:
        runs = []
        for run in variant.runs:
            if (why := _why_not(run, metric, at)) is None:
                runs.append(run)
            else:
                # a trial's name begins with its variant's
                name = run.name if run.name.startswith(variant.name) else f"{variant.name}, {run.name}"
                left_out.append(f"{name}: {why}")
        if runs:
            kept.append(replace(variant, runs=runs))
    return kept, left_out


def _why_not(run: Run, metric: str, at: tuple[str, float | None] | None) -> str | None:
    if run.status in LOST:
        error = run.record.get("error") or (run.trial or {}).get("error")
        return f"{run.status} after {run.step:,} steps" + (f": {error}" if error else "")
    if not run.metrics:
        return "it logged nothing"
    if metric not in run.metrics:
        return f"it did not log {metric}; it has {', '.join(run.metrics)}"
    if not math.isfinite(run.last(metric)):
        return f"its last {metric} is no number"
    if at is not None and at[1] is not None:
        series = run.series(metric)
        if curves.at(series, at[0], at[1]) is None:
            ends = series.over(at[0])[[0, -1]].tolist()
            return f"its {metric} is known from {ends[0]:g} to {ends[1]:g} {at[0]}, not at {at[1]:g}"
    return None


def _too_few(first: str, kept: list[RunGroup], variants: Sequence[RunGroup], left_out: list[str]) -> str:
    because = f" ({'; '.join(left_out[:3])}{'; …' if len(left_out) > 3 else ''})" if left_out else ""
    if len(variants) == 1:
        return (
            f"there is nothing to compare: the runs differ in no setting but seeds ({variants[0].name}); "
            "give others too, or tell them apart by NAME=PATH"
        )
    if first not in [variant.name for variant in kept]:
        return f"the baseline {first} has no run to compare{because}"
    return f"only {first} has runs to compare{because}"


def _farthest(variants: Sequence[RunGroup], metric: str, axis: str) -> Place | None:
    amount = curves.reached([run.series(metric) for variant in variants for run in variant.runs], axis)
    return None if amount is None else Place(axis, amount)


def _covers(variants: Sequence[RunGroup], metric: str, place: Place) -> bool:
    runs = [run for variant in variants for run in variant.runs]
    return all(curves.at(run.series(metric), place.axis, place.amount) is not None for run in runs)


def _place(variants: Sequence[RunGroup], metric: str, at: tuple[str, float | None] | None) -> Place:
    if at is not None and at[1] is not None:
        return Place(at[0], at[1])
    place = _farthest(variants, metric, at[0] if at else "tokens")
    if place is None and at is None:
        place = _farthest(variants, metric, "steps")
    if place is None:
        assert at is not None
        raise DataError(f"these runs cannot be compared at equal {at[0]}: not all of them logged any; use --at steps")
    if not _covers(variants, metric, place):
        raise DataError(
            f"there are no {place.axis} at which all runs were validated: one ends before another's first validation"
        )
    return place


def _value(run: Run, metric: str, place: Place) -> float:
    value = curves.at(run.series(metric), place.axis, place.amount)
    assert value is not None
    return value


def _contrasts(pairs: Pairing, metric: str, place: Place, level: float) -> list[Contrast]:
    figures = [[_value(run, metric, place) for run in variant.runs] for variant in pairs.variants]
    found = []
    for number, _ in enumerate(pairs.variants[1:], start=1):
        if pairs.shares_seeds(number):
            seeds = pairs.seeds
            before = dict(zip(seeds[0], figures[0], strict=True))
            found.append(effects.paired(before, dict(zip(seeds[number], figures[number], strict=True)), level=level))
        else:
            found.append(effects.unpaired(figures[0], figures[number], level=level))
    adjusted = effects.holm([effect.p for effect in found])
    return [
        Contrast(
            variant.name,
            effect,
            p,
            is_told=p is not None and p < 1 - level,
            is_better=(effect.difference > 0) == higher_is_better(metric) and effect.difference != 0,
        )
        for variant, effect, p in zip(pairs.variants[1:], found, adjusted, strict=True)
    ]


def _remarks(contrasts: Sequence[Contrast], variants: Sequence[RunGroup]) -> list[str]:
    found = []
    if single := [contrast.variant for contrast in contrasts if contrast.effect.method == "single"]:
        found.append(
            f"One seed only ({', '.join(single)}): there is no interval, and chance may have made the difference."
        )
    if unpaired := [contrast.variant for contrast in contrasts if contrast.effect.method == "unpaired"]:
        found.append(f"Not paired by seed ({', '.join(unpaired)}): Welch's test, which needs larger differences.")
    tested = sum(contrast.p is not None for contrast in contrasts)
    if tested > 1:
        found.append(
            f"{tested} variants are compared: Holm's correction keeps the chance of a false difference among them "
            "at the level; each interval is that of its comparison alone."
        )
    commits = {str(commit) for variant in variants for run in variant.runs if (commit := run.record.get("commit"))}
    if len(commits) > 1:
        found.append(f"The runs are of DIFFERENT CODE ({', '.join(sorted(commits))}): a difference may be the code's.")
    if lengths := differing(variants).get("data.seq_len"):
        found.append(f"Windows differ in length ({', '.join(map(written, lengths))}): a longer one shows more context.")
    ended = {"running": "is running", "interrupted": "was interrupted", "killed": "was killed"}
    for variant in variants:
        for run in variant.runs:
            if run.status in ended:
                found.append(f"{run.name} {ended[run.status]} at step {run.step:,}; all are compared where it got to.")
            if run.broken_lines:
                found.append(f"{run.name} has {run.broken_lines} lines in metrics.jsonl that cannot be read.")
    return found
