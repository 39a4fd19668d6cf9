"""Figures of a whole data set, each over all of its tokens.

Letters: B rows, T positions, V vocabulary.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from xlab.data.packing import IGNORED
from xlab.errors import TrainingError


class TokenMetrics(Metric):
    """Loss, perplexity, bits per byte and accuracy, from sums that ranks can add.

    Bits per byte divide by the bytes of the source documents that the predicted tokens stand for, so a model that
    knows nothing scores ``tokens * log2(V) / bytes`` whatever its tokenizer.
    """

    full_state_update = False
    micronats: Tensor
    tokens: Tensor
    hits: Tensor
    n_bytes: Tensor

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name in ("micronats", "tokens", "hits", "n_bytes"):
            # whole numbers: their sum is the same in any order and on any device, and never drifts
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor, n_bytes: Tensor) -> None:
        """Add a batch.

        Args:
            logits: (B, T, V).
            targets: (B, T) token ids, ``IGNORED`` where there is nothing to predict.
            n_bytes: (B,) bytes of source text that each row's targets stand for.
        """
        rows, wanted = logits.flatten(0, 1), targets.flatten()
        # fp32: bf16 logits lose the digits that two recipes differ in
        nats = F.cross_entropy(rows.float(), wanted, ignore_index=IGNORED, reduction="sum").item()
        if not math.isfinite(nats):
            raise TrainingError(
                "the validation loss is not a finite number; lower the learning rate, or clip gradients"
            )
        self.micronats += round(nats * 1e6)
        self.tokens += (wanted != IGNORED).sum()
        self.hits += (rows.argmax(dim=-1) == wanted).sum()
        self.n_bytes += n_bytes.sum()

    def compute(self) -> dict[str, float]:
        """Give the figures; NaN where nothing was counted."""
        nats, tokens, hits, n_bytes = self.micronats.item() / 1e6, int(self.tokens), int(self.hits), int(self.n_bytes)
        loss = nats / tokens if tokens else math.nan
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),  # e**710 is beyond float64
            "bits_per_byte": nats / math.log(2) / n_bytes if n_bytes else math.nan,
            "accuracy": hits / tokens if tokens else math.nan,
        }
