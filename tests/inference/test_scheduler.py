"""The loop: what it refuses before it starts, and how often it calls the model."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_models import CachedRecurrent, Fixed, Recurrent

from xlab.errors import GenerationError
from xlab.inference import greedy_search
from xlab.inference.rows import Model
from xlab.inference.scheduler import Step, generate


class Repeat:
    """A strategy that always chooses the same token, three times at most."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def choose(self, logits: Tensor) -> Step:
        self.seen.append(logits)
        return Step([], []) if len(self.seen) == 3 else Step([1], [0])


@pytest.mark.parametrize(("output_length", "calls"), [(0, 0), (1, 1), (2, 2), (3, 3), (9, 3)])
def test_the_model_runs_once_for_each_choice_and_no_more(output_length: int, calls: int) -> None:
    model = Recurrent()
    steps = list(generate(model, torch.tensor([0]), output_length, None, Repeat()))
    assert len(model.calls) == len(steps) == calls


def test_nothing_is_computed_before_it_is_asked_for() -> None:
    model = Recurrent()
    steps = generate(model, torch.tensor([0]), 5, None, Repeat())
    assert not model.calls
    next(steps)
    assert len(model.calls) == 1


def test_gradients_and_modes_are_left_as_they_were() -> None:
    model, strategy = nn.Embedding(4, 4), Repeat()
    steps = generate(model, torch.tensor([0]), 5, None, strategy)
    next(steps)
    assert torch.is_grad_enabled()
    assert not strategy.seen[0].requires_grad
    assert model.training


def test_generated_ids_can_be_trained_on() -> None:
    model = nn.Embedding(4, 4)
    ids = greedy_search(model, torch.tensor([0]), 3, None)
    model(ids).sum().backward()
    assert model.weight.grad is not None


def test_the_cache_holds_no_more_than_can_be_used() -> None:
    class Watched(CachedRecurrent):
        def make_cache(self, batch_size: int, max_len: int | None = None) -> Any:
            asked.append(max_len)
            return super().make_cache(batch_size, max_len)

    asked: list[int | None] = []
    for block_size in (None, 4, 99):
        greedy_search(Watched(), torch.tensor([1, 2]), 5, block_size)
    assert asked == [6, 4, 6]  # the last token is never fed back


def test_a_model_with_a_longest_context_names_the_remedy_when_it_is_outgrown() -> None:
    for model in (Recurrent(), CachedRecurrent()):
        model.max_len = 4  # type: ignore[assignment]
        assert len(greedy_search(model, torch.tensor([1, 2]), 3, None)) == 3
        assert len(greedy_search(model, torch.tensor([1, 2]), 9, 4)) == 9
        for block_size in (None, 5):
            with pytest.raises(GenerationError, match=r"context of 5 tokens .* max_len, 4; block_size=4 lets it see"):
                greedy_search(model, torch.tensor([1, 2]), 4, block_size)


embedding = nn.Embedding(3, 3)
embedding.vocab_size = 3  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("model", "x", "says"),
    [
        (embedding, [1], "x must be a 1-D tensor of token ids, got a list"),
        (embedding, torch.tensor([], dtype=torch.long), "x is empty; begin it with the tokenizer's sos"),
        (embedding, torch.tensor([[1]]), r"x must be 1-D, got shape \(1, 1\)"),
        (embedding, torch.tensor(1), r"x must be 1-D, got shape \(\)"),
        (embedding, torch.tensor([0.5]), "x must hold integer token ids, got torch.float32"),
        (embedding, torch.tensor([2, 3, 0]), r"x contains token id 3, outside the model's vocabulary of 3 \(0 to 2\)"),
        (Fixed([0.0, 0.0]), torch.tensor([1, 2]), "x contains token id 2, outside the model's vocabulary of 2"),
        (Fixed([0.0, 0.0]), torch.tensor([1, -1]), "x contains token id -1; token ids start at 0"),
    ],
)
def test_a_prompt_that_cannot_be_is_refused(model: Model, x: Tensor, says: str) -> None:
    with pytest.raises(GenerationError, match=says):
        list(generate(model, x, 1, None, Repeat()))


@pytest.mark.parametrize(
    ("output_length", "block_size", "says"),
    [
        (-1, None, "output_length must be a whole number of at least 0, got -1"),
        (2.0, None, "output_length must be a whole number of at least 0, got 2.0"),
        (1, 0, "block_size must be a whole number of at least 1, got 0; None sets no limit"),
    ],
)
def test_a_senseless_length_is_refused_at_the_call(output_length: int, block_size: int | None, says: str) -> None:
    with pytest.raises(GenerationError, match=says):
        generate(embedding, torch.tensor([0]), output_length, block_size, Repeat())
