"""Plots as inline SVG, coloured by the page's style sheet: a histogram, a curve of ranks, a line."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 360, 220  # on a phone a unit is a pixel, and letters are as large as the text's
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 24, 34


def short(number: float) -> str:
    """Write a number for an axis: 950, 1.2k, 34M."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def histogram(
    counts: Mapping[int, int], *, title: str, x: str, y: str, span: tuple[int, int], mark: tuple[int, str]
) -> str:
    """Draw how often each positive number occurs, in bins of half an octave.

    Args:
        counts: Occurrences of each number; of one at least.
        title: What the picture shows, for readers that hear it.
        x: What the numbers are.
        y: What is counted.
        span: The least and the greatest number of the axis, that of several pictures that are to be compared.
        mark: A number in it to draw a line at, and what it is called.
    """
    edges = _edges(*span)
    heights = [0] * (len(edges) - 1)
    for number, count in counts.items():
        heights[max(bisect_right(edges, number) - 1, 0)] += count  # a document without a token counts with the shortest
    axis = _Logarithmic(edges[0], edges[-1], _LEFT, WIDTH - _RIGHT)
    top = max(heights)
    bars = []
    for low, high, height in zip(edges, edges[1:], heights, strict=False):
        if height:
            left, right, y_top = axis.place(low) + 0.75, axis.place(high) - 0.75, _up(height / top)
            name = f"{low:,}" if high - low == 1 else f"{low:,} to {high - 1:,}"
            bars.append(
                f'<rect class="bar" x="{left:.1f}" y="{y_top:.1f}" width="{right - left:.1f}" '
                f'height="{_up(0) - y_top:.1f}"><title>{name} {escape(x)}: {height:,} {escape(y)}</title></rect>'
            )
    rows = _across([(height / top, short(height)) for height in _whole_steps(top)])
    return _svg(title, [*rows, *bars, *axis.ticks(), *_line_at(axis.place(mark[0]), mark[1])], x=x, y=y)


def curve(points: Sequence[tuple[int, int]], *, title: str, x: str, y: str, mark: tuple[int, str] | None = None) -> str:
    """Draw positive numbers over positive numbers, both axes logarithmic.

    Args:
        points: (x, y), x ascending.
        title: What the picture shows, for readers that hear it.
        x: What x is.
        y: What y is.
        mark: A y to draw a line at, and what it is called.
    """
    across = _Logarithmic(1, max(points[-1][0], 2), _LEFT, WIDTH - _RIGHT)
    highest = max(y for _, y in points)
    up = _Logarithmic(1, max(highest, 2), _up(0), _up(1))
    places = [(across.place(x), up.place(y)) for x, y in points]
    path = " ".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(places))
    floor = f"L{places[-1][0]:.1f} {_up(0):.1f} L{places[0][0]:.1f} {_up(0):.1f} Z"
    rows = _across([((_up(0) - up.place(tick)) / (_up(0) - _up(1)), short(tick)) for tick in up.round_numbers()])
    body = [*rows, f'<path class="area" d="{path} {floor}"/>', f'<path class="curve" d="{path}"/>', *across.ticks()]
    if mark is not None and 1 <= mark[0] <= highest:
        level = up.place(mark[0])
        body.append(f'<line class="mark" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>')
        body.append(f'<text class="marked" x="{_LEFT + 4}" y="{level - 4:.1f}">{escape(mark[1])}</text>')
    return _svg(title, body, x=x, y=y)


def line(points: Sequence[tuple[float, float]], *, title: str, x: str, y: str) -> str:
    """Draw numbers over numbers, both axes linear, as what was measured at a few places.

    Args:
        points: (x, y), x ascending, one at least.
        title: What the picture shows, for readers that hear it.
        x: What x is.
        y: What y is.
    """
    right, values = points[-1][0] or 1, [value for _, value in points]
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    low, high = low - margin, high + margin
    span = WIDTH - _RIGHT - _LEFT
    places = [(_LEFT + span * at / right, _up((value - low) / (high - low))) for at, value in points]
    path = " ".join(f"{'L' if i else 'M'}{across:.1f} {up:.1f}" for i, (across, up) in enumerate(places))
    ticks = [
        f'<text x="{_LEFT + span * tick / right:.1f}" y="{_up(0) + 14}" text-anchor="middle">{short(tick)}</text>'
        for tick in _round_numbers(0, right)
    ]
    dots = [
        f'<circle class="dot-mark" cx="{across:.1f}" cy="{up:.1f}" r="2.5"><title>{at:,.6g} {escape(x)}: '
        f"{value:.4f}</title></circle>"
        for (across, up), (at, value) in zip(places, points, strict=True)
        if len(points) <= 60
    ]
    base = f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{_up(0)}" y2="{_up(0)}"/>'
    rows = _across([((tick - low) / (high - low), short(tick)) for tick in _round_numbers(low, high)])
    return _svg(title, [*rows, base, *ticks, f'<path class="curve" d="{path}"/>', *dots], x=x, y=y)


def _round_numbers(low: float, high: float) -> list[float]:
    """Three to six round numbers from ``low`` to ``high``."""
    size = 10.0 ** math.floor(math.log10((high - low) / 2))
    step = next(step for step in (size / 5, size / 2, size, 2 * size, 5 * size) if (high - low) / step <= 6)
    return [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


class _Logarithmic:
    """A logarithmic axis from ``low`` to ``high``, drawn from ``start`` to ``end``."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self._low, self._high, self._start, self._end = low, high, start, end

    def place(self, number: float) -> float:
        way = math.log(number / self._low) / math.log(self._high / self._low)
        return self._start + way * (self._end - self._start)

    def round_numbers(self) -> list[int]:
        """List whole round numbers on it: powers of ten, or where they are few, their halves and fifths too."""
        decades = range(math.floor(math.log10(self._low)), math.ceil(math.log10(self._high)) + 1)
        for digits in ((1,), (1, 3), (1, 2, 5), tuple(range(1, 10))):
            numbers = [digit * 10**decade for decade in decades if decade >= 0 for digit in digits]
            found = [number for number in numbers if self._low <= number <= self._high]
            if len(found) >= 3:
                break
        return found[:: -(-len(found) // 7)] if found else []

    def ticks(self) -> list[str]:
        base = f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{_up(0)}" y2="{_up(0)}"/>'
        return [base] + [
            f'<text x="{self.place(number):.1f}" y="{_up(0) + 14}" text-anchor="middle">{short(number)}</text>'
            for number in self.round_numbers()
        ]


def _edges(low: int, high: int) -> list[int]:
    """Whole numbers half an octave apart, the first at most ``low``, the last above ``high``."""
    first, last = math.floor(2 * math.log2(low)), math.ceil(2 * math.log2(high + 1))
    # rounded up they are whole and no two alike but 2 and 2; a bin holds what is at least its edge
    return sorted({math.ceil(2 ** (half / 2) - 1e-9) for half in range(first, max(last, first + 1) + 1)} - {0})


def _whole_steps(top: int) -> list[int]:
    """Round numbers from 0 to ``top``, of which there are three to five."""
    size = 10 ** math.floor(math.log10(max(top, 1)))
    step = next(step for step in (size / 5, size / 2, size, 2 * size, 5 * size) if top / step < 5)
    return [round(step * i) for i in range(int(top / step) + 1)] if step >= 1 else list(range(top + 1))


def _up(share: float) -> float:
    return round(HEIGHT - _BOTTOM - share * (HEIGHT - _BOTTOM - _TOP), 1)


def _across(levels: list[tuple[float, str]]) -> list[str]:
    """Lines of a grid, with their numbers."""
    drawn = []
    for level, label in levels:
        height = _up(level)
        drawn.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{height}" y2="{height}"/>')
        drawn.append(f'<text x="{_LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{label}</text>')
    return drawn


def _line_at(place: float, label: str) -> list[str]:
    """A line from top to bottom, its name above the bars and beside the axis' own."""
    side = "end" if place > WIDTH - 110 else "start"
    at = place if side == "end" else max(place, 72)
    return [
        f'<line class="mark" x1="{place:.1f}" x2="{place:.1f}" y1="{_TOP - 6}" y2="{_up(0)}"/>',
        f'<text class="marked" x="{at:.1f}" y="10" text-anchor="{side}">{escape(label)}</text>',
    ]


def _svg(title: str, body: list[str], *, x: str, y: str) -> str:
    names = [
        f'<text class="name" x="{WIDTH - _RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(x)}</text>',
        f'<text class="name" x="0" y="10">{escape(y)}</text>',
    ]
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join([*body, *names])}</svg>'
    )
