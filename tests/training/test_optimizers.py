"""Weight decay touches every matrix, once, and nothing else."""

from typing import Any

import pytest
import torch
from torch import nn

from xlab.checkpoints import build_decoder
from xlab.training.optimizers import decay_groups

SIZES = {"vocab_size": 11, "max_len": 8, "d_model": 8, "n_layers": 2, "n_heads": 2}
BIASED = {"class_path": "MultiHeadAttention", "init_args": {"bias": True}}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"tie_embeddings": False},
    {"norm": "LayerNorm", "position": "LearnedPosition", "attention": BIASED},
    {"position": "ALiBi", "block": "PostNormBlock"},
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_groups_hold_each_trainable_parameter_once(variant: dict[str, Any]) -> None:
    decoder = build_decoder({**SIZES, **variant})
    decoder.blocks[0].requires_grad_(False)
    grouped = [id(parameter) for group in decay_groups(decoder) for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(parameter) for parameter in decoder.parameters() if parameter.requires_grad}


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_gradients_only_the_matrices_shrink(variant: dict[str, Any]) -> None:
    decoder = build_decoder({**SIZES, **variant})
    before = {name: parameter.detach().clone() for name, parameter in decoder.named_parameters()}
    optimizer = torch.optim.AdamW(decay_groups(decoder), lr=0.1, weight_decay=0.5)
    for parameter in decoder.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in decoder.named_parameters():
        factor = 1 - 0.1 * 0.5 if parameter.ndim == 2 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor, msg=name)


def test_a_group_without_parameters_is_left_out() -> None:
    assert len(decay_groups(nn.Linear(2, 3, bias=False))) == 1
    assert len(decay_groups(nn.LayerNorm(4))) == 1
    assert decay_groups(nn.LayerNorm(4))[0]["weight_decay"] == 0.0
