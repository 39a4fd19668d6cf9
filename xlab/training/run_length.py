"""How long a run is, and how long a part of it that was given in steps, in tokens or as a share of the whole."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from xlab.data.ranks import data_ranks
from xlab.errors import ConfigError

if TYPE_CHECKING:  # whoever reads a checkpoint meets schedules, and need not wait for Lightning
    from lightning.pytorch import Trainer


class RunLength(int):
    """A run's number of optimiser steps, which also knows how many tokens a step takes.

    Schedules are made with it: one of your own may take it for the plain number that it is.

    Attributes:
        tokens_per_step: predicted or not, of all ranks and micro-batches; None where nobody can say.
    """

    tokens_per_step: int | None

    def __new__(cls, steps: int, tokens_per_step: int | None = None) -> "RunLength":
        length = super().__new__(cls, steps)
        length.tokens_per_step = tokens_per_step
        return length

    @classmethod
    def of(cls, trainer: "Trainer") -> "RunLength":
        """Give that of the run that a trainer is about to make; it must have an end."""
        datamodule: Any = getattr(trainer, "datamodule", None)
        tokens = _tokens_per_batch(getattr(datamodule, "hparams", {}))
        per_step = None if tokens is None else tokens * trainer.accumulate_grad_batches * data_ranks(trainer)[1]
        return cls(int(trainer.estimated_stepping_batches), per_step)


def in_steps(
    name: str, total_steps: int, *, steps: int | None, fraction: float | None, tokens: int | None
) -> int | None:
    """Give the length of a part of a run in optimiser steps; None where nothing was given.

    Args:
        name: of the part, as the settings begin: ``warmup`` of ``warmup_steps``.
        total_steps: of the run; a ``RunLength`` where tokens are to be counted.
        steps: the length, or
        fraction: its share of the run, in [0, 1], or
        tokens: what it reads; both are rounded to whole steps.

    Raises:
        ConfigError: for two lengths at once, one that is none, or tokens where nobody knows how many a step takes.
    """
    lengths = {f"{name}_steps": steps, f"{name}_fraction": fraction, f"{name}_tokens": tokens}
    given = {key: value for key, value in lengths.items() if value is not None}
    if len(given) > 1:
        shown = " and ".join(f"model.schedule.{key} {value}" for key, value in given.items())
        raise ConfigError(f"{shown} are the same length, given twice; keep one and set the others to null")
    if fraction is not None:
        if not 0 <= fraction <= 1:
            raise ConfigError(f"model.schedule.{name}_fraction must be between 0 and 1, got {fraction}")
        return round(total_steps * fraction)
    if tokens is not None:
        if tokens < 0:
            raise ConfigError(f"model.schedule.{name}_tokens must not be negative, got {tokens}")
        per_step = getattr(total_steps, "tokens_per_step", None)
        if per_step is None:
            raise ConfigError(
                f"model.schedule.{name}_tokens is {tokens}, and it is not known here how many tokens a step takes; "
                f"give {name}_steps or {name}_fraction"
            )
        return round(tokens / int(per_step))
    return steps


def _tokens_per_batch(settings: Mapping[str, Any]) -> int | None:
    """Read off a datamodule's settings how many tokens a rank's micro-batch has."""
    packing = settings.get("packing")
    budget: Any = packing.get("init_args", {}).get("max_tokens") if isinstance(packing, Mapping) else None
    if budget is not None:  # a packing that makes whole batches
        return int(budget)
    if "seq_len" not in settings or "batch_size" not in settings:
        return None
    return int(settings["seq_len"]) * int(settings["batch_size"])
