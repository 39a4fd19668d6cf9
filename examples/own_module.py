"""A training of one's own: a LightningModule on XLab's data, with XLab's command line.

python -m examples.own_module fit -c examples/own_module.yaml
python -m examples.own_module validate --ckpt_path logs/version_0
./infer.py logs/version_0 "The"
"""

from typing import Any

import torch
from torch import Tensor

from xlab.commands.train import main
from xlab.data.packing import Batch
from xlab.errors import ConfigError
from xlab.models import XLabModel


class NoisyModel(XLabModel):
    """A model that learns from inputs some of whose tokens are exchanged for others (Xie et al. 2017, 1703.02573).

    What is to be predicted stays as it is, so the model learns to lean on more than the last tokens.

    Args:
        noise: share of the inputs that are exchanged for tokens drawn at random.
        settings: as for XLabModel.
    """

    def __init__(self, noise: float = 0.1, **settings: Any) -> None:
        super().__init__(**settings)
        if not 0 <= noise < 1:
            raise ConfigError(f"model.noise must be in [0, 1), got {noise}")
        self.noise = noise

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        inputs = batch["inputs"]
        is_exchanged = torch.rand(inputs.shape, device=inputs.device) < self.noise
        drawn = torch.randint_like(inputs, self.vocab_size)
        return super().training_step(batch | {"inputs": inputs.where(~is_exchanged, drawn)}, batch_idx)


if __name__ == "__main__":
    main(obj=NoisyModel)
