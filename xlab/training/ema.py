"""An exponential moving average of the weights, for validation, checkpoints and export."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from xlab.errors import ConfigError
from xlab.training.averaging import AveragedWeights


class EMA(AveragedWeights):
    """After each optimiser step: average ← d · average + (1 − d) · weights (Polyak and Juditsky 1992 averaged equally).

    Lightning's EMAWeightAveraging holds the weights of the beginning as firmly as any others, copies whole modules, and
    goes on from the average where a run is resumed from what it saved at its end.

    Args:
        decay: d once the average is old, in (0, 1). After n steps it is at most (1 + n) / (10 + n), so that a young
            average forgets the weights that nothing had learnt (as TensorFlow's ExponentialMovingAverage does).
    """

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        if not 0 < decay < 1:
            raise ConfigError(f"EMA's decay must be between 0 and 1, got {decay}")
        self.decay = decay
        self._average: dict[str, Tensor] = {}  # in fp32 at least: bf16 would round small steps away
        self._steps = 0

    def decay_at(self, step: int) -> float:
        """Give d of optimiser step ``step``, counted from 0."""
        return min(self.decay, (1 + step) / (10 + step))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        trained = {name: weight for name, weight in pl_module.named_parameters() if weight.requires_grad}
        if not self._average:  # of a run that begins, or one that goes on from a checkpoint without an average
            self._steps = trainer.global_step
            self._average = {name: weight.detach().to(_wide(weight), copy=True) for name, weight in trained.items()}
        self._average = {name: self._average[name].to(weight.device) for name, weight in trained.items()}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._take_in(trainer, dict(pl_module.named_parameters()))

    @torch.no_grad()
    def _take_in(self, trainer: Trainer, weights: Mapping[str, Tensor]) -> None:
        if trainer.global_step == self._steps:  # a step that is still being accumulated, or was taken in
            return
        now = [weights[name].detach().to(average.dtype) for name, average in self._average.items()]
        torch._foreach_lerp_(list(self._average.values()), now, 1 - self.decay_at(self._steps))
        self._steps = trainer.global_step

    def lay_average(self, trainer: Trainer, weights: dict[str, nn.Parameter]) -> None:
        self._take_in(trainer, weights)  # a callback before this one may save at a step's end
        for name, weight in weights.items():
            weight.copy_(self._average[name])

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if not self._average:  # nothing was trained yet
            return
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        weights = checkpoint["state_dict"]
        # of weights that are narrower than their average, what they cannot hold
        wide = {name: average for name, average in self._average.items() if average.dtype != weights[name].dtype}
        checkpoint["ema"] = {"steps": self._steps, "average": {name: average.clone() for name, average in wide.items()}}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        self._average = {}
        if self._aside is not None and "ema" in checkpoint:
            self._steps = int(checkpoint["ema"]["steps"])
            known = {**checkpoint["state_dict"], **checkpoint["ema"]["average"]}
            self._average = {name: known[name].to(_wide(known[name]), copy=True) for name in self._aside}


def _wide(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)
