"""The coordinate check of μP: whether what a model computes grows with its width, at the start and as it learns.

In the parametrisation that lets one learning rate serve every width, no activation may grow with it (Yang et al. 2022,
arXiv 2203.03466, appendix D.1). Letters: B rows, T positions.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xlab import checkpoints, factories
from xlab.errors import ConfigError, TrainingError
from xlab.training.objectives import Objective
from xlab.training.optimizers import decay_groups, hold_still, scale_rates
from xlab.transformer.decoder import Decoder
from xlab.transformer.footprint import refuse_beyond_memory
from xlab.transformer.initialisations import MuPInitialisation
from xlab.transformer.mixture_of_experts import mixtures, take_routing

PARTS = ("embedding", "attention", "feed_forward", "stream", "norm", "logits")
# |activation| ∝ width^slope. What μP leaves is below this, and what grows without it, by √width or more, far above.
GROWS = 0.2


@dataclass(frozen=True)
class MuPCheck:
    """Mean |activation| of each part, and how it depends on the width.

    Attributes:
        widths: d_model of the models, rising.
        sizes: of each part, by step (0 is the start) and width, the mean over seeds.
        slopes: of each part, by step: the exponent of the width in it; NaN where it is zero.
        losses: nats per token by step and width.
        initialisation: the class that made the weights.
        seeds: how many.
    """

    widths: Sequence[int]
    sizes: Mapping[str, Sequence[Sequence[float]]]
    slopes: Mapping[str, Sequence[float]]
    losses: Sequence[Sequence[float]]
    initialisation: str
    seeds: int

    @property
    def growing(self) -> list[str]:
        """Name the parts that have come to grow with the width, at any step."""
        return [part for part, slopes in self.slopes.items() if any(slope > GROWS for slope in slopes)]


def mup_check(
    model: Mapping[str, Any],
    widths: Sequence[int],
    *,
    steps: int = 8,
    seeds: int = 3,
    rows: int = 8,
    seq_len: int = 64,
    say: Callable[[str], None] = lambda text: None,
) -> MuPCheck:
    """Train models of several widths for a few steps on one batch of random tokens, and look at what they compute.

    The optimiser's full learning rate is taken from the first step, without warm-up or dropout.

    Args:
        model: the settings of XLabModel as plain data, ``vocab_size`` and ``max_len`` among them.
        widths: two or more.
        steps: of the optimiser.
        seeds: of weights and tokens.
        rows: B.
        seq_len: T; ``max_len`` if that is less.
        say: told which width is being trained.

    Raises:
        ConfigError: for a width that the model cannot have, or this machine.
        TrainingError: when a loss is no number.
    """
    widths = sorted(widths)
    settings = [at_width(model, width) for width in widths]
    for own in settings:
        refuse_beyond_memory(own, checkpoints.build_decoder)
    seen: list[list[dict[str, list[float]]]] = []
    for width, own in zip(widths, settings, strict=True):
        say(f"width {width}")
        seen.append([_observe(own, seed, steps, rows, min(seq_len, int(model["max_len"]))) for seed in range(seeds)])

    def means(part: str) -> list[list[float]]:
        return [[_mean([one[part][step] for one in runs]) for runs in seen] for step in range(steps + 1)]

    sizes = {part: means(part) for part in PARTS}
    slopes = {part: [slope(widths, row) for row in table] for part, table in sizes.items()}
    kind = model.get("initialisation") or "GPT2Initialisation"
    path = kind["class_path"] if isinstance(kind, Mapping) else kind
    return MuPCheck(widths, sizes, slopes, means("loss"), path.rpartition(".")[2], seeds)


def at_width(model: Mapping[str, Any], width: int) -> dict[str, Any]:
    """Give a model's settings at another width: as many heads as keep their own width, and the rest in proportion.

    Raises:
        ConfigError: for a width that does not divide so.
    """
    base, heads = int(model["d_model"]), int(model["n_heads"])
    if width < 1 or heads * width % base:
        raise ConfigError(
            f"--widths {width}: {heads} heads at width {base} are no whole number there; give multiples of "
            f"{base // math.gcd(base, heads)}"
        )
    changed = {**model, "d_model": width, "n_heads": heads * width // base}
    if model.get("d_ff") is not None:
        changed["d_ff"] = max(round(model["d_ff"] * width / base), 1)
    attention = model.get("attention")
    groups = (attention.get("init_args") or {}).get("n_kv_heads") if isinstance(attention, Mapping) else None
    if attention is not None and groups is not None and groups > 1:
        if groups * width % base:
            raise ConfigError(f"--widths {width}: {groups} key-value heads at width {base} are no whole number there")
        changed["attention"] = {
            **attention,
            "init_args": {**attention["init_args"], "n_kv_heads": groups * width // base},
        }
    if model.get("tie_embeddings", True) and _is_mup(model.get("initialisation")):
        changed["logit_scale"] = model.get("logit_scale", 1.0) * base / width
    return changed


def slope(widths: Sequence[int], values: Sequence[float]) -> float:
    """Give the exponent of the power of the width that fits best, by least squares over logarithms; NaN for zeros."""
    if min(values) <= 0 or not all(map(math.isfinite, values)):
        return math.nan
    x, y = [math.log(width) for width in widths], [math.log(value) for value in values]
    x_mean, y_mean = _mean(x), _mean(y)
    products = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    return products / sum((a - x_mean) ** 2 for a in x)


def _observe(model: Mapping[str, Any], seed: int, steps: int, rows: int, seq_len: int) -> dict[str, list[float]]:
    """Train from one seed; give each part's mean |activation|, and the loss, before each step and after the last."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokens = torch.randint(int(model["vocab_size"]), (rows, seq_len + 1))
        decoder = checkpoints.build_decoder({**model, "dropout": 0.0})
        if model.get("lora") is not None:
            factories.build(model["lora"]).adapt(decoder)
        hold_still(decoder, model.get("freeze") or [])
        objective: Objective = factories.build(model["objective"])
        optimizer = _optimizer(decoder, model)
        sizes, experts = _Sizes(decoder), mixtures(decoder)
        for step in range(steps + 1):
            hidden = decoder.hidden(tokens[:, :-1])
            sizes.add("logits", decoder.logits(hidden))
            batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
            loss = objective(hidden, decoder.head, batch) / batch["targets"].numel()
            routing = take_routing(experts)  # what a run adds to its loss, and does not count as such
            minimised = loss if routing is None else loss + routing.loss
            sizes.close(loss)
            if not math.isfinite(loss.item()):
                raise TrainingError(
                    f"at width {model['d_model']:,} the loss is {loss.item()} after step {step}, and nothing can be "
                    "told; lower the learning rate"
                )
            if step < steps:
                optimizer.zero_grad()
                minimised.backward()
                optimizer.step()
        return sizes.by_step


def _optimizer(decoder: Decoder, model: Mapping[str, Any]) -> torch.optim.Optimizer:
    def widening(name: str, parameter: nn.Parameter) -> float:
        return decoder.initialisation.learning_rate_factor(name, parameter, decoder)

    groups = decay_groups(decoder, widening=widening, learning_rates=model.get("learning_rates"))
    try:
        optimizer: torch.optim.Optimizer = factories.build(model["optimizer"], groups)
    except ConfigError:  # in XLab's own words, which name the setting
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.optimizer: {error}") from error
    scale_rates(optimizer)
    return optimizer


class _Sizes:
    """Listens to a decoder's parts; of those that every layer has, the mean over layers counts."""

    def __init__(self, decoder: Decoder) -> None:
        self.by_step: dict[str, list[float]] = {part: [] for part in (*PARTS, "loss")}
        self._now: dict[str, list[float]] = {part: [] for part in PARTS}
        self._listen("embedding", decoder.embedding)
        self._listen("norm", decoder.norm)
        for block in decoder.blocks:
            self._listen("attention", block.attention)
            self._listen("feed_forward", block.feed_forward)
            self._listen("stream", block)

    def add(self, part: str, activations: Tensor) -> None:
        """Count what a part computes."""
        self._now[part].append(activations.detach().abs().mean().item())

    def close(self, loss: Tensor) -> None:
        """End a pass."""
        for part, sizes in self._now.items():
            self.by_step[part].append(_mean(sizes))
            sizes.clear()
        self.by_step["loss"].append(loss.item())

    def _listen(self, part: str, module: Any) -> None:
        module.register_forward_hook(lambda module, inputs, output: self.add(part, output))


def _is_mup(settings: Any) -> bool:
    path = settings.get("class_path") if isinstance(settings, Mapping) else settings
    return isinstance(path, str) and issubclass(factories.find_class(path), MuPInitialisation)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
