"""Logits step by step equal a forward pass over the window, whatever the model remembers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_models import CachedRecurrent, Recurrent, V

from xlab.errors import GenerationError
from xlab.inference.stepper import Model, Stepper

ids = st.integers(0, V - 1)


@pytest.mark.parametrize("make", [Recurrent, CachedRecurrent])
@given(
    prompt=st.lists(ids, min_size=1, max_size=6),
    tokens=st.lists(ids, max_size=8),
    block_size=st.none() | st.integers(1, 9),
)
def test_each_step_sees_the_last_block_size_tokens(
    make: type[Recurrent], prompt: list[int], tokens: list[int], block_size: int | None
) -> None:
    model, text = make(), list(prompt)
    stepper = Stepper(model, block_size=block_size, max_len=len(prompt) + len(tokens))
    logits = stepper.prefill(torch.tensor(prompt))
    for token in tokens:
        torch.testing.assert_close(logits[0], Recurrent()(torch.tensor([text[-(block_size or 99) :]]))[0, -1])
        logits = stepper.decode([token], [0])
        text.append(token)
    torch.testing.assert_close(logits[0], Recurrent()(torch.tensor([text[-(block_size or 99) :]]))[0, -1])


@pytest.mark.parametrize("model", [Recurrent(), CachedRecurrent()])
@pytest.mark.parametrize("block_size", [None, 4])
def test_rows_branch_from_their_parents(model: Model, block_size: int | None) -> None:
    stepper = Stepper(model, block_size=block_size, max_len=9)
    stepper.prefill(torch.tensor([1, 2]))
    stepper.decode([0, 1, 2], [0, 0, 0])
    logits = stepper.decode([3, 4, 0, 1], [2, 2, 0, 1])
    logits = stepper.decode([1, 2], [3, 1])
    rows = torch.tensor([[1, 2, 1, 1, 1], [1, 2, 2, 4, 2]])
    torch.testing.assert_close(logits, Recurrent()(rows[:, -(block_size or 99) :])[:, -1])


def test_a_cached_model_sees_each_position_once_until_the_window_is_full() -> None:
    model = CachedRecurrent()
    stepper = Stepper(model, block_size=4, max_len=99)
    stepper.prefill(torch.tensor([1, 2]))
    for token in range(4):
        stepper.decode([token], [0])
    assert model.calls == [(1, 2), (1, 1), (1, 1), (1, 4), (1, 4)]


@pytest.mark.parametrize(
    ("model", "got"), [(lambda ids: ids, r"got shape \(1, 2\)"), (lambda ids: (ids,), "got a tuple")]
)
def test_something_other_than_logits_is_refused(model: Model, got: str) -> None:
    with pytest.raises(GenerationError, match=got):
        Stepper(model, block_size=None, max_len=3).prefill(torch.tensor([1, 2]))
