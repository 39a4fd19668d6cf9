"""Models whose weights are averaged beside training: the average is validated and saved, the weights go on learning."""

from abc import abstractmethod
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from xlab.errors import CheckpointError, ConfigError

KEY = "trained_weights"  # of a checkpoint: the weights that training goes on from, beside the average of ``state_dict``


class AveragedWeights(Callback):
    """Lay an average over the weights wherever the model is used, and take it off before it learns on.

    It lies there from the beginning of a validation to the next training batch, and when training is over. A checkpoint
    holds the average as the model, so that all that reads it has the same one, and the trained weights beside it, so
    that the run goes on bit for bit.
    """

    def __init__(self) -> None:
        self._aside: dict[str, Tensor] | None = None  # the trained weights while the average lies over them

    @property
    def setting(self) -> str:
        """What a user knows it by."""
        return type(self).__name__

    @abstractmethod
    def lay_average(self, trainer: Trainer, weights: dict[str, nn.Parameter]) -> None:
        """Overwrite trained weights with their average."""

    def take_off(self, trainer: Trainer) -> None:
        """Do what has to be done before the trained weights are copied back."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        names = [each.setting for each in _averages(trainer)]
        if stage == "fit" and len(names) > 1:
            raise ConfigError(f"{' and '.join(names)} would each average the weights; take one out, or choose another")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if any(hasattr(weight, "to_local") for weight in pl_module.parameters()):  # a DTensor
            raise ConfigError(
                f"{type(self).__name__} does not average weights that are sharded over ranks; take it out, or set "
                "trainer.strategy to ddp"
            )
        self._uncover(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._uncover(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._cover(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._cover(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        was_covered = self._aside is not None
        self._cover(trainer, pl_module)
        # copies: training may be going on when the file is written
        average = {name: weight.detach().clone() for name, weight in _trained(pl_module).items()}
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **average}
        checkpoint[KEY] = self._aside
        if not was_covered:
            self._uncover(trainer, pl_module)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take up a run: its model is the average, as when it was saved; the trained weights come back with a batch."""
        self._aside = None
        if trainer.state.fn != "fit" or KEY not in checkpoint:
            return
        trained = checkpoint[KEY]
        if trained.keys() != _trained(pl_module).keys():
            raise CheckpointError(
                "the checkpoint averaged other weights than are trained now; resume it with its own model.freeze and "
                "model.lora"
            )
        self._aside = dict(trained)

    @torch.no_grad()
    def _cover(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._aside is None:
            weights = _trained(pl_module)
            self._aside = {name: weight.detach().clone() for name, weight in weights.items()}
            self.lay_average(trainer, weights)

    @torch.no_grad()
    def _uncover(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._aside is not None:
            self.take_off(trainer)
            for name, weight in _trained(pl_module).items():
                weight.copy_(self._aside[name])
            self._aside = None


def refuse_without_average(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Refuse to resume a run that averaged its weights with a trainer that does not: it would train on the average.

    Raises:
        CheckpointError: saying what to add.
    """
    if trainer.state.fn == "fit" and KEY in checkpoint and not _averages(trainer):
        raise CheckpointError(
            "the checkpoint's run averaged its weights; resume it with the same -c files, such as conf/extra/ema.yaml, "
            "or start a new run from the average with --model.init_from"
        )


def _averages(trainer: Trainer) -> list[AveragedWeights]:
    return [each for each in getattr(trainer, "callbacks", []) if isinstance(each, AveragedWeights)]


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
