"""Schedule-free AdamW: no rate has to come down, and the run may end at any step (Defazio et al. 2024)."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol, overload, runtime_checkable

from torch.optim import Optimizer

from xlab.errors import ConfigError


@runtime_checkable
class TwoFaced(Protocol):
    """An optimiser that keeps other weights for evaluation than it takes gradients at."""

    def train(self) -> None:
        """Put those into the model that gradients are taken at."""

    def eval(self) -> None:
        """Put those into the model that are to be used."""


class ScheduleFreeAdamW(Optimizer):
    """AdamW of the ``schedulefree`` package (Defazio et al. 2024, arXiv 2405.15682).

    Gradients are taken between its iterates and their average, and the average is the model. The schedule to go with it
    is Constant, with a warm-up: steps of the warm-up weigh little in the average.

    Args:
        params: parameter groups.
        lr: the rate; larger ones than AdamW's serve, 1 to 10 times.
        betas: how far from the average gradients are taken, above 0, and AdamW's second.
        eps: AdamW's.
        weight_decay: of matrices.
        r: power of the step by which iterates weigh in the average.
        weight_lr_power: power of the highest rate so far by which they do.

    Raises:
        ConfigError: if the package is missing, or betas begin with 0.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
    ) -> None:
        if not 0 < betas[0] < 1:
            raise ConfigError(f"ScheduleFreeAdamW's betas must begin with a number between 0 and 1, got {betas[0]}")
        make: Any = _package().AdamWScheduleFree
        self._inner = make(
            params,
            lr=lr,
            betas=(betas[0], betas[1]),
            eps=eps,
            weight_decay=weight_decay,
            r=r,
            weight_lr_power=weight_lr_power,
        )
        super().__init__(self._inner.param_groups, self._inner.defaults)
        self.train()

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take a step by the gradients that there are, or that ``closure`` makes; gives what it gives."""
        loss: float | None = self._shared().step(closure)
        return loss

    def train(self) -> None:
        """Put the weights into the model that gradients are taken at."""
        self._shared().train()

    def eval(self) -> None:
        """Put the average into the model."""
        self._shared().eval()

    def _shared(self) -> Any:
        # anew each time: a state that is loaded replaces both
        self._inner.param_groups, self._inner.state = self.param_groups, self.state
        return self._inner


def _package() -> Any:
    try:
        import schedulefree
    except ImportError:
        raise ConfigError(
            "ScheduleFreeAdamW needs the package schedulefree; install it with: pip install 'schedulefree>=1.4'"
        ) from None
    return schedulefree
