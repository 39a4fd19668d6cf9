"""Beams against every string that there is: five tokens, four steps."""

import functools
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toy_models import CachedRecurrent, Fixed, Recurrent, Scripted, V

from xlab.errors import GenerationError
from xlab.inference import beam_search, greedy_search
from xlab.inference.beam_search import Beams, Hypothesis, n_best
from xlab.inference.vocabulary import Vocabulary

STEPS = 4
PENALTIES = [-1.0, 0.0, 1.0, 2.0]
one = torch.tensor([1])


@functools.cache
def log_p(context: tuple[int, ...]) -> list[float]:
    values: list[float] = Recurrent()(torch.tensor([context]))[0, -1].log_softmax(-1).tolist()
    return values


def every_text(
    prompt: list[int], penalty: float, eos: int | None, block_size: int | None = None, exclude: tuple[int, ...] = ()
) -> list[Hypothesis]:
    """All texts of at most four steps, best first, scored by the definition."""
    texts = []
    for length in range(1, STEPS + 1):
        for tokens in itertools.product(range(V), repeat=length):
            ended = tokens[-1] == eos
            if eos in tokens[:-1] or set(exclude) & set(tokens) or not (ended or length == STEPS):
                continue
            total = 0.0
            for t in range(length):
                total += log_p((*prompt, *tokens[:t])[-(block_size or 99) :])[tokens[t]]
            texts.append(Hypothesis(list(tokens[:-1] if ended else tokens), total, total / length**penalty, ended))
    return sorted(texts, key=lambda text: -text.score)


@pytest.mark.parametrize("block_size", [None, 3])
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("eos", [None, 0, 3])
def test_a_beam_as_wide_as_the_search_space_finds_the_best_text(
    eos: int | None, penalty: float, block_size: int | None
) -> None:
    for prompt in ([1], [2, 4]):
        best = every_text(prompt, penalty, eos, block_size)[0]
        for model in (Recurrent(), CachedRecurrent()):
            found = beam_search(
                model, torch.tensor(prompt), V**STEPS, STEPS, block_size, eos_class=eos, length_penalty=penalty
            )
            assert found.tolist() == best.tokens


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("eos", [None, 3])
def test_n_best_of_all_texts_are_all_texts_in_order(eos: int | None, penalty: float) -> None:
    expected = every_text([1], penalty, eos, exclude=(2,))
    found = n_best(
        CachedRecurrent(), one, 10**9, STEPS, None, eos, exclude_classes=[2], length_penalty=penalty, n=10**9
    )
    assert [(h.tokens, h.finished) for h in found] == [(h.tokens, h.finished) for h in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert math.isclose(ours.log_probability, theirs.log_probability)
        assert math.isclose(ours.score, theirs.score)


@given(
    st.integers(1, 5), st.sampled_from([*PENALTIES, 0.3, -0.3]), st.none() | st.integers(0, V - 1), st.integers(1, 6)
)
def test_stopping_early_loses_nothing(width: int, penalty: float, eos: int | None, length: int) -> None:
    # asked for more texts than there are, the beams can never stop early
    all_found = n_best(Recurrent(), one, width, length, None, eos, length_penalty=penalty, n=10**9)
    best = n_best(Recurrent(), one, width, length, None, eos, length_penalty=penalty, n=3)
    assert best == all_found[:3]
    assert beam_search(Recurrent(), one, width, length, None, eos, length_penalty=penalty).tolist() == best[0].tokens


class Counted(Fixed):
    calls = 0

    def forward(self, ids: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(ids)


def test_it_stops_as_soon_as_no_beam_can_win() -> None:
    # EOS now: ln 0.9 = -0.105. Under penalty 2, k steps without it can still become k · ln 0.05 / 20²: less from k = 15
    for penalty, steps in ((0.0, 1), (-1.0, 1), (0.5, 1), (2.0, 15)):
        model = Counted([math.log(0.9), math.log(0.05), math.log(0.05)])
        beam_search(model, one, 2, 20, None, eos_class=0, length_penalty=penalty)
        assert model.calls == steps


def test_a_finished_text_does_not_fall_out_of_the_beam() -> None:
    # EOS (0) is the third choice at first, then every step halves a text's probability
    model = Scripted([math.log(0.2), math.log(0.5), math.log(0.3)], *[[-99.0, math.log(0.5), math.log(0.5)]] * 4)
    assert beam_search(model, one, 3, 4, None, eos_class=0).tolist() == []
    assert beam_search(model, one, 3, 4, None, eos_class=0, length_penalty=2.0).tolist() == [1, 1, 1, 1]


def test_the_penalty_counts_generated_tokens_alone() -> None:
    # after the prompt EOS (0) has 0.4; otherwise token 1, and then EOS at 0.6
    model = Scripted([0.0, 0.0], [0.0, 0.0], [math.log(0.4), math.log(0.6)], [math.log(0.6), math.log(0.4)])
    found = n_best(model, torch.tensor([1, 1, 1]), 4, 2, None, eos_class=0, length_penalty=2.0, n=4)
    scores = {tuple(text.tokens): text.score for text in found}
    expected = {(): math.log(0.4), (1,): math.log(0.36) / 4, (1, 1): math.log(0.24) / 4}
    assert scores == pytest.approx(expected, rel=1e-6)  # the model's logits are float32


@given(st.lists(st.integers(0, V - 1), min_size=1, max_size=5), st.none() | st.integers(1, 6))
def test_one_beam_without_eos_is_greedy(prompt: list[int], block_size: int | None) -> None:
    x = torch.tensor(prompt)
    found = beam_search(CachedRecurrent(), x, 1, 8, block_size)
    assert torch.equal(found, greedy_search(Recurrent(), x, 8, block_size))


def test_ties_go_to_the_lower_id() -> None:
    assert beam_search(Fixed([0.0] * V), one, 3, 4, None).tolist() == [0, 0, 0, 0]


def test_excluded_classes_never_occur_and_the_others_keep_their_probabilities() -> None:
    found = n_best(Recurrent(), one, 50, STEPS, None, exclude_classes=[0, 1], n=50)
    assert {token for text in found for token in text.tokens} == {2, 3, 4}
    assert [text.tokens for text in found] == [text.tokens for text in every_text([1], 0.0, None, exclude=(0, 1))][:50]


def test_impossible_tokens_are_never_chosen_to_fill_the_beam() -> None:
    model = Fixed([0.0, -torch.inf, -torch.inf])
    assert [text.tokens for text in n_best(model, one, 4, 2, None, n=4)] == [[0, 0]]
    assert [text.tokens for text in n_best(model, one, 4, 2, None, eos_class=0, n=4)] == [[]]


def test_no_length_gives_the_empty_text() -> None:
    assert beam_search(Recurrent(), one, 3, 0, None).tolist() == []
    assert beam_search(Recurrent(), one, 3, 1, None).dtype == torch.long


def test_a_vocabulary_of_one_token_has_one_text_of_any_length() -> None:
    assert Beams(Vocabulary(), width=3, output_length=10**12).most_rows(1) == 1


def test_nan_stops_the_search_and_is_named() -> None:
    for bad in (torch.nan, torch.inf):
        with pytest.raises(GenerationError, match="logits contain NaN"):
            beam_search(Scripted([0.0, 1.0], [0.0, bad]), one, 1, 3, None)


def test_a_model_that_allows_only_what_is_excluded_is_named() -> None:
    with pytest.raises(GenerationError, match="every allowed token probability 0"):
        beam_search(Fixed([0.0, -torch.inf]), one, 2, 2, None, exclude_classes=[0])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"beam_width": 0}, "beam_width must be a whole number of at least 1, got 0"),
        ({"output_length": -1}, "output_length must be a whole number of at least 0, got -1"),
        ({"length_penalty": math.nan}, "length_penalty must be a moderate number, got nan"),
        ({"length_penalty": 1e6}, "length_penalty must be a moderate number, got 1000000.0"),
        ({"length_penalty": 10**400}, "length_penalty must be a moderate number, got 1000"),
        ({"length_penalty": "long"}, "length_penalty must be a number, got 'long'"),
        ({"beam_width": True}, "beam_width must be a whole number of at least 1, got True"),
        ({"eos_class": 0.5}, "eos_class takes whole numbers, the ids of tokens, got 0.5"),
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, float], says: str) -> None:
    with pytest.raises(GenerationError, match=says):
        beam_search(
            **{"model": Recurrent(), "x": one, "beam_width": 2, "output_length": 2, "block_size": None} | settings
        )  # type: ignore[arg-type]
