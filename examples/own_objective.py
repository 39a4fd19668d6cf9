"""An objective of one's own: a token costs less where little stands before it.

    ./xlab.py fit -c examples/own_objective.yaml

Letters: T positions, V vocabulary, n tokens of a chunk.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from xlab.errors import ConfigError
from xlab.training.objectives import NextToken


class ContextWeighted(NextToken):
    """Cross-entropy whose weight grows with the place in the document, from 1/ramp to 1.

    A document's first tokens are guesses, whatever the model; this spends less on them.

    Args:
        ramp: tokens of a document after which each counts in full.
        z_loss: as for NextToken.
        label_smoothing: as for NextToken.
    """

    needs = ("documents",)  # refused in one line, naming data.document_mask, where batches have none

    def __init__(self, ramp: int = 32, z_loss: float = 0.0, label_smoothing: float = 0.0) -> None:
        super().__init__(z_loss, label_smoothing)
        if ramp < 1:
            raise ConfigError(f"objective.ramp must be at least 1, got {ramp}")
        self.ramp = ramp

    def losses(self, logits: Tensor, rows: Tensor, places: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        losses = super().losses(logits, rows, places, batch)  # (n,)
        documents = batch["documents"][rows]  # (n, T)
        is_own = documents == documents.gather(1, places.unsqueeze(1))
        is_before = torch.arange(documents.size(1), device=documents.device) <= places.unsqueeze(1)
        n_before = (is_own & is_before).sum(1)  # in the window, the token that predicts among them
        return losses * (n_before / self.ramp).clamp(max=1.0)
