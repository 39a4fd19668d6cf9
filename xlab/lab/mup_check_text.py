"""The coordinate check of μP in words and figures."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from xlab.lab.mup_check import GROWS, MuPCheck

TITLES = {
    "embedding": "embedding",
    "attention": "attention, mean of layers",
    "feed_forward": "feed-forward, mean of layers",
    "stream": "residual stream, mean of layers",
    "norm": "final norm",
    "logits": "logits",
}
_LABEL, _CELL = 34, 10


def lines(check: MuPCheck) -> Iterator[str]:
    """Lay the check out: what each part computes at the end, how that depends on the width, and the verdict."""
    steps = len(check.losses) - 1
    yield f"{check.initialisation}, {check.seeds} seed{'s' if check.seeds > 1 else ''}"
    yield ""
    yield _row(f"mean |activation| after {steps} steps", [f"{width:,}" for width in check.widths])
    for part, sizes in check.sizes.items():
        yield _row(f"  {TITLES[part]}", [f"{size:.4g}" for size in sizes[-1]])
    yield _row("loss, nats per token", [f"{loss:.3f}" for loss in check.losses[-1]])
    yield ""
    yield _row("exponent of the width, after step", [str(step) for step in range(steps + 1)])
    for part, slopes in check.slopes.items():
        yield _row(f"  {TITLES[part]}", [_exponent(slope) for slope in slopes])
    yield ""
    yield verdict(check)


def verdict(check: MuPCheck) -> str:
    """Say what grows with the width."""
    widths = f"from width {check.widths[0]:,} to {check.widths[-1]:,}"
    if not check.growing:
        return (
            f"nothing grows {widths}: all exponents stay below {GROWS}; a learning rate found at one width should "
            "serve the others"
        )
    worst = {part: max(slope for slope in check.slopes[part] if not math.isnan(slope)) for part in check.growing}
    named = ", ".join(f"{TITLES[part].partition(',')[0]} as width^{slope:.2f}" for part, slope in worst.items())
    return f"it grows {widths}: {named}; a learning rate found at one width will not serve the others"


def as_json(check: MuPCheck) -> dict[str, Any]:
    """Give plain data; an exponent that there is not, where a part is zero, is null."""
    slopes = {
        part: [None if math.isnan(slope) else slope for slope in by_step] for part, by_step in check.slopes.items()
    }
    return {
        "initialisation": check.initialisation,
        "widths": list(check.widths),
        "seeds": check.seeds,
        "mean_abs_activation": {part: [list(row) for row in sizes] for part, sizes in check.sizes.items()},
        "exponents": slopes,
        "losses": [list(row) for row in check.losses],
        "growing": check.growing,
        "limit": GROWS,
        "verdict": verdict(check),
    }


def _exponent(slope: float) -> str:
    return "is 0" if math.isnan(slope) else f"{slope:+.2f}"


def _row(label: str, cells: Sequence[str]) -> str:
    return f"{label:<{_LABEL}}" + "".join(f"{cell:>{_CELL}}" for cell in cells)
