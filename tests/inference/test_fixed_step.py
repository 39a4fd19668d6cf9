"""The step that can be compiled gives the logits of the one that is not."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from toy_decoder import ARCHITECTURES, make_decoder, recomputed

from xlab.inference import Engine, Request
from xlab.inference.fixed_step import FixedStep
from xlab.transformer import (
    ALiBi,
    GroupedQueryAttention,
    LearnedPosition,
    MultiQueryAttention,
    RotaryPosition,
    kv_cache,
)


@torch.no_grad()
@pytest.mark.parametrize("attention", [partial(GroupedQueryAttention, n_kv_heads=2), MultiQueryAttention])
@pytest.mark.parametrize("position", [RotaryPosition, LearnedPosition, ALiBi])
def test_logits_are_those_of_the_ragged_step(position: Callable[..., Any], attention: Callable[..., Any]) -> None:
    decoder = make_decoder(position=position, attention=attention)
    ids = torch.randint(17, (3, 9), generator=torch.Generator().manual_seed(0))
    caches = [decoder.make_cache(4, 12) for _ in range(2)]
    for cache in caches:
        decoder(ids, cache.rows(0, 3))
    ragged = caches[0].rows(0, 3)
    ragged.hold([2, 9, 5])
    step = FixedStep(decoder, decoder.logits, caches[1], backend="eager")
    new = [3, 1, 4]
    expected = decoder(torch.tensor(new).unsqueeze(1), ragged)[:, -1]
    torch.testing.assert_close(step(new, [2, 9, 5, 7]), expected, rtol=0.0, atol=1e-12)
    for ours, theirs in zip(caches[1].keys, caches[0].keys, strict=True):
        torch.testing.assert_close(ours[:3], theirs[:3], rtol=0.0, atol=1e-12)
        assert not ours[3, :, :7].any()  # the row that fills up the shape kept what it held


@pytest.mark.parametrize("parts", [{}, *ARCHITECTURES.values()], ids=["the default", *ARCHITECTURES])
def test_an_engine_that_compiles_gives_the_same_tokens(parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_cache, "SLACK", 4)
    monkeypatch.setattr("xlab.inference.engine.FixedStep", partial(FixedStep, backend="aot_eager"))
    decoder = make_decoder(**parts)
    engine = Engine(decoder, max_rows=4, chunk=4, compile=True)
    prompts = [[1], [2, 3, 4], [5] * 11, [6, 7], [8]]
    results = engine.generate([Request(prompt, max_new_tokens=9, temperature=0) for prompt in prompts])
    for prompt, result in zip(prompts, results, strict=True):
        assert list(result.tokens) == recomputed(decoder, prompt, 9)


@torch.no_grad()
def test_a_context_that_fills_the_cache_at_once_is_no_special_case() -> None:
    decoder = make_decoder()
    cache = decoder.make_cache(1, 6)
    step = FixedStep(decoder, decoder.logits, cache, backend="aot_eager")
    prompt = torch.tensor([[1, 2, 3, 4, 5]])
    for length in (5, 3, 4, 5):  # the capacity first, then less, then the capacity again
        cache.rewind(0)
        decoder(prompt, cache)
        expected = decoder(torch.cat((prompt[:, :length], torch.tensor([[6]])), dim=1))[:, -1]
        torch.testing.assert_close(step([6], [length]), expected, rtol=0.0, atol=1e-12)


def test_engines_beside_each_other_keep_to_their_own_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlab.inference.engine.FixedStep", partial(FixedStep, backend="aot_eager"))
    decoders = [make_decoder(seed=seed) for seed in (1, 2)]
    engines = [Engine(decoder, compile=True) for decoder in decoders]
    for _ in range(2):
        for decoder, engine in zip(decoders, engines, strict=True):
            tokens = engine.generate([Request([1, 2], max_new_tokens=5, temperature=0)])[0].tokens
            assert list(tokens) == recomputed(decoder, [1, 2], 5)


def test_there_is_no_limit_to_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlab.inference.engine.FixedStep", partial(FixedStep, backend="eager"))
    decoder = make_decoder(n_layers=1)
    with torch._dynamo.config.patch(recompile_limit=1, accumulated_recompile_limit=1):  # of torch, far above
        for _ in range(2):
            result = Engine(decoder, compile=True).generate([Request([1, 2], max_new_tokens=2, temperature=0)])[0]
            assert list(result.tokens) == recomputed(decoder, [1, 2], 2)
