"""What a text's history does to its logits, against loops over the vocabulary."""

import math
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xlab.errors import GenerationError
from xlab.inference.shaping import (
    Bias,
    Constrained,
    LongEnough,
    NoRepeatNgram,
    OccurrencePenalty,
    RepetitionPenalty,
)

V = 7


@dataclass
class Past:
    prompt: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


ids = st.lists(st.integers(0, V - 1), max_size=8)
logits_of_all = st.lists(st.floats(-9, 9), min_size=V, max_size=V)


@given(logits_of_all, ids, ids, st.floats(0.1, 5))
def test_repetition(values: list[float], prompt: list[int], tokens: list[int], penalty: float) -> None:
    if not prompt and not tokens:
        prompt = [0]
    shaped = RepetitionPenalty(penalty)(torch.tensor(values).double(), Past(prompt, tokens)).tolist()
    for token, value in enumerate(torch.tensor(values).double().tolist()):
        seen = token in prompt or token in tokens
        expected = (value / penalty if value > 0 else value * penalty) if seen else value
        assert shaped[token] == pytest.approx(expected)


@given(logits_of_all, ids, ids, st.floats(-2, 2), st.floats(-2, 2))
def test_presence_and_frequency(
    values: list[float], prompt: list[int], tokens: list[int], presence: float, frequency: float
) -> None:
    shaped = OccurrencePenalty(presence, frequency)(torch.tensor(values).double(), Past(prompt, tokens)).tolist()
    for token, value in enumerate(torch.tensor(values).double().tolist()):
        expected = value - presence * (token in tokens) - frequency * tokens.count(token)
        assert shaped[token] == pytest.approx(expected)


@given(ids, ids, st.integers(1, 4))
def test_no_ngram_is_completed_twice(prompt: list[int], tokens: list[int], n: int) -> None:
    shaped = NoRepeatNgram(n)(torch.zeros(V), Past(prompt, tokens))
    text = [*prompt, *tokens]
    ngrams = {tuple(text[i : i + n]) for i in range(len(text) - n + 1)}
    for token in range(V):
        is_repeated = tuple([*text, token][-n:]) in ngrams and len(text) + 1 >= n
        assert math.isinf(shaped[token].item()) == is_repeated


def test_bias_adds_and_forbids_and_lets_nan_through() -> None:
    bias = Bias({1: 2.5, 3: -math.inf, 4: -math.inf})
    logits = torch.tensor([0.0, 1.0, 2.0, 3.0, math.nan, 0.0, 0.0])
    assert bias(logits.clone(), Past()).nan_to_num(nan=99.0, neginf=-math.inf).tolist() == [
        0.0,
        3.5,
        2.0,
        -math.inf,
        99.0,
        0.0,
        0.0,
    ]
    assert bias(torch.zeros(V), Past())[1] == 2.5


def test_the_end_is_forbidden_until_the_text_is_long_enough() -> None:
    shaper = LongEnough(2, (0, 3))
    for n_tokens in range(4):
        shaped = shaper(torch.zeros(V), Past([1], [1] * n_tokens))
        assert (shaped == -torch.inf).nonzero().flatten().tolist() == ([0, 3] if n_tokens < 2 else [])


class Only:
    def __init__(self, *allowed: int, size: int = V) -> None:
        self.allowed, self.size = allowed, size

    def mask(self, tokens_so_far: object) -> torch.Tensor | None:
        return torch.tensor([token in self.allowed for token in range(self.size)]) if self.allowed else None

    def accept(self, token: int) -> None: ...

    is_finished = False


def test_a_constraint_forbids_what_its_mask_does() -> None:
    assert Constrained(Only(2, 5))(torch.zeros(V), Past()).isfinite().nonzero().flatten().tolist() == [2, 5]
    assert Constrained(Only())(torch.zeros(V), Past()).isfinite().all()
    with pytest.raises(GenerationError, match=r"mask has shape \(9,\), the vocabulary \(7,\)"):
        Constrained(Only(1, size=9))(torch.zeros(V), Past())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: RepetitionPenalty(0.0), "repetition_penalty must be above 0, got 0.0"),
        (lambda: RepetitionPenalty(math.inf), "got inf"),
        (lambda: RepetitionPenalty(1e-300), "repetition_penalty is 1e-300, beyond float32"),
        (lambda: RepetitionPenalty(1e300), r"repetition_penalty is 1e\+300, beyond float32"),
        (lambda: RepetitionPenalty("a"), "repetition_penalty must be a number, got 'a'"),
        (lambda: OccurrencePenalty(True), "presence_penalty must be a number, got True"),
        (lambda: OccurrencePenalty(0, 10**400), "frequency_penalty must be from .* got 1000"),
        (
            lambda: OccurrencePenalty(math.nan),
            r"presence_penalty must be from -1e\+30 to 1e\+30, got nan; 0 changes nothing",
        ),
        (lambda: OccurrencePenalty(0.0, math.inf), r"frequency_penalty must be from -1e\+30 to 1e\+30, got inf"),
        (lambda: NoRepeatNgram(0), "no_repeat_ngram must be a whole number of at least 1, got 0"),
    ],
)
def test_refusals(make, says: str) -> None:
    with pytest.raises(GenerationError, match=says):
        make()
