"""Logits step by step equal a forward pass over the window, whatever the model remembers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_models import CachedRecurrent, Recurrent, V

from xlab.errors import GenerationError
from xlab.inference.rows import Model, PlainRows, Row

cpu = torch.device("cpu")
ids = st.integers(0, V - 1)


@pytest.mark.parametrize("make", [Recurrent, CachedRecurrent])
@given(
    prompt=st.lists(ids, min_size=1, max_size=6),
    tokens=st.lists(ids, max_size=8),
    window=st.none() | st.integers(1, 9),
)
def test_each_step_sees_the_last_tokens_of_the_window(
    make: type[Recurrent], prompt: list[int], tokens: list[int], window: int | None
) -> None:
    rows = PlainRows(make(), cpu, max_len=len(prompt) + len(tokens))
    row = rows.open(prompt, window)
    for token in [*tokens, None]:
        ready, logits = rows.feed()
        assert ready == [row]
        assert logits is not None
        torch.testing.assert_close(logits[0], Recurrent()(torch.tensor([row.ids[-(window or 99) :]]))[0, -1])
        row.ids += [] if token is None else [token]


@pytest.mark.parametrize("model", [Recurrent(), CachedRecurrent()])
@pytest.mark.parametrize("window", [None, 4])
def test_rows_branch_from_each_other(model: Model, window: int | None) -> None:
    rows = PlainRows(model, cpu, max_len=9)

    def go_on(*tokens: int) -> None:
        for row, token in zip(rows.rows, tokens, strict=True):
            row.ids.append(token)
        ready, logits = rows.feed()
        texts = torch.tensor([row.ids for row in ready])
        torch.testing.assert_close(logits, Recurrent()(texts[:, -(window or 99) :])[:, -1])

    first = rows.open([1, 2], window)
    rows.feed()
    second, third = rows.fork([first, first])
    go_on(0, 1, 2)
    rows.close(second)
    rows.fork([third])
    go_on(1, 3, 4)
    rows.close(first)
    go_on(1, 2)


def test_a_cached_model_sees_each_position_once_until_the_window_is_full() -> None:
    model = CachedRecurrent()
    rows = PlainRows(model, cpu, max_len=99)
    row = rows.open([1, 2], 4)
    for token in range(5):
        rows.feed()
        row.ids.append(token)
    assert model.calls == [(1, 2), (1, 1), (1, 1), (1, 4), (1, 4)]


def test_texts_of_different_lengths_share_a_cacheless_model() -> None:
    for model in (Recurrent(), CachedRecurrent()):
        rows = PlainRows(model, cpu, max_len=9)
        opened = [rows.open(prompt, None) for prompt in ([1, 2], [3], [4, 0])]
        ready, logits = rows.feed()
        assert ready == opened
        for row, own in zip(opened, logits, strict=True):
            torch.testing.assert_close(own, Recurrent()(torch.tensor([row.ids]))[0, -1])


def test_a_row_listens_to_its_prompt_once() -> None:
    heard: list[torch.Tensor] = []
    rows = PlainRows(Recurrent(), cpu, max_len=9)
    row: Row = rows.open([1, 2, 3], None)
    row.on_prompt = heard.append
    rows.feed()
    row.ids.append(1)
    rows.feed()
    (logits,) = heard
    torch.testing.assert_close(logits, Recurrent()(torch.tensor([[1, 2, 3]]))[0])


@pytest.mark.parametrize(
    ("model", "got"), [(lambda ids: ids, r"got shape \(1, 2\)"), (lambda ids: (ids,), "got a tuple")]
)
def test_something_other_than_logits_is_refused(model: Model, got: str) -> None:
    rows = PlainRows(model, cpu, max_len=3)
    rows.open([1, 2], None)
    with pytest.raises(GenerationError, match=got):
        rows.feed()
