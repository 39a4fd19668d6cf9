"""How much memory a step takes, found without taking it: the real step, run on tensors that have shapes and no content.

Letters: B windows, T positions.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from xlab import checkpoints, factories
from xlab.data.packing import IGNORED
from xlab.lab.plan_steps import batch_shape, of_a_step
from xlab.training.activation_checkpointing import recompute
from xlab.training.objectives import Objective
from xlab.training.optimizers import decay_groups, hold_still
from xlab.transformer.decoder import Decoder
from xlab.transformer.mixture_of_experts import MixtureOfExperts, mixtures, take_routing

_AUTOCAST = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
_TRUE = {"64-true": torch.float64, "16-true": torch.float16, "bf16-true": torch.bfloat16}


@dataclass(frozen=True)
class StepMemory:
    """Bytes that a training step and a validation take on a rank.

    Args:
        weights: the parameters, and tables beside them.
        gradients: of them.
        optimizer: its state.
        activations: what the forward pass of a micro-batch keeps for the backward pass.
        peak: the most at any moment of two steps and a validation batch.
        kv_cache: what generating one text of the model's full length would hold; no part of training.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    peak: int
    kv_cache: int

    @property
    def working(self) -> int:
        """What the moment of the peak takes beside weights, gradients and optimiser: activations and more."""
        return self.peak - self.weights - self.gradients - self.optimizer


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's modes are not annotated
    """Count the bytes of every storage that an operation makes, until nothing holds it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: weakref.WeakKeyDictionary[torch.UntypedStorage, int] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in tree_iter(made):
            if isinstance(value, Tensor):
                self._enter(value.untyped_storage())
        return made

    def _enter(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        n_bytes = storage.nbytes()
        self._known[storage] = n_bytes
        self.live += n_bytes
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._leave, n_bytes)

    def _leave(self, n_bytes: int) -> None:
        self.live -= n_bytes


def step_memory(model: dict[str, Any], data: dict[str, Any], trainer: dict[str, Any]) -> StepMemory:
    """Run two training steps and a validation batch on tensors without content, and keep the books.

    Args:
        model: the settings of XLabModel as plain data, ``vocab_size`` and ``max_len`` among them.
        data: the settings of XLabDataModule.
        trainer: ``precision``, ``accumulate_grad_batches``, ``gradient_clip_val``, and among its ``callbacks`` perhaps
            one that recomputes activations.

    Raises:
        ConfigError: when the settings make no model.
        Exception: of any kind, where a part of the model's own needs values to compute with.
    """
    precision = str(trainer.get("precision") or "32-true")
    rows, seq_len = batch_shape(data)
    with FakeTensorMode(), Ledger() as ledger, _default_dtype(_TRUE.get(precision, torch.float32)):
        decoder = checkpoints.build_decoder(model)
        if model.get("lora") is not None:
            factories.build(model["lora"]).adapt(decoder)
        hold_still(decoder, model.get("freeze") or [])
        for layer in mixtures(decoder):
            layer.__class__ = _EvenlyLoaded
        for callback in of_a_step(trainer.get("callbacks")) or []:
            recompute(decoder, **(callback.get("init_args") or {}))
        objective = factories.build(model["objective"])
        weights = ledger.live
        with_documents = bool(data.get("document_mask"))
        simulation = _Simulation(decoder, objective, ledger, _AUTOCAST.get(precision), (rows, seq_len), with_documents)
        optimizer = factories.build(
            model["optimizer"], decay_groups(decoder, learning_rates=model.get("learning_rates"))
        )
        accumulated = min(int(trainer.get("accumulate_grad_batches") or 1), 2)  # the third is as the second
        for _ in range(2):
            activations = max(simulation.micro_batch() for _ in range(accumulated))
            gradients = sum(_bytes(weight.grad) for weight in decoder.parameters() if weight.grad is not None)
            if trainer.get("gradient_clip_val"):
                nn.utils.clip_grad_norm_(decoder.parameters(), float(trainer["gradient_clip_val"]))
            optimizer.step()
            optimizer.zero_grad()
        state = sum(_bytes(value) for value in tree_iter(optimizer.state_dict()) if isinstance(value, Tensor))
        simulation.validate()
        kv_cache = decoder.cache_bytes(1)
        return StepMemory(weights, gradients, state, activations, ledger.peak, kv_cache)


class _EvenlyLoaded(MixtureOfExperts):
    """Experts that all get the same: where tensors have no content, nothing tells whom a token is sent to."""

    def _load(self, experts: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor, list[int]]:
        share, over = divmod(len(experts), self.n_experts)
        most = self._capacity(len(experts))
        sizes = [share + (number < over) for number in range(self.n_experts)]
        sizes = sizes if most is None else [min(size, most) for size in sizes]
        return experts.new_zeros(self.n_experts), pairs[: sum(sizes)], sizes


class _Simulation:
    """The passes of a model, as XLabModel makes them."""

    def __init__(
        self,
        decoder: Decoder,
        objective: Objective,
        ledger: Ledger,
        autocast: torch.dtype | None,
        shape: tuple[int, int],
        with_documents: bool,
    ) -> None:
        self._decoder, self._objective, self._ledger = decoder, objective, ledger
        self._autocast, self._shape = autocast, shape
        self._with_documents = with_documents
        self._mixtures = mixtures(decoder)

    def micro_batch(self) -> int:
        """Pass forward and back; return the bytes that stood between the two."""
        inputs, targets = self._batch()
        batch = {"inputs": inputs, "targets": targets}
        if self._with_documents:
            batch["documents"] = torch.zeros_like(inputs)
        before = self._ledger.live
        with self._precision():
            hidden = self._decoder.hidden(inputs)
            loss = self._objective(hidden, self._decoder.head, batch)
            if (routing := take_routing(self._mixtures)) is not None:
                loss = loss + inputs.numel() * routing.loss
        kept = self._ledger.live - before
        (loss / self._decoder.max_len).backward()
        return kept

    @torch.no_grad()
    def validate(self) -> None:
        """Take the logits of a batch and measure them, as TokenMetrics does."""
        inputs, targets = self._batch()
        with self._precision():
            logits = self._decoder(inputs)
        rows = logits.flatten(0, 1)
        nn.functional.cross_entropy(rows.float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")
        rows.argmax(dim=-1)

    def _batch(self) -> tuple[Tensor, Tensor]:
        return torch.zeros(self._shape, dtype=torch.int64), torch.zeros(self._shape, dtype=torch.int64)

    @contextmanager
    def _precision(self) -> Iterator[None]:
        with torch.autocast("cpu", self._autocast or torch.bfloat16, enabled=self._autocast is not None):
            yield


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
