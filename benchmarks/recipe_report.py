"""From the runs of ``recipe_quality`` to its figures, and from its figures to a table."""

from dataclasses import asdict
from statistics import mean
from typing import Any

import numpy as np

from benchmarks.layout import as_columns, as_markdown_table
from benchmarks.recipe_speed import Speed, cost
from xlab.errors import XLabError
from xlab.lab import curves, effects
from xlab.lab.ablation import Ablation
from xlab.lab.comparison import compare
from xlab.lab.effects import Effect
from xlab.lab.overrides import folder_name
from xlab.lab.run_groups import find_groups
from xlab.lab.runs import Run
from xlab.lab.verdict import signed, verdicts

Report = dict[str, Any]

HEADINGS = ("recipe", "bits per byte", "by seed", "rate", "tokens/s", "minutes", "parameters")
METRIC = "val/bits_per_byte"
OURS, TARGET = "xlab", "nanogpt"
MARKS = {"tokens": 0.25, "seconds": 0.35}  # the share of the target's, within which its last figure is to be reached
LEVEL = 0.95  # of confidence


def figures(ablation: Ablation, speed: Speed | None) -> dict[str, Any]:
    """Sum the runs up, in plain data.

    Args:
        ablation: all of its runs over.
        speed: what a token takes each recipe; None leaves out what is said of time.
    """
    results = ablation.results()
    groups = find_groups([str(ablation.folder)])
    runs = {group.name: [run for run in group.runs if METRIC in run.metrics] for group in groups}
    # a recipe with a single rate chose none
    only = {member.variant.name: folder_name(member.choice) for member in ablation.plan.members}
    rates = {result.variant: (result.choice or only[result.variant]).partition("=")[2] for result in results}
    failed = [f"{result.variant} seed {result.seed}: {result.error}" for result in results if result.figure is None]
    costs = {name: None if speed is None else cost(speed, name) for name in rates}
    entries = {name: _entry(runs.get(name, []), rates[name], costs[name]) for name in rates}
    said: list[str] = []
    try:
        comparison = compare(groups, baseline=OURS if OURS in runs else None)
        said = [*comparison.remarks, *verdicts(comparison)]
    except XLabError as error:
        said = [f"no comparison: {error}"]
    pair = runs.get(OURS, []), runs.get(TARGET, [])
    shares = {"tokens": reach(*pair), "seconds": None}
    equal_time = {}
    if speed is not None and OURS in runs:
        ours = cost(speed, OURS)
        if TARGET in runs:
            shares["seconds"] = reach(*pair, costs=(ours, cost(speed, TARGET)))
        for name in [rival for rival in runs if rival != OURS]:
            if effect := at_equal_time(runs[OURS], runs[name], costs=(ours, cost(speed, name))):
                equal_time[name] = asdict(effect)
    said_of = {"verdicts": said, "shares": shares, "equal_time": equal_time, "failed": failed, "speed": speed}
    return {"recipes": entries, "grid": ablation.choices(), **said_of}


def reach(ours: list[Run], theirs: list[Run], *, costs: tuple[float, float] = (1.0, 1.0)) -> list[float] | None:
    """Give, by seed, what share of a rival's cost brings us to its last figure; above 1 where nothing does.

    Args:
        ours: runs, one a seed.
        theirs: the rival's.
        costs: of a token, ours and theirs: seconds, or 1 to count the tokens themselves.

    Returns:
        None where there is nothing to compare.
    """
    by_seed = {run.seed: run for run in theirs}
    shares = []
    for run in ours:
        rival = by_seed.get(run.seed)
        if rival is None:
            continue
        target, whole = rival.series(METRIC).values[-1], costs[1] * rival.series(METRIC).tokens[-1]
        series = run.series(METRIC)
        places, best = costs[0] * series.tokens, np.minimum.accumulate(series.values)
        if best[-1] > target:
            shares.append(float("inf"))
        else:
            # between the validations before it and behind it, on a line; best goes down, interp wants up
            shares.append(float(np.interp(-target, -best, places)) / whole)
    return shares or None


def at_equal_time(ours: list[Run], theirs: list[Run], *, costs: tuple[float, float]) -> Effect | None:
    """Compare a rival's last figure with what we have when we have trained as long: by which it is worse, by seed.

    Where we are the slower, our run is cut in the middle of its schedule, which is at our own expense; where we are the
    faster, our last figure counts.

    Args:
        ours: runs, one a seed.
        theirs: the rival's.
        costs: seconds of a token, ours and theirs.

    Returns:
        None where no seed is there twice, or the rival ends before our first validation.
    """
    last = {run.seed: run.series(METRIC) for run in theirs}
    here, there = {}, {}
    for run in ours:
        if run.seed is None or run.seed not in last:
            continue
        rival, series = last[run.seed], run.series(METRIC)
        tokens = min(rival.tokens[-1] * costs[1] / costs[0], series.tokens[-1])
        if (figure := curves.at(series, "tokens", tokens)) is not None:
            here[run.seed], there[run.seed] = figure, float(rival.values[-1])
    return effects.paired(here, there, level=LEVEL) if here else None


def as_text(report: Report) -> str:
    """The table for a terminal, with its setting above and what it says below."""
    return "\n".join([setting(report), "", as_columns(HEADINGS, rows(report)), "", *conclusions(report)])


def as_markdown(report: Report) -> str:
    """The same for ``docs/benchmarks.md``."""
    return "\n\n".join([setting(report), as_markdown_table(HEADINGS, rows(report)), *conclusions(report)])


def setting(report: Report) -> str:
    """Machine, date and command in a few sentences."""
    machine = report["machine"]
    lines = [
        f"{report['date']}, commit {report['commit']}: `{report['command']}`.",
        f"{machine['processor']}, {machine['cores']} cores; {report['budget']} a run, {report['seeds']} seeds.",
    ]
    if speed := report["speed"]:
        rounds = len(next(iter(speed["seconds_per_token"].values())))
        lines.append(
            f"Time is tokens × seconds per token, the median of {rounds} rounds in turns "
            f"({speed['date']}, commit {speed['commit']}, {speed['threads']} threads, load "
            f"{speed['machine']['load_before']} before). The runs' own clocks count for nothing: others may have used "
            "the machine."
        )
    else:
        lines.append("Nothing is said of time: the recipes were not timed together (--speed).")
    if report["quick"]:
        lines.append("A smoke test on a tiny shape: no figure to quote.")
    return "\n".join(lines)


def rows(report: Report) -> list[tuple[str, ...]]:
    """A row for each recipe."""
    found = []
    for name, entry in report["recipes"].items():
        if not entry["figures"]:
            found.append((name, "failed", *["–"] * (len(HEADINGS) - 2)))
            continue
        by_seed = " ".join(f"{figure:.3f}" for figure in entry["figures"])
        speed = entry["seconds_per_token"]
        costs = ("–", "–") if speed is None else (f"{1 / speed:,.0f}", f"{speed * entry['tokens'] / 60:.1f}")
        size = f"{entry['parameters']:,}"
        found.append((name, f"{mean(entry['figures']):.4f}", by_seed, entry["rate"], *costs, size))
    return found


def conclusions(report: Report) -> list[str]:
    """What the marks speak of."""
    lines = list(report["verdicts"])
    for axis, mark in MARKS.items():
        if shares := report["shares"][axis]:
            most = max(shares)
            named = "tokens" if axis == "tokens" else "training time"
            said = f"{most:.0%} of its {named} (the slowest seed)" if most <= 1 else f"no share of its {named}"
            lines.append(f"{OURS} reaches the last figure of {TARGET} with {said}; the mark is {mark:.0%}.")
    lines += [_at_equal_time(name, effect) for name, effect in report["equal_time"].items()]
    return lines + [f"Failed: {line}" for line in report["failed"]]


def _at_equal_time(name: str, effect: dict[str, Any]) -> str:
    difference, half_width = effect["difference"], effect["half_width"]
    said = f"{name} − {OURS} at equal time is {signed(difference, 3)}"
    if half_width is None:
        return f"{said} bits per byte; one seed, so no interval."
    return f"{said} ± {half_width:.3f} bits per byte; {LEVEL:.0%}; {effect['n']} seeds."


def _entry(runs: list[Run], rate: str, seconds_per_token: float | None) -> dict[str, Any]:
    if not runs:
        return {"figures": [], "rate": rate}
    return {
        "figures": [run.last(METRIC) for run in runs],
        "rate": rate,
        "tokens": mean(run.last("tokens") for run in runs),
        "seconds_per_token": seconds_per_token,
        "parameters": runs[0].record.get("non_embedding_parameters"),
    }
