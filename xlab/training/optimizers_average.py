"""The average of weights that an optimiser keeps by itself, validated and saved in place of those it trains."""

from lightning.pytorch import Trainer
from torch import nn

from xlab.training.averaging import AveragedWeights
from xlab.training.schedule_free import TwoFaced


class OptimizersAverage(AveragedWeights):
    """Validate and save the weights that the optimiser itself keeps for that; ``XLabModel`` brings it along."""

    @property
    def setting(self) -> str:
        return "model.optimizer"

    def lay_average(self, trainer: Trainer, weights: dict[str, nn.Parameter]) -> None:
        for optimizer in _two_faced(trainer):
            optimizer.eval()

    def take_off(self, trainer: Trainer) -> None:
        # the weights themselves are copied back afterwards: there and back again would round
        for optimizer in _two_faced(trainer):
            optimizer.train()


def callbacks_of(optimizer: type) -> list[AveragedWeights]:
    """Give what a class of optimisers needs beside the training loop."""
    return [OptimizersAverage()] if issubclass(optimizer, TwoFaced) else []


def _two_faced(trainer: Trainer) -> list[TwoFaced]:
    return [optimizer for optimizer in trainer.optimizers if isinstance(optimizer, TwoFaced)]
