"""Activation checkpointing: blocks keep nothing but what enters them, and pass forward once more on the way back.

Letters: B batch, T positions, D width.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, is_grad_enabled, nn
from torch.utils.checkpoint import checkpoint

from xlab.errors import ConfigError
from xlab.transformer.attention import Context
from xlab.transformer.decoder import Decoder, run_block
from xlab.transformer.mixture_of_experts import MixtureOfExperts, mixtures, take_routing


class ActivationCheckpointing(Callback):
    """Trade time for memory: a third more arithmetic, and a block's activations are held for one block at a time.

    Chen et al. 2016 (arXiv 1604.06174). Gradients are the same, bit for bit, dropout included. The share of the peak
    that is logged (``mfu``) counts the model's arithmetic, not what is done twice, so that it says how fast training
    gets on.

    Args:
        every: of so many blocks one is treated so: 1 is all of them, 2 every second.

    Raises:
        ConfigError: for ``every`` below 1.
    """

    def __init__(self, every: int = 1) -> None:
        if every < 1:
            raise ConfigError(f"trainer.callbacks: ActivationCheckpointing.every must be at least 1, got {every}")
        self.every = every

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            decoder: Any = pl_module.decoder
            recompute(decoder, every=self.every)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        decoder: Any = pl_module.decoder
        decoder.run_block = run_block


def recompute(decoder: Decoder, *, every: int = 1) -> None:
    """Let a decoder's passes that are differentiated recompute every so many blocks."""
    decoder.run_block = RecomputedBlocks(list(decoder.blocks)[::every])


class RecomputedBlocks:
    """A way for a decoder to run its blocks: some of them twice.

    Args:
        blocks: which.
    """

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        self._experts = {block: mixtures(block) for block in blocks}

    def __call__(self, block: nn.Module, x: Tensor, context: Context) -> Tensor:
        if block not in self._experts or not is_grad_enabled():
            return run_block(block, x, context)
        settings: dict[str, Any] = {}
        if experts := self._experts[block]:
            settings["context_fn"] = _silent_again(experts)
        y: Tensor = checkpoint(run_block, block, x, context, use_reentrant=False, **settings)
        return y


def _silent_again(
    experts: tuple[MixtureOfExperts, ...],
) -> Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]:
    """Contexts of the first pass and of the second: what a mixture says of its tokens it has said after the first."""

    @contextmanager
    def again() -> Iterator[None]:
        try:
            yield
        finally:
            take_routing(experts)

    return lambda: (nullcontext(), again())
