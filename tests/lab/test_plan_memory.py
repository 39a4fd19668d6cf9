"""The reckoned memory is what a real model's tensors take, and grows as it must."""

from typing import Any

import pytest
import torch
from tiny import make_model
from torch import Tensor

from xlab.errors import ConfigError
from xlab.lab.plan_memory import step_memory
from xlab.training.objectives import NextToken

DATA = {"seq_len": 16, "batch_size": 4, "packing": "ContiguousWindows"}


def memory(*, data: dict[str, Any] | None = None, trainer: dict[str, Any] | None = None, **model: Any) -> Any:
    settings = dict(make_model(**model).hparams)
    return step_memory(settings, {**DATA, **(data or {})}, trainer or {})


def kept_by_autograd(rows: int, **settings: Any) -> int:
    """Bytes of the tensors that a real forward pass keeps, weights left out, by autograd's own account."""
    model = make_model(**settings)
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    own |= {buffer.untyped_storage().data_ptr() for buffer in model.buffers()}
    kept: dict[int, Tensor] = {}  # held, so that no address is given twice

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.detach()
        return tensor

    ids = torch.zeros((rows, 16), dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        NextToken()(model.decoder.hidden(ids), model.decoder.head, {"inputs": ids, "targets": ids})
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"dropout": 0.1},
        {"norm": "LayerNorm", "feed_forward": "GELUFeedForward", "position": "LearnedPosition"},
        {"attention": {"class_path": "GroupedQueryAttention", "init_args": {"n_kv_heads": 1}}, "d_model": 32},
        {"tie_embeddings": False, "block": "PostNormBlock"},
    ],
)
def test_activations_are_what_autograd_keeps(settings: dict[str, Any]) -> None:
    reckoned = memory(data={"batch_size": 32}, **settings).activations
    found = kept_by_autograd(32, **settings)
    assert found <= 1.02 * reckoned  # the ids, and a logit table's sums, come on top
    assert reckoned <= 1.15 * found


def test_experts_are_reckoned_as_if_all_got_the_same() -> None:
    def of(**settings: Any) -> dict[str, Any]:
        return {"feed_forward": {"class_path": "MixtureOfExperts", "init_args": {"n_experts": 4, **settings}}}

    reckoned = memory(data={"batch_size": 32}, **of())
    assert reckoned.activations == pytest.approx(kept_by_autograd(32, **of()), rel=0.15)
    assert reckoned.gradients == 4 * sum(weight.numel() for weight in make_model(**of()).parameters())
    assert memory(data={"batch_size": 32}, **of(capacity_factor=0.5)).activations < 0.9 * reckoned.activations


def test_weights_gradients_and_optimiser_are_exact() -> None:
    model = make_model()
    weights = 4 * sum(weight.numel() for weight in model.parameters())
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    found = memory()
    assert weights + buffers <= found.weights <= 1.05 * (weights + buffers)
    assert found.gradients == weights
    adam = 2 * weights + 4 * len(list(model.parameters()))  # two moments, and a count of the steps
    assert found.optimizer == adam
    sgd = memory(optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}})
    assert sgd.optimizer == 0
    assert found.peak >= found.weights + found.gradients + found.optimizer
    assert found.working == found.peak - found.weights - found.gradients - found.optimizer
    assert found.kv_cache == model.decoder.cache_bytes(1)


def test_activations_grow_with_the_batch_and_the_rest_does_not() -> None:
    one, two = memory(data={"batch_size": 8}), memory(data={"batch_size": 16})
    assert two.activations == pytest.approx(2 * one.activations, rel=0.02)
    assert (two.weights, two.gradients, two.optimizer) == (one.weights, one.gradients, one.optimizer)


def test_accumulating_holds_gradients_beside_activations() -> None:
    assert memory(trainer={"accumulate_grad_batches": 4}).peak >= memory().peak


@pytest.mark.parametrize(("precision", "share"), [("64-true", 2.0), ("bf16-true", 0.5)])
def test_weights_have_the_precision_of_the_run(precision: str, share: float) -> None:
    found, usual = memory(trainer={"precision": precision}), memory()
    assert found.gradients == share * usual.gradients
    assert found.activations < usual.activations if share < 1 else found.activations > usual.activations


def test_mixed_precision_halves_activations_alone() -> None:
    found, usual = memory(trainer={"precision": "bf16-mixed"}, d_model=64), memory(d_model=64)
    assert found.gradients == usual.gradients
    assert found.activations < usual.activations


def test_nothing_is_drawn_and_nothing_stays() -> None:
    settings = dict(make_model(dropout=0.1).hparams)
    before = torch.get_rng_state()
    step_memory(settings, DATA, {"precision": "bf16-true"})
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_default_dtype() == torch.float32
    assert type(torch.empty(1)) is Tensor


def test_settings_that_make_no_model() -> None:
    with pytest.raises(ConfigError, match="n_heads"):
        step_memory({**make_model().hparams, "n_heads": 3}, DATA, {})
