"""What is done about a step whose loss or gradient is no number, or far above those before it."""

import json
import math
from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from xlab.errors import ConfigError, TrainingError


@dataclass(frozen=True)
class StepFigures:
    """What is known of an optimiser step before it is made.

    Attributes:
        step: how many were made before it.
        loss: the mean over its tokens, on all ranks.
        gradient_norm: of all parameters together, before clipping.
    """

    step: int
    loss: float
    gradient_norm: float


class SpikePolicy(Callback):
    """Look at every step before it is made; what is wrong with one is decided here, and what is done by subclasses.

    A step is bad if its loss or gradient norm is not finite, or lies more than ``deviations`` standard deviations above
    the mean of the last ``window`` good steps (as in OLMo 2, arXiv 2501.00656). Its batch is written into the run's
    folder: ``spikes.jsonl``, ``spikes.rank1.jsonl``, … hold a JSON line for each bad step, with its token ids.

    Args:
        deviations: above the mean; None: only what is not finite is bad.
        window: steps; judged is once half as many were seen.

    Raises:
        ConfigError: for deviations not above 0, or a window below 4.
    """

    def __init__(self, deviations: float | None = None, window: int = 128) -> None:
        if deviations is not None and not deviations > 0:
            raise ConfigError(
                f"trainer.callbacks: deviations must be above 0, got {deviations}; leave it out to look for NaN alone"
            )
        if window < 4:
            raise ConfigError(f"trainer.callbacks: window must be at least 4 steps, got {window}")
        self._deviations = deviations
        self._recent: deque[tuple[float, float]] = deque(maxlen=window)
        self._micro_batches: list[Any] = []  # of the step that is being accumulated

    @abstractmethod
    def refuse(self, figures: StepFigures, reason: str) -> None:
        """Take note of a bad step that is to be left out, or raise TrainingError.

        Args:
            figures: the step's.
            reason: what is wrong with it.
        """

    def accepts(self, trainer: Trainer, figures: StepFigures) -> bool:
        """Tell whether the step may be made; every rank is asked, and all are told the same figures."""
        reason = self._reason(figures)
        if reason is None:
            self._recent.append((figures.loss, figures.gradient_norm))
        else:
            self._write_down(trainer, figures, reason)
        self._micro_batches = []
        if reason is not None:
            self.refuse(figures, reason)
        return reason is None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._micro_batches.append(batch)

    def state_dict(self) -> dict[str, Any]:
        return {"recent": [list(pair) for pair in self._recent]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._recent.extend((float(loss), float(norm)) for loss, norm in state_dict["recent"])

    def _reason(self, figures: StepFigures) -> str | None:
        seen = [("loss", figures.loss), ("gradient norm", figures.gradient_norm)]
        for place, (name, value) in enumerate(seen):
            if not math.isfinite(value):
                return f"the {name} is {value}"
            if self._deviations is None or 2 * len(self._recent) < (self._recent.maxlen or 0):
                continue
            before = [pair[place] for pair in self._recent]
            # statistics.pstdev sums exactly, which takes a hundred times as long
            mean = sum(before) / len(before)
            deviation = math.sqrt(sum((one - mean) ** 2 for one in before) / len(before))
            if value > mean + self._deviations * deviation:
                return f"the {name} is {value:.4g}, where the {len(before)} steps before it had {mean:.4g}"
        return None

    def _write_down(self, trainer: Trainer, figures: StepFigures, reason: str) -> None:
        if trainer.log_dir is None or not self._micro_batches:
            return
        rank = trainer.global_rank
        ids = {
            name: [row for batch in self._micro_batches for row in batch[name].tolist()]
            for name in ("inputs", "targets")
        }
        line = {
            "step": figures.step,
            "reason": reason,
            "loss": _plain(figures.loss),
            "gradient_norm": _plain(figures.gradient_norm),
            **ids,
        }
        path = Path(trainer.log_dir) / (f"spikes.rank{rank}.jsonl" if rank else "spikes.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class StopAtSpike(SpikePolicy):
    """End the run at the first bad step, which is not made: the weights are those before it."""

    def refuse(self, figures: StepFigures, reason: str) -> None:
        raise TrainingError(
            f"{reason} at step {figures.step}; lower the learning rate, or go on from the last checkpoint with "
            "trainer.gradient_clip_val set"
        )


class SkipSpikes(SpikePolicy):
    """Leave bad steps out: weights and optimiser stay as they are, the schedule and the data go on.

    ``skipped_steps`` is logged, counted over resumptions, too.

    Args:
        deviations: as in SpikePolicy.
        window: as in SpikePolicy.
        max_in_a_row: bad steps one after the other, after which the run ends.

    Raises:
        ConfigError: for a setting that cannot be.
    """

    def __init__(self, deviations: float | None = None, window: int = 128, max_in_a_row: int = 10) -> None:
        super().__init__(deviations, window)
        if max_in_a_row < 1:
            raise ConfigError(
                f"trainer.callbacks: max_in_a_row must be at least 1, got {max_in_a_row}; StopAtSpike skips none"
            )
        self._max_in_a_row = max_in_a_row
        self.skipped = 0
        self._in_a_row = 0

    def refuse(self, figures: StepFigures, reason: str) -> None:
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row > self._max_in_a_row:
            raise TrainingError(
                f"{reason} at step {figures.step}, and the {self._max_in_a_row} steps before it were skipped as well; "
                "lower the learning rate, or look at spikes.jsonl in the run's folder"
            )

    def accepts(self, trainer: Trainer, figures: StepFigures) -> bool:
        is_good = super().accepts(trainer, figures)
        if is_good:
            self._in_a_row = 0
        return is_good

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._in_a_row and not self._micro_batches:
            pl_module.log("skipped_steps", float(self.skipped), prog_bar=True)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.skipped, self._in_a_row = int(state_dict["skipped"]), int(state_dict["in_a_row"])


def accepted(trainer: Trainer, figures: StepFigures) -> bool:
    """Ask the run's policy whether a step may be made; a run that has none stops at what is not finite.

    Raises:
        TrainingError: if the policy is to stop.
    """
    if str(trainer.precision) == "16-mixed" and not math.isfinite(figures.gradient_norm):
        # how fp16's loss scaling finds its scale: it skips such a step by itself
        return True
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    policies = [callback for callback in callbacks if isinstance(callback, SpikePolicy)] or [StopAtSpike()]
    verdicts = [policy.accepts(trainer, figures) for policy in policies]  # each is to see every step
    return all(verdicts)


def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Give the 2-norm of all gradients together, as a scalar tensor; sharded ones count whole."""
    norm = nn.utils.get_total_norm(gradients)
    whole: Tensor = norm.full_tensor() if isinstance(norm, torch.distributed.tensor.DTensor) else norm
    return whole


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)  # NaN is no JSON
