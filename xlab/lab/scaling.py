"""A family of models of several widths, the law that their losses follow, and what it promises of a larger one."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from xlab.errors import ConfigError, DataError
from xlab.lab.power_law import Fit, fit

AXES = {"parameters": "parameters beside embeddings", "flops": "FLOPs of training"}
RATE_RULES = {"constant": 0.0, "inverse-sqrt": -0.5, "inverse": -1.0}  # the rate's exponent over the width


@dataclass(frozen=True)
class Size:
    """What a model of the family costs.

    Args:
        width: d_model.
        parameters: beside the embeddings.
        flops: of its training.
    """

    width: int
    parameters: int
    flops: int

    def over(self, axis: str) -> float:
        """Give its place on one of ``AXES``."""
        return float(self.parameters if axis == "parameters" else self.flops)


@dataclass(frozen=True)
class Prediction:
    """What a law promises of a size, and what came of it.

    Args:
        size: the larger one.
        loss: nats per token.
        interval: where the mean of its runs lies; None where nothing tells.
        runs: how many those are.
        seen: their losses; empty where none is trained.
    """

    size: Size
    loss: float
    interval: tuple[float, float] | None
    runs: int
    seen: Sequence[float] = ()

    @property
    def miss(self) -> float | None:
        """The mean that was seen minus what was promised."""
        return sum(self.seen) / len(self.seen) - self.loss if self.seen else None


@dataclass(frozen=True)
class Scaling:
    """The whole of it.

    Args:
        axis: one of ``AXES``.
        budget: of each run, as it was given.
        points: (size, seed, loss) of each run.
        fit: the law.
        prediction: of the base.
        lost: what runs failed, and why.
    """

    axis: str
    budget: str
    points: Sequence[tuple[Size, int, float]]
    fit: Fit
    prediction: Prediction
    lost: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """Give plain data."""
        law = asdict(self.fit.law)
        intervals = {name: self.fit.of(name) for name in ("floor", "amplitude", "exponent")}
        return {
            "axis": self.axis,
            "budget": self.budget,
            "points": [{**asdict(size), "seed": seed, "loss": loss} for size, seed, loss in self.points],
            "law": law | {"intervals": intervals, "level": self.fit.level, "noise": self.fit.noise},
            "prediction": asdict(self.prediction) | {"miss": self.prediction.miss},
            "remarks": list(self.fit.remarks),
            "lost": list(self.lost),
        }


def words_of(width: int, settings: Mapping[str, Any], *, rate_rule: str = "constant") -> list[str]:
    """Give fit's words for a width: as many heads as keep their own width, and the rest in proportion.

    Args:
        width: d_model.
        settings: all of the base's.
        rate_rule: how the learning rate follows the width, from the base's own; one of ``RATE_RULES``.

    Raises:
        ConfigError: for a width that cannot be divided so.
    """
    model = settings["model"]
    base, heads = int(model["d_model"]), int(model["n_heads"])
    head_dim = base // heads
    if width < 1 or width % head_dim:
        raise ConfigError(f"--widths {width} is no multiple of {head_dim}, the width of a head of BASE; give another")
    if width >= base:
        raise ConfigError(f"--widths {width} is not below {base}, the width of BASE, whose loss is to be predicted")
    words = [f"--model.d_model={width}", f"--model.n_heads={width // head_dim}"]
    if model["d_ff"] is not None:
        words.append(f"--model.d_ff={max(round(model['d_ff'] * width / base), 1)}")
    attention = model["attention"].get("init_args") or {} if isinstance(model["attention"], dict) else {}
    if (groups := attention.get("n_kv_heads")) is not None:
        words.append(f"--model.attention.n_kv_heads={_groups(int(groups), width, base)}")
    exponent = RATE_RULES[rate_rule]
    if exponent:
        rate = model["optimizer"]["init_args"].get("lr")
        if rate is None:
            raise ConfigError("--rate-rule needs a learning rate to start from; set model.optimizer.init_args.lr")
        words.append(f"--model.optimizer.lr={float(rate) * (width / base) ** exponent:.6g}")
    return words


def _groups(groups: int, width: int, base: int) -> int:
    if groups == 1 or groups * width % base == 0:
        return max(groups * width // base, 1)
    raise ConfigError(f"--widths {width}: {groups} key-value heads at width {base} are no whole number there")


def scaling(
    points: Sequence[tuple[Size, int, float]],
    target: Size,
    *,
    axis: str,
    budget: str,
    runs: int,
    seen: Sequence[float] = (),
    floor: float | None = None,
    lost: Sequence[str] = (),
) -> Scaling:
    """Fit the law, and predict.

    Args:
        points: (size, seed, loss) of each run.
        target: what is predicted.
        axis: one of ``AXES``.
        budget: of each run, as it was given.
        runs: how many of the target the interval is for.
        seen: the losses of those that are trained.
        floor: E, if it is to be held fixed.
        lost: what runs failed, and why.

    Raises:
        DataError: for runs of fewer than two sizes.
    """
    if not points:
        raise DataError("no run came to its end, so there is nothing to fit" + (f": {lost[0]}" if lost else ""))
    law = fit([size.over(axis) for size, _, _ in points], [loss for _, _, loss in points], floor=floor)
    place = target.over(axis)
    prediction = Prediction(target, law.law(place), law.interval(place, runs=runs), runs, seen)
    return Scaling(axis, budget, points, law, prediction, lost)
