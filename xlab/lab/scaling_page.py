"""A scaling law as one HTML file: the runs, the law with its band, and the larger model's loss."""

import math
from html import escape

from xlab.lab.page_parts import document, figure, headline, remark_list, table
from xlab.lab.report_plots import short
from xlab.lab.scaling import AXES, Scaling
from xlab.lab.scaling_text import POINT_COLUMNS, formula, parameters, points, verdict

MARK = "<!doctype html><!-- XLab scaling law -->"  # tells an older page from a file of somebody else's

_WIDTH, _HEIGHT = 560, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 16, 26, 36
_STEPS = 60  # of the drawn curve


def page(scaling: Scaling) -> str:
    """Lay it out."""
    prediction, law = scaling.prediction, scaling.fit.law
    interval = prediction.interval
    spread = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "no interval"
    seen = sum(prediction.seen) / len(prediction.seen) if prediction.seen else None
    figures = [
        ("promised loss", f"{prediction.loss:.3f}", spread),
        ("seen", "–" if seen is None else f"{seen:.3f}", "not trained" if seen is None else f"{prediction.miss:+.3f}"),
        ("exponent α", f"{law.exponent:.3f}", f"over {AXES[scaling.axis]}"),
        ("budget of a run", scaling.budget, f"{len(scaling.points)} runs"),
    ]
    body = [
        "<header><h1>Scaling law</h1>",
        f'<p class="source">{escape(formula(scaling))}</p></header>',
        *headline(figures),
        *remark_list([*scaling.fit.remarks, *(f"failed: {lost}" for lost in scaling.lost)]),
        "<h2>Loss over size</h2>",
        *(f"<p>{escape(line)}</p>" for line in verdict(scaling)),
        figure("validation loss, nats per token", plot(scaling)),
        "<h2>The law</h2>",
        f'<p class="muted">Least squares; intervals of {100 * scaling.fit.level:g} % from losses drawn about it.</p>',
        table(["value", "interval"], parameters(scaling)),
        "<h2>The runs</h2>",
        table(POINT_COLUMNS, points(scaling)),
    ]
    return document(MARK, "Scaling law", body)


def plot(scaling: Scaling) -> str:
    """Draw the losses over the axis, both logarithmic, with the law and its band."""
    axis, prediction, fit = scaling.axis, scaling.prediction, scaling.fit
    target = prediction.size.over(axis)
    seen = [(size.over(axis), loss) for size, _, loss in scaling.points]
    seen += [(target, loss) for loss in prediction.seen]
    low, high = min(x for x, _ in seen) / 1.3, max(target, *(x for x, _ in seen)) * 1.3
    places = [low * (high / low) ** (i / _STEPS) for i in range(_STEPS + 1)]
    bands = [fit.band(x) for x in places]
    heights = [loss for _, loss in seen] + [fit.law(x) for x in places] + list(prediction.interval or ())
    bottom, top = min(heights) * 0.98, max(heights) * 1.02

    def across(x: float) -> float:
        return _LEFT + math.log(x / low) / math.log(high / low) * (_WIDTH - _LEFT - _RIGHT)

    def up(y: float) -> float:
        share = math.log(min(max(y, bottom), top) / bottom) / math.log(top / bottom)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)

    def path(line: list[tuple[float, float]]) -> str:
        return "M" + " L".join(f"{across(x):.1f} {up(y):.1f}" for x, y in line)

    drawn = []
    for y in _round_numbers(bottom, top):
        drawn.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{up(y):.1f}" y2="{up(y):.1f}"/>')
        drawn.append(f'<text x="{_LEFT - 6}" y="{up(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in sorted({x for x, _ in seen} | {target}):
        drawn.append(f'<text x="{across(x):.1f}" y="{_HEIGHT - 20}" text-anchor="middle">{short(x)}</text>')
    if all(band is not None for band in bands):
        lower = [(x, band[0]) for x, band in zip(places, bands, strict=True) if band]
        upper = [(x, band[1]) for x, band in zip(places, bands, strict=True) if band]
        drawn.append(f'<path class="area" d="{path([*lower, *reversed(upper)])} Z"/>')
    drawn.append(f'<path class="curve" d="{path([(x, fit.law(x)) for x in places])}"/>')
    if prediction.interval:
        ends = " ".join(f'y{i}="{up(end):.1f}"' for i, end in enumerate(prediction.interval, start=1))
        drawn.append(f'<line class="mark" x1="{across(target):.1f}" x2="{across(target):.1f}" {ends}/>')
    for x, y in seen:
        name = f"{short(x)}: {y:.4f}"
        drawn.append(f'<circle class="bar" cx="{across(x):.1f}" cy="{up(y):.1f}" r="4"><title>{name}</title></circle>')
    label = f"{prediction.loss:.3f} promised"
    drawn.append(f'<text class="marked" x="{across(target):.1f}" y="14" text-anchor="end">{label}</text>')
    floor = f'y1="{_HEIGHT - _BOTTOM}" y2="{_HEIGHT - _BOTTOM}"'
    drawn.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" {floor}/>')
    named = f'<text class="name" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}" text-anchor="end">{AXES[axis]}</text>'
    title = f"Loss over {AXES[axis]}"
    view = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" style="max-width: 44rem" role="img" aria-label="{title}"'
    return f"<svg {view}>{''.join([*drawn, named])}</svg>"


def _round_numbers(low: float, high: float) -> list[float]:
    """List three to seven round numbers between two."""
    step = 10.0 ** math.floor(math.log10(high - low))
    step = next(size for size in (step / 5, step / 2, step, 2 * step, 5 * step) if (high - low) / size < 7)
    return [round(i * step, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
