"""The head: final states in, logits out.

Letters: D width, V vocabulary.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from xlab.transformer.kernels import soft_cap


@dataclass(frozen=True)
class Head:
    """The projection to the vocabulary, as a decoder has it at the moment.

    Args:
        weight: (V, D).
        scale: states are multiplied by it before they meet the vocabulary.
        cap: soft cap of the logits (Gemma 2, arXiv 2408.00118, section 2).
    """

    weight: Tensor
    scale: float = 1.0
    cap: float | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        """Give the logits (..., V) of states (..., D)."""
        return self.bounded(F.linear(self.scaled(hidden), self.weight))

    def scaled(self, hidden: Tensor) -> Tensor:
        """What the matrix multiplies, (..., D)."""
        return hidden if self.scale == 1 else hidden * self.scale

    def bounded(self, logits: Tensor) -> Tensor:
        """What the matrix gives, (..., V), under the cap."""
        return logits if self.cap is None else soft_cap(logits, self.cap)
