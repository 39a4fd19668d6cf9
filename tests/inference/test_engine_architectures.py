"""The engine over known models' parts: texts side by side, guessed, and searched are those of whole forward passes."""

from typing import Any

import pytest
import torch
from toy_decoder import ARCHITECTURES, make_decoder, recomputed

from xlab.inference import Engine, Request, greedy_search
from xlab.inference.beam_search import n_best
from xlab.inference.speculation import PromptLookup
from xlab.transformer import kv_cache

PROMPTS = [[1], [2, 3, 4], [5] * 11, [6, 7], [8, 9, 8, 9, 8, 9, 8]]


@pytest.fixture(params=ARCHITECTURES.values(), ids=ARCHITECTURES)
def parts(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


@pytest.fixture(params=[512, 4], ids=["whole", "rings"], autouse=True)
def slack(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a small slack, layers with a window keep no more than that."""
    monkeypatch.setattr(kv_cache, "SLACK", request.param)


@pytest.mark.parametrize("chunk", [3, 64])
def test_texts_side_by_side_are_recomputation(parts: dict[str, Any], chunk: int) -> None:
    decoder = make_decoder(**parts)
    engine = Engine(decoder, max_rows=3, chunk=chunk)
    results = engine.generate([Request(prompt, max_new_tokens=9, temperature=0) for prompt in PROMPTS])
    for prompt, result in zip(PROMPTS, results, strict=True):
        assert list(result.tokens) == recomputed(decoder, prompt, 9)


def test_a_window_of_the_engine_that_rolls_is_recomputation(parts: dict[str, Any]) -> None:
    decoder = make_decoder(**parts)
    found = greedy_search(decoder, torch.tensor([3, 1]), 14, block_size=8)
    assert found.tolist() == recomputed(decoder, [3, 1], 14, window=8)


def test_guesses_change_nothing(parts: dict[str, Any]) -> None:
    decoder = make_decoder(**parts)
    engine = Engine(decoder, guesser=PromptLookup())
    for prompt in PROMPTS:
        result = engine.generate([Request(prompt, max_new_tokens=12, temperature=0)])[0]
        assert list(result.tokens) == recomputed(decoder, prompt, 12)


def test_beams_are_those_of_a_model_without_a_cache(parts: dict[str, Any]) -> None:
    decoder = make_decoder(**parts)
    x = torch.tensor([3, 1])
    found, expected = (
        n_best(model, x, 3, 10, 24, eos_class=0, length_penalty=1.0, n=3)
        for model in (decoder, lambda ids: decoder(ids))
    )
    assert [text.tokens for text in found] == [text.tokens for text in expected]
