"""What a comparison found, in words and figures for people."""

import math
from collections.abc import Iterator

from xlab.lab.comparison import Comparison, Contrast, Place
from xlab.lab.report_plots import short

_UNITS = {
    "bits_per_byte": "bits per byte",
    "loss": "nats per token",
    "perplexity": "of perplexity",
    "accuracy": "of accuracy",
    "tokens_per_s": "tokens per second",
}
_AXES = {"tokens": "tokens", "steps": "steps", "flops": "FLOPs"}


def unit(metric: str) -> str:
    """What a metric is counted in: bits per byte."""
    return _UNITS.get(metric.rpartition("/")[2], f"of {metric}")


def amount(place: Place) -> str:
    """How much of an axis a place is: 2 M tokens, 10 minutes."""
    if place.axis == "seconds":
        seconds = place.amount
        return f"{seconds / 60:.3g} minutes" if seconds >= 60 else f"{seconds:.3g} seconds"
    if place.axis == "steps":
        return f"{place.amount:,.0f} steps"
    if place.amount >= 1e15:
        return f"{place.amount:.3g} {_AXES[place.axis]}".replace("e+", "e")
    number = short(place.amount)
    return f"{number[:-1]} {number[-1]} {_AXES[place.axis]}" if number[-1].isalpha() else f"{number} {place.axis}"


def verdicts(comparison: Comparison) -> Iterator[str]:
    """Say of each variant what can be told of it."""
    for contrast in comparison.contrasts[comparison.place]:
        yield verdict(comparison, contrast, comparison.place)


def verdict(comparison: Comparison, contrast: Contrast, place: Place) -> str:
    """Say what can be told of a variant: B is better by 0.021 ± 0.008 bits per byte after 2 M tokens; 95 %; 3 seeds."""
    effect, counted = contrast.effect, unit(comparison.metric)
    digits = decimals(effect.half_width if effect.half_width else effect.difference / 20)
    after = f"{counted} after {amount(place)}"
    size = f"{abs(effect.difference):.{digits}f}"
    if effect.half_width is None:
        ahead = "ahead of" if contrast.is_better else "behind"
        return (
            f"{contrast.variant} is {ahead} {comparison.baseline} by {size} {after}; one seed, so no interval: "
            "it may be chance"
        )
    seeds = f"{effect.n} seeds" if effect.method == "paired" else f"{effect.n} runs each at least, not paired"
    sure = f"{100 * comparison.level:g} %; {seeds}"
    spread = f"± {effect.half_width:.{digits}f}"
    if contrast.is_told:
        return f"{contrast.variant} is {'better' if contrast.is_better else 'worse'} by {size} {spread} {after}; {sure}"
    is_corrected = abs(effect.difference) > effect.half_width  # alone it would be told, among so many it is not
    return (
        f"no difference can be told: {contrast.variant} − {comparison.baseline} is "
        f"{signed(effect.difference, digits)} {spread} {after}; {sure}"
        + (f"; p is {p_value(contrast.p)} by Holm's correction" if is_corrected else "")
    )


def difference(contrast: Contrast) -> str:
    """Write an effect: −0.021 ± 0.008."""
    effect = contrast.effect
    digits = decimals(effect.half_width if effect.half_width else effect.difference / 20)
    spread = "" if effect.half_width is None else f" ± {effect.half_width:.{digits}f}"
    return signed(effect.difference, digits) + spread


def signed(number: float, digits: int) -> str:
    """Write a number with its sign, a true minus; 0 has none."""
    written = f"{abs(number):.{digits}f}"
    return written if not float(written) else f"{'−' if number < 0 else '+'}{written}"


def decimals(number: float) -> int:
    """How many decimals show two digits of a number; three at least."""
    if not number or not math.isfinite(number):
        return 3
    # one digit less where the first is large: 0.008, 0.011
    size = math.floor(math.log10(abs(number)))
    lead = abs(number) / 10.0**size
    return min(max(3 if size >= -3 else 0, -size + (1 if lead < 3 else 0)), 8)


def p_value(p: float | None) -> str:
    """Write a p-value: 0.031, < 0.0001."""
    if p is None:
        return "–"
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"
