"""Recomputed activations give the same gradients, bit for bit, and a mixture speaks of its tokens once."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import LIGHTNING_NOISE, make_data, make_model, make_trainer, write_corpus
from xlab.errors import ConfigError
from xlab.models import XLabModel
from xlab.training.activation_checkpointing import ActivationCheckpointing, recompute
from xlab.transformer.decoder import run_block
from xlab.transformer.mixture_of_experts import take_routing

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]

MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"dropout": 0.2, "attention": {"class_path": "MultiHeadAttention", "init_args": {"dropout": 0.1}}},
    "embedding shortcut": {"block": "EmbeddingShortcutBlock", "value_mix": "ValueEmbeddings"},
    "value residual": {"value_mix": "ValueResidual"},
    "windows": {"attention": {"class_path": "MultiHeadAttention", "init_args": {"windows": [4, None]}}},
    "experts": {
        "dropout": 0.1,
        "feed_forward": {
            "class_path": "MixtureOfExperts",
            "init_args": {"n_experts": 4, "capacity_factor": 1.0, "z": 0.01},
        },
    },
}


def gradients(model: XLabModel, *, documents: bool) -> dict[str, Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(300, (2, 17))
    batch = {"inputs": ids[:, :-1], "targets": ids[:, 1:]}
    if documents:
        batch["documents"] = (torch.arange(16) > 9).long().expand(2, -1)
    loss = model.training_pass(batch)
    routing = take_routing(model._mixtures)
    (loss if routing is None else loss + routing.loss).backward()
    assert take_routing(model._mixtures) is None  # passing forward once more says nothing once more
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("documents", [False, True], ids=["one text", "documents"])
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("kind", MODELS)
def test_gradients_are_the_same_bit_for_bit(kind: str, every: int, documents: bool) -> None:
    whole = make_model(n_layers=3, **MODELS[kind]).train()
    again = copy.deepcopy(whole)
    recompute(again.decoder, every=every)
    expected, found = gradients(whole, documents=documents), gradients(again, documents=documents)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_every_so_many_blocks_pass_forward_twice() -> None:
    model = make_model(n_layers=5).train()
    passes = [0] * 5
    for index, block in enumerate(model.decoder.blocks):
        block.register_forward_pre_hook(lambda *_, index=index: passes.__setitem__(index, passes[index] + 1))
    recompute(model.decoder, every=2)
    gradients(model, documents=False)
    assert passes == [2, 1, 2, 1, 2]
    with torch.no_grad():
        model(torch.zeros(1, 4, dtype=torch.int64))
    assert passes == [3, 2, 3, 2, 3]


def test_less_is_kept_for_the_way_back() -> None:
    def kept(every: int | None) -> int:
        model, found = make_model(n_layers=4, d_model=32).train(), 0
        if every is not None:
            recompute(model.decoder, every=every)

        def count(tensor: Tensor) -> Tensor:
            nonlocal found
            found += tensor.numel()
            return tensor

        ids = torch.zeros(4, 16, dtype=torch.int64)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model.training_pass({"inputs": ids, "targets": ids})
        return found

    assert kept(1) < 0.5 * kept(2) + 0.5 * kept(1) < kept(2) < kept(None)


def test_a_run_is_the_same_and_its_model_afterwards_as_it_was(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    models = []
    for callbacks in ([], [ActivationCheckpointing(every=1)]):
        models.append(make_model(dropout=0.1))
        make_trainer(tmp_path, 3, *callbacks).fit(models[-1], datamodule=make_data(corpus))
    one, other = (model.state_dict() for model in models)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert models[1].decoder.run_block is run_block


def test_every_must_be_a_number_of_blocks() -> None:
    with pytest.raises(ConfigError, match=r"ActivationCheckpointing\.every must be at least 1, got 0"):
        ActivationCheckpointing(every=0)
