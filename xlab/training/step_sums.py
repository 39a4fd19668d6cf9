"""What the optimiser step that is being accumulated adds up over its micro-batches."""

from dataclasses import dataclass

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from xlab.data.ranks import data_ranks
from xlab.transformer.mixture_of_experts import Routing


@dataclass
class StepSums:
    """Sums over the tokens that a step predicts on this rank.

    Attributes:
        loss: of losses, a scalar; None before the step's first micro-batch.
        tokens: how many there are, a scalar; None as ``loss``.
        routing: of what experts say of each token, (2,): balance loss and dropped; None where there are no experts.
    """

    loss: Tensor | None = None
    tokens: Tensor | None = None
    routing: Tensor | None = None

    def add(self, loss: Tensor, tokens: Tensor, routing: Routing | None) -> None:
        """Count a micro-batch: the sum of its losses, its tokens, and what its experts say on average."""
        if self.loss is None or self.tokens is None:
            self.loss, self.tokens = torch.zeros_like(loss), torch.zeros_like(tokens)
        self.loss = self.loss + loss.detach()
        self.tokens = self.tokens + tokens
        if routing is not None:
            figures = tokens * torch.stack([routing.balance, routing.dropped])
            self.routing = figures if self.routing is None else self.routing + figures

    def take(self, trainer: Trainer) -> list[float]:
        """Give the sums over all ranks, those of ``routing`` last, if any; the next step's begin at nothing."""
        assert self.loss is not None
        assert self.tokens is not None
        sums = torch.stack([self.loss.float(), self.tokens.float()])
        if self.routing is not None:
            sums = torch.cat([sums, self.routing.float()])
        if trainer.world_size > 1:
            _, data_size = data_ranks(trainer)
            sums = trainer.strategy.reduce(sums, reduce_op="sum")
            sums = sums * (data_size / trainer.world_size)  # what several ranks read alike counts once
        self.loss = self.tokens = self.routing = None
        totals: list[float] = sums.tolist()
        return totals
