"""LearningRates: the rate of each parameter group, where the groups differ."""

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer


def is_logged(trainer: Trainer) -> bool:
    """Tell whether the loggers will be given the figures of the optimiser step that is being made."""
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return bool(every) and (trainer.global_step + 1) % every == 0


class LearningRates(Callback):
    """Log ``lr/NAME`` of every parameter group, by its ``name`` or its number, if not all have the same rate."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if not is_logged(trainer):
            return
        rates = {
            f"lr/{group.get('name', number)}": float(group["lr"]) for number, group in enumerate(optimizer.param_groups)
        }
        if len(set(rates.values())) > 1:
            pl_module.log_dict(rates)
