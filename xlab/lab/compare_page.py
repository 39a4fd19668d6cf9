"""A comparison as one HTML file that opens offline: the verdict, curves to read values from, effects, what differs."""

import json
import math
from collections.abc import Sequence
from html import escape
from typing import Any

from xlab.lab import compare_rows, curves
from xlab.lab.comparison import BITS_PER_BYTE, Comparison, Contrast, Place, higher_is_better
from xlab.lab.exhibit_page import samples_section, views_data, views_section
from xlab.lab.exhibits import Sample, View
from xlab.lab.page_parts import document, headline, remark_list, table
from xlab.lab.run_groups import RunGroup
from xlab.lab.verdict import amount, difference, p_value, unit, verdicts

MARK = "<!doctype html><!-- XLab comparison -->"  # tells an older page from a file of somebody else's
_POINTS = 4000  # of all variants' curves of a metric
_AXES = {"tokens": "tokens", "steps": "steps", "seconds": "minutes", "flops": "FLOPs"}

_HOW = [
    (
        "A difference",
        "The variant's mean minus the baseline's, of what each run's curve has at the same place. The run is the "
        "sample, never the step: the interval is Student's for differences between runs of the same seed, which saw "
        "the same batches in the same order, or Welch's where there are no such pairs.",
    ),
    (
        "At equal tokens, FLOPs, minutes",
        "The farthest place that all runs reached. Between two validations a curve is taken to be straight. Minutes "
        "are those of training; validation and checkpoints do not count. FLOPs are counted, not measured.",
    ),
    (
        "Curves",
        "The mean over a variant's runs, in a band from the lowest to the highest. A curve of many points is drawn by "
        "the means of neighbours. Minus the baseline: of each run minus the baseline's of the same seed, if there is "
        "one, or minus the baseline's mean.",
    ),
    (
        "p, and whether a difference is told",
        "Two-sided, and adjusted by Holm's method where several variants are compared with the baseline: the chance "
        "of a single false difference among them is then 1 − the level. The intervals are not adjusted.",
    ),
]


def page(comparison: Comparison, *, samples: Sequence[Sample] = (), views: Sequence[View] = ()) -> str:
    """Lay a comparison out."""
    return document(
        MARK,
        "Comparison",
        [
            *_head(comparison),
            *_curves(comparison),
            *_effects(comparison),
            *_differences(comparison),
            *samples_section(samples, [variant.name for variant in comparison.variants]),
            *views_section(views),
            "<h2>Runs</h2>",
            '<p class="muted">Data and code by the first letters of their fingerprints.</p>',
            table(*compare_rows.runs(comparison), corner="run"),
            "<h2>How it was compared</h2>",
            '<dl class="counted">',
            *(f"<dt>{escape(what)}</dt><dd>{escape(how)}</dd>" for what, how in _HOW),
            "</dl>",
            _data(comparison, views),
        ],
        more=["compare_page.css", "compare_page.js"],
    )


def _head(comparison: Comparison) -> list[str]:
    place = comparison.place
    means = {name: sum(values) / len(values) for name, values in comparison.figures.items()}
    best = (max if comparison.higher_is_better else min)(means, key=lambda name: means[name])
    digits = compare_rows.figure_digits(comparison)
    counts = sorted({len(values) for values in comparison.figures.values()})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
    n_runs = sum(len(values) for values in comparison.figures.values())
    order = "higher" if comparison.higher_is_better else "lower"
    figures = [
        (
            "lowest" if order == "lower" else "highest",
            f"{means[best]:.{digits}f}",
            f"{best}, {unit(comparison.metric)}",
        ),
        ("baseline", f"{means[comparison.baseline]:.{digits}f}", comparison.baseline),
        ("compared after", amount(place), f"{comparison.metric}, {order} is better"),
        ("seeds", seeds, f"{len(means)} variants, {n_runs} runs"),
    ]
    return [
        "<header><h1>Comparison</h1>",
        '<ul class="verdicts">',
        *(
            f'<li class="{_kind(contrast)}"><i style="{_colour(number)}"></i>{escape(sentence)}</li>'
            for number, (contrast, sentence) in enumerate(
                zip(comparison.contrasts[place], verdicts(comparison), strict=True), start=1
            )
        ),
        "</ul></header>",
        *headline(figures),
        *remark_list([*(f"Left out: {line}" for line in comparison.left_out), *comparison.remarks]),
    ]


def _kind(contrast: Contrast) -> str:
    return "told" if contrast.is_told else "untold"


def _colour(number: int) -> str:
    return f"--own: var(--v{number % 8})"


def _curves(comparison: Comparison) -> list[str]:
    chips = "".join(
        f'<button type="button" class="chip" aria-pressed="true" data-variant="{number}" style="{_colour(number)}">'
        f"<i></i>{escape(variant.name)}</button>"
        for number, variant in enumerate(comparison.variants)
    )
    return [
        "<h2>Curves</h2>",
        '<div class="controls">',
        '<label>metric <select id="metric"></select></label>',
        '<div class="segments" id="axes" role="group" aria-label="over"></div>',
        '<label><input id="minus" type="checkbox">minus the baseline</label>',
        '<label class="from">from <input id="from" type="range" min="0" max="95" step="5" value="0"></label>',
        "</div>",
        f'<div class="chips" role="group" aria-label="variants">{chips}</div>',
        '<div class="chart" id="chart" tabindex="0" role="application" '
        'aria-label="Curves; left and right move along them"></div>',
        '<p class="muted">Point, or use the arrow keys, to read values. '
        "Bands reach from the lowest run to the highest.</p>",
    ]


def _effects(comparison: Comparison) -> list[str]:
    numbers = {variant.name: number for number, variant in enumerate(comparison.variants)}
    cards = "".join(_forest(comparison, place, contrasts, numbers) for place, contrasts in comparison.contrasts.items())
    better = "to the right" if comparison.higher_is_better else "to the left"
    return [
        "<h2>Effects</h2>",
        f'<p class="muted">Each variant minus {escape(comparison.baseline)}, in {escape(unit(comparison.metric))}, '
        f"with the {100 * comparison.level:g} % interval; {better} is better. A hollow dot: no difference can be "
        "told.</p>",
        f'<div class="forests">{cards}</div>',
        table(*compare_rows.figures(comparison), corner="variant"),
    ]


def _forest(comparison: Comparison, place: Place, contrasts: Sequence[Contrast], numbers: dict[str, int]) -> str:
    ends = [abs(end) for each in contrasts for end in (each.effect.interval or (each.effect.difference,) * 2)]
    reach = 1.1 * max(ends) or 1.0
    rows = "".join(
        f'<div class="effect {_kind(each)}" style="{_colour(numbers[each.variant])}">'
        f'<b>{escape(each.variant)}</b><div class="track">{_mark(each, reach)}</div>'
        f'<span title="p = {escape(p_value(each.p))}">{escape(difference(each))}</span></div>'
        for each in contrasts
    )
    ticks = f"<span>−{reach / 1.1:.2g}</span><span>0</span><span>+{reach / 1.1:.2g}</span>"
    return (
        f'<section class="forest"><h3>after {escape(amount(place))}</h3>{rows}'
        f'<div class="effect scale"><b></b><div class="track">{ticks}</div><span></span></div></section>'
    )


def _mark(contrast: Contrast, reach: float) -> str:
    def place(number: float) -> float:
        return 50 + 50 * number / reach

    low, high = contrast.effect.interval or (contrast.effect.difference,) * 2
    return (
        f'<i class="whisker" style="left: {place(low):.2f}%; width: {place(high) - place(low):.2f}%"></i>'
        f'<i class="dot" style="left: {place(contrast.effect.difference):.2f}%"></i>'
    )


def _differences(comparison: Comparison) -> list[str]:
    rows = compare_rows.settings(comparison)
    names = [variant.name for variant in comparison.variants if variant.settings]
    shown = table(names, rows, corner="setting") if rows else "<p>No setting but the seeds differs.</p>"
    return ["<h2>What differs</h2>", '<p class="muted">Only the settings in which variants differ.</p>', shown]


def _data(comparison: Comparison, views: Sequence[View]) -> str:
    """What the script draws, as JSON that no text in it can end."""
    metrics = _metrics(comparison)
    n_points = max(40, min(240, _POINTS // len(comparison.variants)))
    found = {
        "metric": comparison.metric,
        "axis": comparison.place.axis,
        "axes": _AXES,
        "variants": [variant.name for variant in comparison.variants],
        "curves": {
            metric: [_plain_band(variant, metric, n_points) for variant in comparison.variants] for metric in metrics
        },
        "higher": [metric for metric in metrics if higher_is_better(metric)],
        "views": views_data(views),
    }
    text = json.dumps(found, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="data">{text}</script>'


def _metrics(comparison: Comparison) -> list[str]:
    """What was logged, figures of validation first; not what only counts the cost."""
    known = dict.fromkeys(metric for variant in comparison.variants for run in variant.runs for metric in run.metrics)
    shown = [metric for metric in known if metric not in ("tokens", "train_seconds")]
    first = [comparison.metric, BITS_PER_BYTE, "val/loss", "train/loss"]
    return sorted(shown, key=lambda metric: (first.index(metric) if metric in first else len(first), metric))


def _plain_band(variant: RunGroup, metric: str, n_points: int) -> dict[str, Any] | None:
    band = curves.band(variant.runs, metric, n_points)
    if band is None:
        return None
    places = {axis: _rounded(over / (60 if axis == "seconds" else 1)) for axis, over in band.places.items()}
    return {"x": places, "runs": [_rounded(values) for values in band.values], "seeds": band.seeds}


def _rounded(numbers: Any) -> list[float]:
    """Five digits are more than a screen shows, and a third of the page's size."""
    return [float(f"{number:.5g}") for number in numbers.tolist() if math.isfinite(number)]
