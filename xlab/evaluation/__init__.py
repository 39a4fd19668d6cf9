"""How good a model is: held-out text, token by token, and lm-eval's tasks (``xlab.evaluation.harness``)."""

from xlab.evaluation.held_out import Figures, evaluate

__all__ = ["Figures", "evaluate"]
