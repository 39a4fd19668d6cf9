"""A comparison on a terminal."""

from collections.abc import Iterator

from xlab.lab import compare_rows
from xlab.lab.comparison import Comparison
from xlab.lab.terminal import table
from xlab.lab.verdict import amount, verdicts


def lines(comparison: Comparison) -> Iterator[str]:
    """Lay the comparison out in tables; what can be told of it comes last."""
    best = "higher" if comparison.higher_is_better else "lower"
    yield f"{comparison.metric} after {amount(comparison.place)}, {best} is better; baseline: {comparison.baseline}"
    yield ""
    yield from table("variant", *compare_rows.figures(comparison))
    settings = compare_rows.settings(comparison)
    if settings:
        yield ""
        yield from table("setting", [variant.name for variant in comparison.variants], settings)
    for place in comparison.contrasts:
        if place != comparison.place:
            yield ""
            yield from table(f"after {amount(place)}", *compare_rows.effects(comparison, place))
    if comparison.left_out or comparison.remarks:
        yield ""
    yield from (f"! left out: {line}" for line in comparison.left_out)
    yield from (f"! {line}" for line in comparison.remarks)
    yield ""
    yield from verdicts(comparison)
