"""The sums of the objectives against formulas in float64, whole and by chunks."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from xlab.data.packing import IGNORED
from xlab.errors import ConfigError
from xlab.training import objectives
from xlab.training.objectives import NextToken, Objective, Unlikelihood
from xlab.transformer.head import Head

ROWS, PLACES, WIDTH, VOCABULARY = 3, 5, 4, 7
Case = tuple[Tensor, Head, dict[str, Tensor]]


def case(seed: int, share_ignored: float, cap: float | None = None, has_documents: bool = False) -> Case:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(ROWS, PLACES, WIDTH, generator=generator, dtype=torch.float64)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=torch.float64)
    ids = torch.randint(VOCABULARY, (ROWS, PLACES + 1), generator=generator)
    ignored = torch.rand(ROWS, PLACES, generator=generator) < share_ignored
    batch = {"inputs": ids[:, :-1], "targets": ids[:, 1:].masked_fill(ignored, IGNORED)}
    if has_documents:
        batch["documents"] = torch.randint(2, (ROWS, PLACES), generator=generator).cumsum(1)
    return hidden, Head(weight, 0.5, cap), batch


def by_formula(
    hidden: Tensor, head: Head, batch: dict[str, Tensor], *, z: float = 0.0, smooth: float = 0.0, alpha: float = 0.0
) -> float:
    """One token at a time."""
    total = 0.0
    for row in range(ROWS):
        for place in range(PLACES):
            target = int(batch["targets"][row, place])
            if target == IGNORED:
                continue
            logits = [float(w @ hidden[row, place]) * head.scale for w in head.weight]
            logits = [head.cap * math.tanh(x / head.cap) if head.cap else x for x in logits]
            normaliser = math.log(sum(map(math.exp, logits)))
            nats = [normaliser - x for x in logits]
            total += (1 - smooth) * nats[target] + smooth * sum(nats) / VOCABULARY + z * normaliser**2
            documents = batch.get("documents")
            own = [
                int(batch["inputs"][row, before])
                for before in range(place + 1)
                if documents is None or documents[row, before] == documents[row, place]
            ]
            total -= alpha * sum(math.log(1 - math.exp(-nats[token])) for token in set(own) - {target})
    return total


cases = st.builds(
    case,
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    st.sampled_from([None, 2.0]),
    st.booleans(),
)
OBJECTIVES = {
    "next token": (NextToken(), {}),
    "z-loss": (NextToken(z_loss=0.1), {"z": 0.1}),
    "smoothing": (NextToken(label_smoothing=0.2), {"smooth": 0.2}),
    "unlikelihood": (Unlikelihood(alpha=0.7), {"alpha": 0.7}),
    "all": (Unlikelihood(0.7, 0.1, 0.2), {"alpha": 0.7, "z": 0.1, "smooth": 0.2}),
}


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize(("objective", "settings"), OBJECTIVES.values(), ids=OBJECTIVES)
@given(example=cases)
def test_the_sum_is_the_formulas(example: Case, objective: Objective, settings: dict[str, float], chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objectives, "CHUNK_BYTES", 4 * VOCABULARY * chunk)
        assert float(objective(*example)) == pytest.approx(by_formula(*example, **settings), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("objective", "settings"), OBJECTIVES.values(), ids=OBJECTIVES)
def test_gradients_by_chunks_are_those_of_the_whole(
    objective: Objective, settings: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for chunk in (100, 2):
        monkeypatch.setattr(objectives, "CHUNK_BYTES", 4 * VOCABULARY * chunk)
        hidden, head, batch = case(3, 0.3, 2.0, True)
        hidden.requires_grad_()
        head.weight.requires_grad_()
        (objective(hidden, head, batch) * 3).backward()
        found.append((hidden.grad, head.weight.grad))
    for whole, chunked in zip(*found, strict=True):
        torch.testing.assert_close(chunked, whole)
    torch.autograd.gradcheck(lambda h: NextToken(z_loss=0.1)(h, *case(3, 0.3)[1:]), case(3, 0.3)[0].requires_grad_())


def test_a_frozen_projection_gets_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectives, "CHUNK_BYTES", 4 * VOCABULARY * 2)
    hidden, head, batch = case(0, 0.0)
    hidden.requires_grad_()
    NextToken()(hidden, head, batch).backward()
    assert hidden.grad is not None
    assert head.weight.grad is None


def test_an_ignored_place_gets_no_gradient() -> None:
    hidden, head, batch = case(0, 0.5)
    hidden.requires_grad_()
    Unlikelihood()(hidden, head, batch).backward()
    assert hidden.grad is not None
    assert torch.equal(hidden.grad.abs().sum(-1) > 0, batch["targets"] != IGNORED)


def test_the_right_token_is_not_punished_and_a_repeated_one_is_once() -> None:
    head = Head(torch.eye(VOCABULARY, WIDTH, dtype=torch.float64))
    hidden = torch.zeros(1, 3, WIDTH, dtype=torch.float64)
    batch = {"inputs": torch.tensor([[1, 1, 1]]), "targets": torch.tensor([[1, 1, 2]])}
    even = math.log(VOCABULARY)
    # at the first two places the only token there was is the target itself
    assert float(Unlikelihood()(hidden, head, batch)) == pytest.approx(3 * even - math.log(1 - 1 / VOCABULARY))


def test_under_autocast_chunks_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for chunk in (100, 2):
        monkeypatch.setattr(objectives, "CHUNK_BYTES", 4 * VOCABULARY * chunk)
        hidden, head, batch = case(1, 0.0)
        hidden, weight = hidden.float().requires_grad_(), head.weight.float().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            loss = NextToken()(hidden, Head(weight), batch)
        loss.backward()
        assert loss.dtype == torch.float32
        found.append((hidden.grad, weight.grad))
    for whole, chunked in zip(*found, strict=True):
        torch.testing.assert_close(chunked, whole, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: NextToken(z_loss=-1.0), "objective.z_loss must not be negative, got -1.0"),
        (lambda: NextToken(label_smoothing=1.0), r"objective.label_smoothing must be in \[0, 1\), got 1.0"),
        (lambda: Unlikelihood(alpha=-0.1), "objective.alpha must not be negative, got -0.1"),
    ],
)
def test_refusals(make, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()
