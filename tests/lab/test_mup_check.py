"""The coordinate check tells a parametrisation whose activations grow with the width from one whose do not."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xlab import checkpoints
from xlab.errors import ConfigError
from xlab.lab.mup_check import PARTS, MuPCheck, at_width, mup_check, slope
from xlab.lab.mup_check_text import as_json, lines, verdict

ADAM = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 3e-3, "betas": [0.9, 0.95], "weight_decay": 0.1}}
MODEL: dict[str, Any] = {
    **{"vocab_size": 64, "max_len": 16, "d_model": 32, "n_layers": 2, "n_heads": 2, "dropout": 0.5},
    **{"objective": "NextToken", "optimizer": ADAM, "tie_embeddings": False},
}
MUP = {"class_path": "MuPInitialisation", "init_args": {"base_width": 32}}
WIDTHS = [32, 128, 384]


def check(**settings: Any) -> MuPCheck:
    return mup_check({**MODEL, **settings}, WIDTHS, steps=4, seeds=2, rows=4)


def test_the_usual_initialisation_grows_and_mup_does_not() -> None:
    usual, mup = check(), check(initialisation=MUP)
    assert {"attention", "feed_forward", "stream", "logits"} <= set(usual.growing)
    assert usual.slopes["logits"][0] == pytest.approx(0.5, abs=0.1)  # a sum of `width` independent terms
    assert mup.growing == []
    assert mup.slopes["logits"][0] == pytest.approx(-0.5, abs=0.1)
    assert "MuPInitialisation" in next(lines(mup))
    assert verdict(mup).startswith("nothing grows from width 32 to 384")
    assert "stream as width^" in verdict(usual)
    for part in PARTS:  # at its base width μP is the usual one
        assert [row[0] for row in usual.sizes[part]] == [row[0] for row in mup.sizes[part]]


def test_tied_embeddings_get_their_scale_of_the_logits() -> None:
    mup = check(initialisation=MUP, tie_embeddings=True)
    assert mup.growing == []


def test_what_is_measured_is_what_the_model_computes() -> None:
    made = mup_check(MODEL, WIDTHS[:2], steps=1, seeds=1, rows=3, seq_len=99)
    state = torch.get_rng_state()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokens = torch.randint(64, (3, 17))
        decoder = checkpoints.build_decoder({**at_width(MODEL, 128), "dropout": 0.0})
    assert torch.equal(state, torch.get_rng_state())
    logits = decoder(tokens[:, :-1])
    assert made.sizes["logits"][0][1] == pytest.approx(logits.abs().mean().item(), rel=1e-5)
    assert made.sizes["embedding"][0][1] == pytest.approx(
        decoder.embedding(tokens[:, :-1]).abs().mean().item(), rel=1e-5
    )
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert made.losses[0][1] == pytest.approx(loss.item(), rel=1e-5)
    assert made.losses[1][1] < made.losses[0][1]


def test_a_part_that_is_zero_has_no_exponent() -> None:
    made = mup_check({**MODEL, "initialisation": "ZeroOutputInitialisation"}, WIDTHS[:2], steps=1, seeds=1, rows=2)
    assert math.isnan(made.slopes["attention"][0])
    assert as_json(made)["exponents"]["attention"][0] is None
    assert any("is 0" in line for line in lines(made))


def test_what_is_frozen_does_not_move() -> None:
    frozen = {**MODEL, "freeze": ["embedding*"], "lora": {"class_path": "LoRA", "init_args": {"rank": 2}}}
    made = mup_check(frozen, WIDTHS[:2], steps=2, seeds=1, rows=2)
    assert made.sizes["embedding"][0] == made.sizes["embedding"][2]
    assert made.losses[0] != made.losses[2]


def test_experts_are_trained_with_the_loss_that_balances_them() -> None:
    def losses(balance: float) -> list[list[float]]:
        experts = {"class_path": "MixtureOfExperts", "init_args": {"n_experts": 4, "balance": balance}}
        return [list(row) for row in mup_check({**MODEL, "feed_forward": experts}, WIDTHS[:2], steps=2, seeds=1).losses]

    without, balanced = losses(0.0), losses(10.0)
    assert without[0] == balanced[0]  # it is no part of the loss that is told
    assert without[2] != balanced[2]


@given(st.floats(-3, 3), st.floats(1e-6, 1e6), st.lists(st.integers(1, 4096), min_size=2, max_size=5, unique=True))
def test_the_slope_of_a_power_is_its_exponent(exponent: float, factor: float, widths: list[int]) -> None:
    values = [factor * width**exponent for width in widths]
    assert slope(widths, values) == pytest.approx(exponent, abs=1e-6)


def test_the_family_keeps_the_width_of_its_heads() -> None:
    attention = {"class_path": "GroupedQueryAttention", "init_args": {"n_kv_heads": 2, "bias": True}}
    base = {**MODEL, "n_heads": 4, "d_ff": 96, "attention": attention}
    wide = at_width(base, 128)
    assert (wide["d_model"], wide["n_heads"], wide["d_ff"]) == (128, 16, 384)
    assert wide["attention"]["init_args"] == {"n_kv_heads": 8, "bias": True}
    assert at_width(base, 16)["attention"]["init_args"]["n_kv_heads"] == 1
    assert base["attention"]["init_args"]["n_kv_heads"] == 2
    with pytest.raises(ConfigError, match=r"--widths 20: 4 heads at width 32 .* give multiples of 8"):
        at_width(base, 20)
    with pytest.raises(ConfigError, match=r"--widths 24: 2 key-value heads at width 32"):
        at_width(base, 24)


def test_what_is_wrong_with_an_optimiser_is_said_once() -> None:
    def said(name: str, **settings: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            mup_check({**MODEL, "optimizer": {"class_path": name, "init_args": settings}}, WIDTHS[:2], steps=1)
        return str(caught.value)

    assert said("xlab.training.muon.MuonAdamW", lr=-1.0) == "model.optimizer.lr must not be negative, got -1.0"
    assert said("torch.optim.AdamW", lr=-1.0) == "model.optimizer: Invalid learning rate: -1.0"
