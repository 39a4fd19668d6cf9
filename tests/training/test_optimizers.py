"""Weight decay touches every matrix, once, and nothing else; patterns freeze, and set rates apart."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from xlab.checkpoints import build_decoder
from xlab.errors import ConfigError
from xlab.training.optimizers import base_rate, decay_groups, hold_still, scale_rates

SIZES = {"vocab_size": 11, "max_len": 8, "d_model": 8, "n_layers": 2, "n_heads": 2}
BIASED = {"class_path": "MultiHeadAttention", "init_args": {"bias": True}}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"tie_embeddings": False},
    {"norm": "LayerNorm", "position": "LearnedPosition", "attention": BIASED},
    {"position": "ALiBi", "block": "PostNormBlock"},
]


def rates(optimizer: torch.optim.Optimizer, decoder: nn.Module) -> dict[str, tuple[float, float]]:
    """Each parameter's learning rate and weight decay, by name."""
    names = {parameter: name for name, parameter in decoder.named_parameters()}
    return {
        names[parameter]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


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


def test_rates_are_multiplied_by_what_all_matching_patterns_say() -> None:
    decoder = build_decoder({**SIZES, "norm": "LayerNorm"})
    patterns = {"embedding*": 0.1, "blocks.0.*": 0.5, "*_norm.*": 4.0}
    optimizer = torch.optim.AdamW(decay_groups(decoder, learning_rates=patterns), lr=0.01, weight_decay=0.2)
    assert [base_rate(group) for group in optimizer.param_groups] == [
        pytest.approx(0.01 / group["learning_rate_factor"]) for group in optimizer.param_groups
    ]
    scale_rates(optimizer)
    for group in optimizer.param_groups:
        assert base_rate(group) == pytest.approx(0.01)
    found = rates(optimizer, decoder)
    assert found.keys() == dict(decoder.named_parameters()).keys()
    assert found["embedding.weight"] == pytest.approx((0.001, 0.2))
    assert found["blocks.0.attention.qkv.weight"] == pytest.approx((0.005, 0.2))
    assert found["blocks.0.attention_norm.bias"] == pytest.approx((0.02, 0.0))
    assert found["blocks.1.attention_norm.bias"] == pytest.approx((0.04, 0.0))
    assert found["blocks.1.feed_forward.down.weight"] == pytest.approx((0.01, 0.2))
    assert optimizer.param_groups[0]["lr"] == 0.01  # that without factors comes first


def test_mup_s_factor_leaves_the_product_of_rate_and_decay() -> None:
    mup = {"class_path": "MuPInitialisation", "init_args": {"base_width": 2}}
    decoder = build_decoder({**SIZES, "tie_embeddings": False, "initialisation": mup})

    def widening(name: str, parameter: nn.Parameter) -> float:
        return decoder.initialisation.learning_rate_factor(name, parameter, decoder)

    groups = decay_groups(decoder, widening=widening, learning_rates={"*.attention.out.*": 0.5})
    optimizer = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.2)
    scale_rates(optimizer)
    found = rates(optimizer, decoder)
    assert found["embedding.weight"] == pytest.approx((0.01, 0.2))
    assert found["blocks.0.attention.qkv.weight"] == pytest.approx((0.0025, 0.8))
    assert found["blocks.0.attention.out.weight"] == pytest.approx((0.00125, 0.8))
    assert found["blocks.0.attention_norm.weight"] == pytest.approx((0.01, 0.0))


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ({"embeding*": 0.1}, "'embeding*' matches no trained parameter; the nearest are embedding.weight"),
        ({"blocks.0.*": 0.1}, "'blocks.0.*' matches no trained parameter"),  # they are frozen
        ({"norm*": 0.0}, "the factor of 'norm*' must be above 0, got 0.0; model.freeze holds weights still"),
        ({"norm*": float("nan")}, "must be above 0, got nan"),
        ({"norm*": "fast"}, "must be above 0, got fast"),
    ],
)
def test_senseless_rates_are_refused(patterns: dict[str, Any], message: str) -> None:
    decoder = build_decoder(SIZES)
    hold_still(decoder, ["blocks.0.*"])
    with pytest.raises(ConfigError, match=re.escape(message)):
        decay_groups(decoder, learning_rates=patterns)


def test_what_is_held_still_is_what_the_patterns_name() -> None:
    decoder = build_decoder(SIZES)
    hold_still(decoder, ["embedding*", "blocks.1.*", "*.feed_forward.*"])
    trained = [name for name, parameter in decoder.named_parameters() if parameter.requires_grad]
    assert trained == [
        "blocks.0.attention_norm.weight",
        "blocks.0.attention.qkv.weight",
        "blocks.0.attention.out.weight",
        "blocks.0.feed_forward_norm.weight",
        "norm.weight",
    ]


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["blocks.7.*"], "model.freeze: 'blocks.7.*' matches no parameter; the nearest are blocks."),
        (["nothing.alike"], "'nothing.alike' matches no parameter; the nearest are"),
        (["*"], "model.freeze: '*' leaves nothing to train"),
        (["embedding*", "blocks.*", "norm*"], "leaves nothing to train; take one out"),
    ],
)
def test_patterns_that_cannot_be_meant_are_refused(patterns: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        hold_still(build_decoder(SIZES), patterns)
