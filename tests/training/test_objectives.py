"""The sums of the objectives against formulas in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from xlab.data.packing import IGNORED
from xlab.training.objectives import NextToken

ROWS, PLACES, WIDTH, VOCABULARY = 3, 5, 4, 7


def case(seed: int, share_ignored: float) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(ROWS, PLACES, WIDTH, generator=generator)
    unembedding = torch.randn(VOCABULARY, WIDTH, generator=generator)
    targets = torch.randint(VOCABULARY, (ROWS, PLACES), generator=generator)
    ignored = torch.rand(ROWS, PLACES, generator=generator) < share_ignored
    return hidden, unembedding, targets.masked_fill(ignored, IGNORED)


def loss(hidden: Tensor, unembedding: Tensor, targets: Tensor) -> Tensor:
    return NextToken()(hidden, lambda states: F.linear(states, unembedding), targets)


def nats(hidden: Tensor, unembedding: Tensor, targets: Tensor) -> float:
    """−Σ log p(target), token by token."""
    total = 0.0
    for row in range(ROWS):
        for place in range(PLACES):
            if (target := int(targets[row, place])) != IGNORED:
                logits = unembedding.double() @ hidden[row, place].double()
                total -= float(logits[target] - logits.exp().sum().log())
    return total


cases = st.builds(case, st.integers(0, 2**32), st.sampled_from([0.0, 0.3, 0.9, 1.0]))


@given(cases)
def test_next_token_sums_the_nats_of_the_targets(example: tuple[Tensor, Tensor, Tensor]) -> None:
    assert float(loss(*example)) == pytest.approx(nats(*example), rel=1e-5, abs=1e-5)


@given(cases)
def test_rows_add_up(example: tuple[Tensor, Tensor, Tensor]) -> None:
    hidden, unembedding, targets = example
    rows = [loss(hidden[row, None], unembedding, targets[row, None]) for row in range(ROWS)]
    assert float(sum(rows)) == pytest.approx(float(loss(*example)), rel=1e-5, abs=1e-5)


def test_an_ignored_place_gets_no_gradient() -> None:
    hidden, unembedding, targets = case(0, 0.5)
    hidden.requires_grad_()
    loss(hidden, unembedding, targets).backward()
    assert hidden.grad is not None
    assert torch.equal(hidden.grad.abs().sum(-1) > 0, targets != IGNORED)


def test_the_gradient_is_softmax_minus_one_hot() -> None:
    hidden, unembedding, targets = case(1, 0.0)
    unembedding.requires_grad_()
    loss(hidden, unembedding, targets).backward()
    with torch.no_grad():
        states = hidden.double().flatten(0, 1)
        p = (states @ unembedding.double().T).softmax(-1)
        p[torch.arange(len(p)), targets.flatten()] -= 1
        expected = p.T @ states
    torch.testing.assert_close(unembedding.grad, expected.float())
