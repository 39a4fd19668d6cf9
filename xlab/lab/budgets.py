"""What a run may cost, in tokens, operations or time, and how many optimiser steps that is."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xlab.errors import ConfigError

_AMOUNT = re.compile(r"(?P<number>\d+(\.\d*)?(e[+-]?\d+)?)(?P<scale>[kMGBT]?)[- ]?(?P<unit>[a-zA-Z-]+)")
_SCALES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}
_UNITS = {
    "tokens": ("tokens", 1.0),
    "flops": ("flops", 1.0),
    "s": ("seconds", 1.0),
    "min": ("seconds", 60.0),
    "h": ("seconds", 3600.0),
    "tokens-per-parameter": ("tokens per parameter", 1.0),
}


@dataclass(frozen=True)
class StepCost:
    """What an optimiser step of a configuration costs.

    Args:
        tokens: positions that it reads, over all ranks.
        flops_per_token: operations of training on one.
        parameters: weights beside the embeddings.
        measure: gives its seconds; called only where time is the budget.
    """

    tokens: int
    flops_per_token: int
    parameters: int
    measure: Callable[[], float]


@dataclass(frozen=True)
class Budget:
    """An amount of one of the things that training costs.

    Args:
        text: as it was given.
        amount: how much.
        of: tokens, flops, seconds or tokens per parameter.
    """

    text: str
    amount: float
    of: str

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read ``2M-tokens``, ``1e15-flops``, ``10min`` (or s, h), ``20-tokens-per-parameter``.

        Raises:
            ConfigError: for anything else.
        """
        given = _AMOUNT.fullmatch(text.strip())
        unit = _UNITS.get(given["unit"]) if given else None
        if given is None or unit is None or float(given["number"]) <= 0:
            raise ConfigError(
                f"--budget is {text!r}; give an amount such as 2M-tokens, 1e15-flops, 10min, or 20-tokens-per-parameter"
            )
        return cls(text, float(given["number"]) * _SCALES[given["scale"]] * unit[1], unit[0])

    def steps(self, cost: StepCost) -> int:
        """Give the optimiser steps that it pays for.

        Raises:
            ConfigError: when that is not one.
        """
        price, of = self._price(cost)
        steps = int(self.amount * (1 + 1e-12) / price)  # 0.3 s are three steps of 0.1 s
        if steps < 1:
            raise ConfigError(
                f"--budget {self.text} does not pay for one optimiser step, which costs {price:.3g} {of}; raise it, or "
                "lower data.batch_size or trainer.accumulate_grad_batches"
            )
        return steps

    def _price(self, cost: StepCost) -> tuple[float, str]:
        if self.of == "tokens":
            return cost.tokens, "tokens"
        if self.of == "flops":
            return cost.tokens * cost.flops_per_token, "flops"
        if self.of == "seconds":
            return cost.measure(), "s"
        return cost.tokens / cost.parameters, "tokens per parameter"


def step_cost(settings: dict[str, Any], *, vocab_size: int, measure: Callable[[], float]) -> StepCost:
    """Give what a step of a configuration costs; nothing is trained for it unless ``measure`` is called.

    Args:
        settings: all of fit's, as plain data.
        vocab_size: of the tokenizer.
        measure: gives a step's seconds.

    Raises:
        ConfigError: for settings that build no model.
    """
    import torch

    from xlab import checkpoints
    from xlab.lab.plan_steps import batch_shape
    from xlab.transformer.flops import flops_per_token

    data, trainer = settings["data"], settings["trainer"]
    windows, seq_len = batch_shape(data)
    ranks = _devices(trainer) * int(trainer["num_nodes"])
    tokens = windows * seq_len * trainer["accumulate_grad_batches"] * ranks
    sizes = {"vocab_size": vocab_size, "max_len": data["seq_len"]}
    with torch.device("meta"):
        decoder = checkpoints.build_decoder({**settings["model"], **sizes})
    embeddings = decoder.embedding.weight.numel() + (0 if decoder.output is None else decoder.output.weight.numel())
    parameters = sum(weight.numel() for weight in decoder.parameters()) - embeddings
    return StepCost(tokens, flops_per_token(decoder, data["seq_len"]), parameters, measure)


def _devices(trainer: dict[str, Any]) -> int:
    """Give the devices that Lightning would take on this machine."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch import Trainer

    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    try:
        chosen = Trainer(
            accelerator=trainer["accelerator"], devices=trainer["devices"], enable_model_summary=False, **quiet
        )
    except (ValueError, MisconfigurationException) as error:
        raise ConfigError(f"trainer: {error}") from error
    return int(chosen.num_devices)
