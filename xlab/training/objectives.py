"""What a model is trained to do: sums over tokens, so that any mean can be taken over all of a step's tokens.

Letters: B rows, T positions, D width, V vocabulary.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from xlab.data.packing import IGNORED


class Objective(nn.Module):
    """A training loss over the decoder's final states."""

    def forward(self, hidden: Tensor, project: Callable[[Tensor], Tensor], targets: Tensor) -> Tensor:
        """Sum the loss over the tokens to predict.

        Args:
            hidden: (B, T, D), the decoder's final states.
            project: gives logits (..., V) for states (..., D): ``decoder.logits``.
            targets: (B, T) token ids; ``IGNORED`` where there is nothing to predict.

        Returns:
            A scalar in nats: the sum, not the mean.
        """
        raise NotImplementedError


class NextToken(Objective):
    """Cross-entropy of the next token."""

    def forward(self, hidden: Tensor, project: Callable[[Tensor], Tensor], targets: Tensor) -> Tensor:
        logits = project(hidden)  # (B, T, V)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
