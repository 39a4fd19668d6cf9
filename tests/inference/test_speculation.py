"""Guesses change how often the model runs, and nothing else."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from toy_decoder import Letters, make_decoder, recomputed

from xlab.errors import GenerationError
from xlab.inference import BeamSettings, DraftModel, Engine, PromptLookup, Request
from xlab.inference.rows import Row
from xlab.inference.speculation import Guesser
from xlab.transformer import ALiBi, GroupedQueryAttention, LearnedPosition

LETTERS = Letters([bytes([97 + i]) for i in range(17)])

Make = Callable[[], Guesser]
GUESSERS: dict[str, Make] = {
    "look-up": lambda: PromptLookup(4, shortest=1),
    "the model itself": lambda: DraftModel(make_decoder()),
    "another model": lambda: DraftModel(make_decoder(seed=5), 3),
    "a model with a shorter context": lambda: DraftModel(make_decoder(seed=5, max_len=9), 6),
    "nonsense": lambda: Nonsense(),
}


class Nonsense:
    """Wrong more often than not, and always as long as it may be."""

    def guess(self, row: Row, text: Any, limit: int) -> list[int]:
        return [(len(row.ids) * 7 + i) % 17 for i in range(limit)]


@pytest.fixture(params=list(GUESSERS))
def guesser(request: pytest.FixtureRequest) -> Guesser:
    return GUESSERS[request.param]()


@pytest.mark.parametrize("build", [{}, {"position": ALiBi}, {"position": LearnedPosition}])
def test_greedy_gives_the_tokens_of_greedy(guesser: Guesser, build: dict[str, Any]) -> None:
    decoder = make_decoder(**build)
    engine = Engine(decoder, guesser=guesser)
    for prompt in ([1], [2, 3, 2, 3, 2], [5] * 11, list(range(17)), [4] * 23):
        length = min(12, 24 - len(prompt) + 1)  # to the context's very end
        result = engine.generate([Request(prompt, max_new_tokens=12, temperature=0)])[0]
        assert list(result.tokens) == recomputed(decoder, prompt, length)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.3, "top_k": 3},
        {"top_p": 0.8, "min_p": 0.05},
        {"repetition_penalty": 1.4, "frequency_penalty": 0.3, "no_repeat_ngram": 2},
        {"eos_ids": [3, 4], "min_new_tokens": 4, "logit_bias": {7: 2.0}},
        {"stop": ["ab", "cc", "d"]},
        {"logprobs": 2},
        {"rolling": True, "max_new_tokens": 40},
    ],
)
def test_what_is_drawn_is_what_would_have_been_drawn(guesser: Guesser, settings: dict[str, Any]) -> None:
    decoder = make_decoder()
    plain, guessing = Engine(decoder, LETTERS), Engine(decoder, LETTERS, guesser=guesser)
    for seed in range(8):
        request = Request(**{"prompt": [1, 2, 1, 2, 1], "max_new_tokens": 19, "seed": seed, **settings})
        expected, result = plain.generate([request])[0].best, guessing.generate([request])[0].best
        assert (result.tokens, result.text, result.finish_reason) == (
            expected.tokens,
            expected.text,
            expected.finish_reason,
        )
        for ours, theirs in zip(result.logprobs or (), expected.logprobs or (), strict=True):
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-9)


def test_a_model_that_guesses_for_itself_is_never_wrong() -> None:
    decoder = make_decoder()
    engine = Engine(decoder, guesser=DraftModel(decoder, 4))
    engine.generate([Request([1, 2, 3], max_new_tokens=21, seed=3, temperature=0.9)])
    # the prompt gives the first token, each pass over four guesses five more
    assert engine.rows.decode_calls == 4
    assert engine.scheduler.n_right == engine.scheduler.n_guessed == 16


def test_look_up_settles_a_repetition_in_few_passes() -> None:
    decoder = make_decoder()
    engine = Engine(decoder, guesser=PromptLookup(7, shortest=1))
    request = Request([1, 2], max_new_tokens=20, logit_bias={9: 100.0}, temperature=0)
    assert engine.generate([request])[0].tokens == (9,) * 20
    assert engine.rows.decode_calls <= 6


def test_pieces_stream_one_by_one_and_join_to_the_text(guesser: Guesser) -> None:
    decoder = make_decoder()
    request = Request([1, 2, 1, 2], max_new_tokens=15, seed=1)
    expected = Engine(decoder, LETTERS).generate([request])[0]
    pieces = list(Engine(decoder, LETTERS, guesser=guesser).stream(request))
    assert "".join(piece.text for piece in pieces) == expected.text
    assert [piece.token for piece in pieces if piece.token is not None] == list(expected.tokens)


def test_a_text_is_guessed_only_while_it_is_alone(guesser: Guesser) -> None:
    decoder = make_decoder()
    engine = Engine(decoder, guesser=guesser)
    first = engine.submit(Request([1, 2, 1, 2], max_new_tokens=18, temperature=0))
    for _ in range(3):
        engine.step()
    others = [engine.submit(Request([n, 3], max_new_tokens=5, temperature=0)) for n in (6, 7)]
    beams = engine.submit(Request([4, 4], max_new_tokens=3, beams=BeamSettings(width=3)))
    dropped = engine.submit(Request([5], max_new_tokens=20, temperature=0))
    engine.step()
    engine.cancel(dropped)
    while not engine.is_idle:
        engine.step()
    assert first.result is not None
    assert list(first.result.tokens) == recomputed(decoder, [1, 2, 1, 2], 18)
    for n, other in zip((6, 7), others, strict=True):
        assert other.result is not None
        assert list(other.result.tokens) == recomputed(decoder, [n, 3], 5)
    assert beams.result is not None
    assert beams.result.error is None


def test_several_texts_of_a_prompt_share_it_and_are_not_guessed(guesser: Guesser) -> None:
    decoder = make_decoder(attention=lambda d, h, i: GroupedQueryAttention(d, h, i, n_kv_heads=2))
    request = Request([1, 2, 3], max_new_tokens=9, n=3, seed=4)
    expected = Engine(decoder).generate([request])[0]
    assert [c.tokens for c in Engine(decoder, guesser=guesser).generate([request])[0].completions] == [
        c.tokens for c in expected.completions
    ]


def test_look_up_takes_the_longest_and_latest_agreement() -> None:
    lookup = PromptLookup(3, longest=3, shortest=2)
    row = Row([1, 2, 3, 7, 7, 9, 2, 3, 8, 8, 8, 1, 2, 3])
    assert lookup.guess(row, None, 9) == [7, 7, 9]  # type: ignore[arg-type]
    row.ids += [5, 2, 3]
    assert lookup.guess(row, None, 2) == [5, 2]  # type: ignore[arg-type]
    assert lookup.guess(row, None, 9) == [5, 2, 3]  # type: ignore[arg-type]
    assert PromptLookup(5).guess(Row([4, 1, 2, 1, 2]), None, 9) == [1, 2, 1, 2, 1]  # type: ignore[arg-type]
    assert lookup.guess(Row([1, 2]), None, 9) == []  # type: ignore[arg-type]


class Said:
    """Guesses the same every time, or fails."""

    def __init__(self, guesses: Any) -> None:
        self.guesses = guesses

    def guess(self, row: Row, text: Any, limit: int) -> Any:
        if isinstance(self.guesses, Exception):
            raise self.guesses
        return self.guesses


@pytest.mark.parametrize(
    ("guesses", "says"),
    [
        (ValueError("no idea"), "guessing failed: ValueError: no idea"),
        ([1, 17], "a guess contains token id 17, outside the model's vocabulary of 17"),
        ([-1], "a guess contains token id -1"),
        ([0.5], "a guess must be a list of token ids, and holds 0.5"),
        (None, "guessing failed: TypeError"),
    ],
)
def test_a_guess_that_cannot_be_ends_its_text_alone(guesses: Any, says: str) -> None:
    decoder = make_decoder()
    engine = Engine(decoder, guesser=Said(guesses))
    first = engine.submit(Request([1, 2], max_new_tokens=9, temperature=0))
    engine.step()
    waiting = [engine.submit(Request([n], max_new_tokens=1, temperature=0)) for n in (3, 4)]
    while not engine.is_idle:
        engine.step()
    assert first.result is not None
    assert says in str(first.result.error)
    assert [list(h.result.tokens) for h in waiting if h.result] == [recomputed(decoder, [n], 1) for n in (3, 4)]
    (alone,) = engine.generate([Request([1, 2], max_new_tokens=9, temperature=0)])
    assert says in str(alone.error)
    assert list(alone.tokens) == recomputed(decoder, [1, 2], 1)
    assert not engine.rows.rows


def test_guesses_beyond_the_limit_are_cut() -> None:
    decoder = make_decoder()
    engine = Engine(decoder, guesser=Said((3,) * 99))
    (result,) = engine.generate([Request([1, 2], max_new_tokens=99, temperature=0)])
    assert list(result.tokens) == recomputed(decoder, [1, 2], 23)


@pytest.mark.parametrize("make", [lambda: PromptLookup(3, shortest=1), lambda: DraftModel(make_decoder(seed=5), 3)])
def test_engines_that_share_a_guesser_in_turns_keep_to_their_texts(make: Make) -> None:
    decoder, guesser = make_decoder(), make()
    engines = [Engine(decoder, guesser=guesser) for _ in range(2)]
    handles = [
        engine.submit(Request([n, 1, n], max_new_tokens=18, temperature=0)) for n, engine in enumerate(engines, 2)
    ]
    while not all(engine.is_idle for engine in engines):
        for engine in engines:
            engine.step()
    for n, handle in enumerate(handles, 2):
        assert handle.result is not None
        assert list(handle.result.tokens) == recomputed(decoder, [n, 1, n], 18)


def test_what_cannot_be_is_refused() -> None:
    decoder = make_decoder()
    for no_guesser in (PromptLookup, 5):
        with pytest.raises(GenerationError, match=r"guesser must be an object with guess, such as PromptLookup\(\)"):
            Engine(decoder, guesser=no_guesser)  # type: ignore[arg-type]
    with pytest.raises(GenerationError, match="longest must be a whole number"):
        PromptLookup(longest=2.5)  # type: ignore[arg-type]
    with pytest.raises(GenerationError, match="vocabulary of 5, the model one of 17"):
        Engine(decoder, guesser=DraftModel(make_decoder(vocab_size=5)))
    with pytest.raises(GenerationError, match="this model has none"):
        Engine(lambda ids: torch.zeros(*ids.shape, 17), guesser=PromptLookup())
    with pytest.raises(GenerationError, match="longest is 1, below shortest, 2"):
        PromptLookup(longest=1)
    with pytest.raises(GenerationError, match="n_tokens"):
        PromptLookup(0)
    with pytest.raises(GenerationError, match="n_tokens"):
        DraftModel(decoder, 0)
