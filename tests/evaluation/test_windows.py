"""Sliding windows: each token once, with all the context that the stride promises."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny_decoder import MAX_LEN, tiny_decoder

from xlab.errors import ConfigError, GenerationError
from xlab.evaluation import windows
from xlab.evaluation.windows import Window, scores, sliding


def contexts(n_tokens: int, max_len: int, stride: int) -> dict[int, int]:
    """How many tokens each scored position sees, by position; fails where one is scored twice."""
    seen: dict[int, int] = {}
    for window in sliding(np.arange(n_tokens), max_len=max_len, stride=stride):
        assert len(window.tokens) <= max_len + 1
        for target in window.targets.tolist():
            assert target not in seen
            seen[target] = target - int(window.tokens[0])
    return seen


@given(st.integers(2, 60), st.integers(1, 20), st.data())
def test_every_token_but_the_first_is_scored_once_with_the_context_promised(
    n_tokens: int, max_len: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, max_len))
    seen = contexts(n_tokens, max_len, stride)
    assert list(seen) == list(range(1, n_tokens))
    for position, context in seen.items():
        assert context >= min(position, max_len - stride + 1)


@given(st.integers(2, 60), st.integers(1, 20), st.data())
def test_a_smaller_stride_never_gives_less_context(n_tokens: int, max_len: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, max_len))
    smaller = data.draw(st.integers(1, stride))
    wide, narrow = contexts(n_tokens, max_len, stride), contexts(n_tokens, max_len, smaller)
    full = range(max_len + 1, n_tokens)  # what the first window does not reach
    # by token where the windows nest, and for the token that has least wherever there are enough of them
    if stride % smaller == 0:
        assert all(narrow[position] >= wide[position] for position in wide)
    if len(full) >= stride:
        assert min(narrow[p] for p in full) >= min(wide[p] for p in full)


@pytest.mark.parametrize("stride", [0, -1, 13])
def test_a_stride_outside_the_context_is_refused(stride: int) -> None:
    with pytest.raises(ConfigError, match=f"the stride must be from 1 to the context's 12 tokens, got {stride}"):
        sliding(np.arange(5), max_len=12, stride=stride)


def random_windows(seed: int, n: int) -> list[tuple[int, Window]]:
    draw = np.random.default_rng(seed)
    made = []
    for number in range(n):
        tokens = draw.integers(0, 290, draw.integers(2, MAX_LEN + 2))
        made.append((number, Window(tokens, int(draw.integers(1, len(tokens))))))
    return made


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_window_scores_what_it_scores_alone(batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "_LOGITS_AT_ONCE", 5 * 290)  # logits are computed five tokens at a time
    decoder, made = tiny_decoder(), random_windows(1, 50)
    found = dict(scores(decoder, made, batch_size=batch_size))
    assert sorted(found) == list(range(50))
    for number, window in made:
        logits = decoder(torch.from_numpy(window.tokens[:-1])[None])[0, -window.n_scored :].double()
        targets = torch.from_numpy(window.targets)
        expected = F.cross_entropy(logits, targets, reduction="none")
        torch.testing.assert_close(found[number].nats, expected, atol=1e-5, rtol=1e-5)
        assert found[number].hits.tolist() == (logits.argmax(-1) == targets).tolist()


def test_a_loss_that_is_no_number_is_refused() -> None:
    decoder = tiny_decoder()
    with torch.no_grad():
        decoder.embedding.weight[7] = torch.nan
    with pytest.raises(GenerationError, match="no finite loss"):
        list(scores(decoder, random_windows(2, 4), batch_size=2))


def test_a_batch_beyond_memory_is_refused_before_a_window_is_read() -> None:
    def never() -> Iterator[tuple[int, Window]]:
        raise AssertionError
        yield

    with pytest.raises(GenerationError, match=r"a batch of 1000000000000 windows of 12 tokens would take .* GiB"):
        list(scores(tiny_decoder(), never(), batch_size=10**12))
    # no less than the states of one layer
    assert windows.batch_bytes(tiny_decoder(), 3) >= 3 * MAX_LEN * 16 * 4


def test_no_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match="the batch size must be at least 1, got 0"):
        list(scores(tiny_decoder(), random_windows(2, 4), batch_size=0))
