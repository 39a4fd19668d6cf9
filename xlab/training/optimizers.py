"""Which parameters an optimiser treats how."""

from typing import Any

from torch import nn


def decay_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Split the trainable parameters in two: matrices, which decay, and vectors (norms, biases), which do not.

    Returns:
        Parameter groups for a ``torch.optim.Optimizer``; the first takes the optimiser's own ``weight_decay``.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
