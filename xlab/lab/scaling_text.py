"""A scaling law in words and figures: what the terminal and the page say."""

from collections.abc import Iterator

from xlab.lab.report_plots import short
from xlab.lab.scaling import AXES, Scaling

Rows = list[tuple[str, list[str]]]


def formula(scaling: Scaling) -> str:
    """Write the law: L = 1.71 + 4.96·(N / 400k)^-0.341."""
    law = scaling.fit.law
    letter = "N" if scaling.axis == "parameters" else "C"
    return f"L = {law.floor:.4g} + {law.amplitude:.4g} · ({letter} / {short(law.scale)})^−{law.exponent:.3g}"


def parameters(scaling: Scaling) -> Rows:
    """Give E, A and α, with their intervals."""
    law, rows = scaling.fit.law, []
    for label, name, value in (
        ("E, the loss without end", "floor", law.floor),
        (f"A, above it at {short(law.scale)}", "amplitude", law.amplitude),
        ("α, the exponent", "exponent", law.exponent),
    ):
        interval = scaling.fit.of(name)
        held = "held" if name == "floor" and scaling.fit.free == 2 else "unknown"
        rows.append((label, [f"{value:.4g}", f"{interval[0]:.4g} to {interval[1]:.4g}" if interval else held]))
    return rows


def points(scaling: Scaling) -> Rows:
    """Give each size, its losses, and what the law says of it."""
    rows = []
    for size in dict.fromkeys(size for size, _, _ in scaling.points):
        losses = [loss for own, _, loss in scaling.points if own == size]
        mean, law = sum(losses) / len(losses), scaling.fit.law(size.over(scaling.axis))
        cells = [short(size.parameters), short(size.flops), str(len(losses))]
        rows.append((f"width {size.width}", [*cells, f"{mean:.4f}", f"{law:.4f}", f"{mean - law:+.4f}"]))
    return rows


POINT_COLUMNS = ["parameters", "FLOPs", "seeds", "loss", "law", "miss"]


def verdict(scaling: Scaling) -> Iterator[str]:
    """Say what is promised of the base, and what came of it."""
    prediction, fit = scaling.prediction, scaling.fit
    far = prediction.size.over(scaling.axis) / max(size.over(scaling.axis) for size, _, _ in scaling.points)
    of = "a run" if prediction.runs == 1 else f"the mean of {prediction.runs} runs"
    sure = "nothing tells how sure that is"
    if prediction.interval:
        low, high = prediction.interval
        sure = f"{100 * fit.level:g} % of such figures lie between {low:.3f} and {high:.3f}"
    yield (
        f"width {prediction.size.width} is promised a loss of {prediction.loss:.3f} ({of}), {far:.3g} times the "
        f"{AXES[scaling.axis]} of the largest run: {sure}"
    )
    if prediction.miss is not None:
        seen = sum(prediction.seen) / len(prediction.seen)
        runs = f"{len(prediction.seen)} run{'s' * (len(prediction.seen) > 1)}"
        inside = ""
        if prediction.interval:
            inside = ", inside" if prediction.interval[0] <= seen <= prediction.interval[1] else ", outside"
            inside += " the interval"
        yield f"it came to {seen:.3f} ({runs}): a miss of {prediction.miss:+.3f}, {prediction.miss / seen:+.1%}{inside}"
