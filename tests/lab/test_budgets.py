"""A budget is read in every unit, and pays for whole steps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlab.errors import ConfigError
from xlab.lab.budgets import Budget, StepCost, step_cost

COST = StepCost(tokens=2048, flops_per_token=10_000, parameters=4096, measure=lambda: 0.1)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("2M-tokens", 976),
        ("2048 tokens", 1),
        ("1e9-flops", 48),
        ("10min", 6000),
        ("0.3s", 3),
        ("1h", 36000),
        ("20-tokens-per-parameter", 40),
        ("4kflops", None),
        ("2047-tokens", None),
    ],
)
def test_a_budget_pays_for_steps(text: str, steps: int | None) -> None:
    if steps is not None:
        assert Budget.parse(text).steps(COST) == steps
        return
    with pytest.raises(ConfigError, match="does not pay for one optimiser step"):
        Budget.parse(text).steps(COST)


@pytest.mark.parametrize("text", ["", "2M", "tokens", "-3min", "0-tokens", "2X-tokens", "2M-token", "ten minutes"])
def test_what_is_no_budget_is_said(text: str) -> None:
    with pytest.raises(ConfigError, match="give an amount such as"):
        Budget.parse(text)


@given(st.integers(1, 10**9))
def test_never_more_than_the_budget(tokens: int) -> None:
    cost = StepCost(tokens=7, flops_per_token=3, parameters=1, measure=lambda: 1.0)
    if tokens >= 7:
        steps = Budget.parse(f"{tokens}-tokens").steps(cost)
        assert steps * 7 <= tokens < (steps + 1) * 7


def test_time_is_measured_only_for_time() -> None:
    def never() -> float:
        raise AssertionError

    Budget.parse("4k-tokens").steps(StepCost(2048, 1, 1, never))


def test_the_cost_of_a_step_is_counted_without_a_model() -> None:
    model = {"d_model": 16, "n_layers": 2, "n_heads": 2, "attention": "MultiHeadAttention", "norm": "RMSNorm"}
    model |= {"feed_forward": "SwiGLU", "position": "RotaryPosition", "block": "PreNormBlock"}
    data = {"seq_len": 32, "batch_size": 4, "packing": {"class_path": "ContiguousWindows"}}
    trainer = {"accumulate_grad_batches": 3, "num_nodes": 2, "accelerator": "cpu", "devices": 2}
    settings = {"model": model, "data": data, "trainer": trainer}
    cost = step_cost(settings, vocab_size=100, measure=lambda: 1.0)
    assert cost.tokens == 4 * 32 * 3 * 2 * 2
    assert cost.parameters > 2 * 4 * 16 * 16
    assert step_cost(settings, vocab_size=500, measure=lambda: 1.0).parameters == cost.parameters
    trainer["accelerator"] = "quantum"
    with pytest.raises(ConfigError, match="trainer: "):
        step_cost(settings, vocab_size=100, measure=lambda: 1.0)
