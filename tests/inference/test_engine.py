"""Requests side by side are answered as if each were alone."""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_decoder import Letters, make_decoder, recomputed
from toy_models import CachedRecurrent, Fixed, Recurrent

from xlab.errors import GenerationError
from xlab.inference import BeamSettings, Engine, Request
from xlab.inference.beam_search import n_best
from xlab.inference.detokenizer import whole
from xlab.transformer import (
    ALiBi,
    GroupedQueryAttention,
    LearnedPosition,
    MultiHeadAttention,
    MultiQueryAttention,
    NoPosition,
    PostNormBlock,
    PreNormBlock,
    RotaryPosition,
    SinusoidalPosition,
)

W = 24  # the decoder's max_len
POSITIONS = [RotaryPosition, LearnedPosition, SinusoidalPosition, ALiBi, NoPosition]
ATTENTIONS = [MultiHeadAttention, partial(GroupedQueryAttention, n_kv_heads=2), MultiQueryAttention]
BLOCKS = [PreNormBlock, PostNormBlock]
alphabet = Letters([bytes([97 + i]) for i in range(17)])

decoder = make_decoder()


def greedy(prompt: list[int], **settings: Any) -> Request:
    return Request(prompt, **{"temperature": 0, **settings})


@pytest.mark.parametrize("parts", list(itertools.product(POSITIONS, ATTENTIONS, BLOCKS)))
def test_greedy_is_recomputation_at_the_windows_edges_and_side_by_side(parts: tuple[Any, ...]) -> None:
    own = make_decoder(**dict(zip(("position", "attention", "block"), parts, strict=True)), max_len=6)
    prompts = [
        torch.randint(17, (length,), generator=torch.Generator().manual_seed(length)).tolist()
        for length in (1, 2, 5, 6, 7, 12)
    ]
    engine = Engine(own, max_rows=3, chunk=4)
    requests = [
        greedy(prompt, max_new_tokens=length, rolling=True)
        for prompt, length in zip(prompts, (8, 3, 4, 2, 3, 1), strict=True)
    ]
    for request, result in zip(requests, engine.generate(requests), strict=True):
        assert list(result.tokens) == recomputed(own, request.prompt, request.max_new_tokens, 6)
    without = engine.generate([greedy(prompt, truncate=True) for prompt in prompts])
    for prompt, result in zip(prompts, without, strict=True):
        assert result.finish_reason == "length"
        kept = prompt[-3:]  # half of the context, since more was asked than fits
        assert list(result.tokens) == recomputed(own, kept, 6 - len(kept) + 1)


def test_a_truncated_prompt_leaves_room_for_what_is_asked() -> None:
    engine = Engine(make_decoder(max_len=12))
    prompt = [token % 17 for token in range(40)]
    for limit, kept in ((1, 12), (4, 9), (7, 6), (30, 6)):
        result = engine.generate([greedy(prompt, max_new_tokens=limit, truncate=True)])[0]
        assert result.prompt_tokens == kept
        assert len(result.tokens) == min(limit, 12 - kept + 1)


prompts = st.lists(st.integers(0, 16), min_size=1, max_size=12)
ways: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {"temperature": 0},
        {"seed": 3},
        {"seed": 4, "top_k": 5, "temperature": 1.5},
        {"seed": 5, "top_p": 0.8, "n": 2},
        {"temperature": 0, "repetition_penalty": 1.3},
        {"seed": 1, "presence_penalty": 0.5, "frequency_penalty": 0.2, "n": 3},
        {"seed": 2, "best_of": 2},
        {"temperature": 0, "no_repeat_ngram": 2},
        {"beams": BeamSettings(2), "temperature": 1.0},
    ]
)
requests = st.builds(
    lambda prompt, way, length, eos, rolling: Request(
        prompt, max_new_tokens=length, eos_ids=eos, rolling=rolling, **way
    ),
    prompts,
    ways,
    st.integers(1, 14),
    st.sampled_from([(), (3,)]),
    st.sampled_from([False, False, True]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), requests), min_size=1, max_size=7), st.sampled_from([3, 16, 512]))
def test_a_batch_gives_what_each_request_gives_alone(arrivals: list[tuple[int, Request]], chunk: int) -> None:
    engine = Engine(decoder, alphabet, max_rows=4, max_len=16, chunk=chunk)
    handles = []
    for pause, request in arrivals:
        for _ in range(pause):
            engine.step()
        handles.append(engine.submit(request))
    while not engine.is_idle:
        engine.step()
    assert not engine.rows.rows
    for handle, (_, request) in zip(handles, arrivals, strict=True):
        (alone,) = Engine(decoder, alphabet, max_rows=4, max_len=16).generate([request])
        assert handle.result is not None
        assert [(c.tokens, c.text, c.finish_reason) for c in handle.result.completions] == [
            (c.tokens, c.text, c.finish_reason) for c in alone.completions
        ]


def test_eight_requests_of_32_tokens_take_at_most_48_calls() -> None:
    calls = 0

    class Counted(type(decoder)):  # type: ignore[misc]
        def hidden(self, *args: Any) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return super().hidden(*args)

    own = make_decoder(max_len=64)
    own.__class__ = Counted
    engine = Engine(own, max_rows=8)
    handles = []
    for i in range(8):  # they come one after another
        handles.append(engine.submit(greedy([i] * (i + 1), max_new_tokens=32)))
        engine.step()
    while not engine.is_idle:
        engine.step()
    assert all(handle.result is not None and len(handle.result.tokens) == 32 for handle in handles)
    assert calls <= 48
    before = calls
    results = engine.generate([greedy([i] * (i + 1), max_new_tokens=32) for i in range(8)])
    assert all(len(result.tokens) == 32 for result in results)
    assert calls - before == 32  # one for all prompts


def test_samples_of_a_prompt_share_its_prefill() -> None:
    engine = Engine(decoder, max_rows=5)
    (result,) = engine.generate([Request([1, 2, 3], n=5, max_new_tokens=6, seed=1)])
    assert (engine.rows.prefill_calls, engine.rows.decode_calls) == (1, 5)
    assert len({completion.tokens for completion in result.completions}) > 1
    (one,) = engine.generate([Request([1, 2, 3], max_new_tokens=6, seed=1)])
    assert one.tokens == result.completions[0].tokens


def test_a_long_prompt_does_not_keep_the_others_waiting() -> None:
    engine = Engine(decoder, max_rows=2, chunk=4)
    quick = engine.submit(greedy([1], max_new_tokens=9))
    engine.step()
    engine.submit(greedy([2] * 20, max_new_tokens=3))
    for _ in range(4):
        (owner, piece), *_ = engine.step()
        assert owner is quick
        assert piece.token is not None


def test_best_of_ranks_by_the_mean_log_probability() -> None:
    (all_five,) = Engine(decoder).generate([Request([1], n=5, max_new_tokens=6, seed=1, logprobs=0, eos_ids=[3])])
    (best,) = Engine(decoder).generate([Request([1], n=2, best_of=5, max_new_tokens=6, seed=1, eos_ids=[3])])
    # the score holds EOS, the tokens do not
    means = {c.tokens: (c.score or 0.0) / (len(c.tokens) + (c.finish_reason == "eos")) for c in all_five.completions}
    ranked = sorted(means, key=lambda tokens: -means[tokens])
    assert [completion.tokens for completion in best.completions] == ranked[:2]


def test_best_of_counts_the_end_of_a_text() -> None:
    def even(ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*ids.shape, 4).index_fill(-1, torch.tensor([0]), -1.0)  # an end is the least likely

    requests = [Request([1], max_new_tokens=2, eos_ids=[0], best_of=16, seed=seed) for seed in range(4)]
    for result in Engine(even, max_rows=16).generate(requests):
        assert len(result.tokens) == 2


def test_prompts_side_by_side_are_scored_each_by_itself() -> None:
    table = torch.randn(7, 7, generator=torch.Generator().manual_seed(0))
    requests = [greedy(ids, max_new_tokens=1, prompt_logprobs=1) for ids in ([1, 2, 3], [4, 5, 6, 2, 1], [3, 3, 1])]
    engine = Engine(lambda ids: table[ids])
    together = engine.generate(requests)
    assert [result.prompt_logprobs for result in together] == [
        engine.generate([request])[0].prompt_logprobs for request in requests
    ]


def test_a_request_with_a_constraint_can_be_asked_again() -> None:
    request = Request([1], seed=0, constraint=UpTo(8))
    first, second = Engine(decoder).generate([request, request])
    (third,) = Engine(decoder).generate([request])
    assert first.tokens == second.tokens == third.tokens


def test_an_id_outside_a_vocabulary_of_unknown_size_fails_its_own_request() -> None:
    engine = Engine(lambda ids: torch.zeros(*ids.shape, 4))
    wrong = [greedy([1], banned_ids=[4]), greedy([1], logit_bias={-1: 1.0}), greedy([1], eos_ids=[9], min_new_tokens=1)]
    *refused, fine = engine.generate([*wrong, greedy([1], max_new_tokens=2)])
    assert all("outside the model's vocabulary of 4" in str(result.error) for result in refused)
    assert len(fine.tokens) == 2


def test_logprobs_are_those_of_a_forward_pass() -> None:
    prompt = [1, 5, 2, 9, 4]
    request = Request(prompt, max_new_tokens=5, seed=0, temperature=0.5, top_k=3, logprobs=4, prompt_logprobs=2)
    for chunk in (2, 512):
        (result,) = Engine(decoder, chunk=chunk).generate([request])
        whole = torch.tensor([[*prompt, *result.tokens]])
        log_p = decoder(whole)[0, :-1].log_softmax(-1)
        reported = [*(result.prompt_logprobs or ()), *(result.best.logprobs or ())]
        assert len(reported) == len(log_p)
        for place, (token, logprob, top) in enumerate(reported):
            assert token == whole[0, place + 1]
            assert logprob == pytest.approx(log_p[place, token].item(), abs=1e-9)
            values, ids = log_p[place].topk(2 if place < 4 else 4)
            assert [i for i, _ in top] == ids.tolist()
            assert [v for _, v in top] == pytest.approx(values.tolist(), abs=1e-9)


@pytest.mark.parametrize("stop", [["c"], ["ab", "bc"], ["zzz"], ["dd", "d"]])
def test_stop_strings_cut_the_text_before_them(stop: list[str]) -> None:
    # ids 0, 1, 2, 3 are a, b, c, d
    for seed in range(10):
        plain, cut = Engine(Recurrent(), alphabet, max_len=99).generate(
            [Request([1], max_new_tokens=20, seed=seed), Request([1], max_new_tokens=20, seed=seed, stop=stop)]
        )
        found = [place for s in stop if (place := plain.text.find(s)) >= 0]
        assert cut.text == plain.text[: min(found, default=None)]
        assert cut.finish_reason == ("stop" if found else "length")


def test_streamed_pieces_joined_are_the_text() -> None:
    bytes_of_characters = Letters([b"\xe2", b"\x82", b"\xac", b"a", b" ", b"\xc3", b"\xa9", b"\xff"] + [b"z"] * 9)
    for seed in range(20):
        request = Request([1], max_new_tokens=20, seed=seed, stop=["az", "é"])
        (result,) = Engine(decoder, bytes_of_characters).generate([request])
        pieces = list(Engine(decoder, bytes_of_characters).stream(request))
        assert "".join(piece.text for piece in pieces) == result.text
        assert tuple(piece.token for piece in pieces if piece.token is not None) == result.tokens
        assert [piece.finish_reason for piece in pieces][-1] == result.finish_reason
        assert result.finish_reason == "stop" or result.text == whole(bytes_of_characters.decode(result.tokens))


def test_a_failure_in_one_text_leaves_the_others() -> None:
    class Broken:
        is_finished = False

        def mask(self, tokens_so_far: Sequence[int]) -> None:
            if len(tokens_so_far) == 2:
                raise ValueError("a grammar that breaks")

        def accept(self, token: int) -> None:
            """Nothing to remember."""

    plain = greedy([1, 2], max_new_tokens=5)
    engine = Engine(decoder, max_rows=3)
    alone = engine.generate([plain])[0]
    broken, beside = engine.generate([greedy([1, 2], max_new_tokens=5, constraint=Broken()), plain])
    assert beside.tokens == alone.tokens
    assert broken.tokens == alone.tokens[:2]
    with pytest.raises(GenerationError, match="ValueError: a grammar that breaks"):
        raise broken.error or AssertionError


def test_ids_that_a_model_of_unknown_vocabulary_has_no_row_for_fail_alone() -> None:
    table = torch.nn.Embedding(17, 17)
    engine = Engine(table, max_rows=4, max_len=30)
    good, bad = Request([1, 2], max_new_tokens=6, temperature=0), Request([1, 99], max_new_tokens=6)
    expected = engine.generate([good])[0].tokens
    first = engine.submit(good)
    engine.step()
    second = engine.submit(bad)
    while not engine.is_idle:
        engine.step()
    assert first.result is not None
    assert second.result is not None
    assert first.result.tokens == expected
    assert "the model fails on the prompt's ids: IndexError" in str(second.result.error)


def test_who_comes_together_with_such_ids_is_answered() -> None:
    table = torch.nn.Embedding(17, 17)
    good = [greedy([1, 2], max_new_tokens=4, prompt_logprobs=1), greedy([3, 4, 5, 6], max_new_tokens=4)]
    expected = [Engine(table, max_len=30).generate([request])[0] for request in good]
    bad = Request([1, 99, 2], prompt_logprobs=0)
    for order in itertools.permutations([*good, bad, bad]):
        results = Engine(table, max_rows=4, max_len=30).generate(order)
        for request, result in zip(order, results, strict=True):
            if request is bad:
                assert "IndexError" in str(result.error)
            else:
                alone = expected[good.index(request)]
                assert (result.tokens, result.prompt_logprobs) == (alone.tokens, alone.prompt_logprobs)


def test_a_model_that_takes_any_id_is_not_asked_for_its_probability() -> None:
    good, bad = Engine(Fixed([0.0, 1.0, 0.0]), max_len=30).generate(
        [greedy([1, 2], max_new_tokens=2), greedy([1, 99], prompt_logprobs=1)]
    )
    assert good.tokens == (1, 1)
    assert "x contains token id 99, outside the model's vocabulary of 3" in str(bad.error)


def test_an_engine_that_failed_in_a_step_is_new_after_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(decoder, max_rows=2)
    request = greedy([1, 2, 3], max_new_tokens=6)
    expected = engine.generate([request])[0].tokens
    left = [engine.submit(request) for _ in range(3)]
    engine.step()
    with monkeypatch.context() as patch:
        patch.setattr(engine.rows, "feed", lambda: (_ for _ in ()).throw(MemoryError("no memory")))
        with pytest.raises(MemoryError):
            engine.step()
    engine.reset()
    assert engine.is_idle
    assert all(handle.result is None for handle in left)
    assert [result.tokens for result in engine.generate([request] * 3)] == [expected] * 3


def test_a_stream_ends_when_its_engine_is_reset() -> None:
    engine = Engine(decoder)
    stream = engine.stream(greedy([1], max_new_tokens=9))
    next(stream)
    engine.reset()
    with pytest.raises(GenerationError, match="the engine was reset"):
        next(stream)


def test_closing_a_stream_frees_its_row_and_leaves_the_others() -> None:
    engine = Engine(decoder, max_rows=2)
    other = engine.submit(greedy([1, 2], max_new_tokens=9))
    stream = engine.stream(greedy([3], max_new_tokens=20))
    for _ in range(3):
        next(stream)
    stream.close()
    assert len(engine.rows.rows) == 1
    while not engine.is_idle:
        engine.step()
    assert other.result is not None
    assert list(other.result.tokens) == recomputed(decoder, [1, 2], 9)


def test_a_cancelled_request_keeps_what_it_has() -> None:
    engine = Engine(decoder, alphabet, max_rows=1)
    running, waiting = (engine.submit(greedy([3], max_new_tokens=20)) for _ in range(2))
    engine.step()
    engine.step()
    for handle in (running, waiting):
        engine.cancel(handle)
    engine.step()
    assert running.result is not None
    assert waiting.result is not None
    assert list(running.result.tokens) == recomputed(decoder, [3], 2)
    assert len(running.result.text) == 2
    assert running.result.finish_reason == waiting.result.finish_reason == "cancelled"
    assert waiting.result.tokens == ()
    assert engine.is_idle


def test_nan_ends_one_row_and_is_named() -> None:
    own = make_decoder()
    with torch.no_grad():
        own.embedding.weight[16] = torch.nan
    own.output = torch.nn.Linear(16, 17, bias=False).double()
    good, bad = Engine(own, max_rows=2).generate(
        [greedy([1, 2], max_new_tokens=5, banned_ids=[16]), greedy([1, 16], max_new_tokens=5)]
    )
    assert list(good.tokens) == recomputed(own, [1, 2], 5)
    assert bad.finish_reason == "error"
    assert "logits contain NaN" in str(bad.error)


def test_nan_stays_in_no_row_for_the_next() -> None:
    own = make_decoder()
    with torch.no_grad():
        own.embedding.weight[16] = torch.nan
    own.output = torch.nn.Linear(16, 17, bias=False).double()
    engine = Engine(own, max_rows=4, chunk=5)
    for search in {}, {"n": 2, "temperature": 1.0}, {"beams": BeamSettings(width=2), "temperature": 1.0}:
        long = engine.submit(greedy([1, 2], max_new_tokens=22, banned_ids=[16]))
        spoilt = engine.submit(greedy([1, *[16] * 12], **search))
        while spoilt.result is None:
            engine.step()
        assert "logits contain NaN" in str(spoilt.result.error)
        short = engine.generate([greedy([n], max_new_tokens=3, banned_ids=[16]) for n in range(3)])
        assert [list(result.tokens) for result in short] == [recomputed(own, [n], 3) for n in range(3)]
        while long.result is None:
            engine.step()
        assert list(long.result.tokens) == recomputed(own, [1, 2], 22)
    with pytest.raises(GenerationError, match="logits contain NaN"):
        list(Engine(own).stream(greedy([16])))


def test_min_new_tokens_forbids_the_end() -> None:
    model = Fixed([9.0, 1.0, 0.0])
    (result,) = Engine(model, max_len=99).generate([greedy([1], min_new_tokens=3, max_new_tokens=9, eos_ids=[0])])
    assert (result.tokens, result.finish_reason) == ((1, 1, 1), "eos")


class UpTo:
    """Allows only tokens below a bound that falls by one each time."""

    def __init__(self, bound: int) -> None:
        self.bound = bound

    def mask(self, tokens_so_far: Any) -> torch.Tensor | None:
        return torch.arange(17) < self.bound

    def accept(self, token: int) -> None:
        assert token < self.bound
        self.bound -= 1

    @property
    def is_finished(self) -> bool:
        return self.bound == 4


def test_a_constraint_masks_each_text_by_itself() -> None:
    constraint = UpTo(8)
    (result,) = Engine(decoder).generate([Request([1], n=3, seed=0, constraint=constraint)])
    for completion in result.completions:
        assert len(completion.tokens) == 4
        assert completion.finish_reason == "stop"
        assert all(token < 8 - place for place, token in enumerate(completion.tokens))
    (stuck, fine) = Engine(decoder).generate([Request([1], constraint=UpTo(0)), greedy([1], max_new_tokens=3)])
    assert stuck.finish_reason == "error"
    assert list(fine.tokens) == recomputed(decoder, [1], 3)


def test_beams_run_beside_samples() -> None:
    beams = BeamSettings(4, length_penalty=1.0)
    request = Request([3, 1], max_new_tokens=6, eos_ids=[0], n=3, beams=beams)
    found = Engine(decoder).generate([greedy([1]), request, greedy([2])])[1]
    expected = n_best(decoder, torch.tensor([3, 1]), 4, 6, W, eos_class=0, length_penalty=1.0, n=3)
    assert [list(c.tokens) for c in found.completions] == [text.tokens for text in expected]
    assert [c.score for c in found.completions] == pytest.approx([text.score for text in expected])


def test_any_model_can_be_served() -> None:
    for model in (Recurrent(), CachedRecurrent()):
        engine = Engine(model, max_len=99, max_rows=2)
        results = engine.generate([greedy([i], max_new_tokens=4 + i) for i in range(4)])
        for i, result in enumerate(results):
            expected = [i]
            for _ in range(4 + i):
                expected.append(int(Recurrent()(torch.tensor([expected]))[0, -1].argmax()))
            assert list(result.tokens) == expected[1:]


def test_nothing_grows_from_step_to_step() -> None:
    engine = Engine(decoder, max_rows=3)
    before = [tensor.data_ptr() for tensor in (*engine.rows.cache.keys, *engine.rows.cache.values)]
    assert engine.cache_bytes == engine.rows.cache.n_bytes
    for _ in range(3):
        engine.generate([greedy([i], max_new_tokens=9) for i in range(5)])
    assert before == [tensor.data_ptr() for tensor in (*engine.rows.cache.keys, *engine.rows.cache.values)]
    assert not engine.rows.rows
    assert not engine._handles
    assert len(engine.rows._views) <= 64


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Request([]), "the prompt is empty"),
        (Request([17]), "the prompt contains token id 17, outside the model's vocabulary of 17"),
        (Request([1], logit_bias={-1: 2.0}), "logit_bias contains token id -1"),
        (Request([1] * 25), "the prompt has 25 tokens, the context 24; shorten it, or set truncate=True"),
        (Request([1], max_new_tokens=0), "max_new_tokens must be a whole number of at least 1, got 0"),
        (Request([1], min_new_tokens=9, max_new_tokens=8), "min_new_tokens is 9, more than max_new_tokens, 8"),
        (Request([1], temperature=0, n=2), "at temperature 0 all 2 texts would be the same"),
        (Request([1], n=3, best_of=2), "best_of is 2, less than n, 3"),
        (Request([1], n=9), "9 texts side by side do not fit into 8 rows"),
        (Request([1], stop=["x"]), "stop strings need a tokenizer"),
        (Request([1], stop="x"), "stop must be a list of strings"),
        (Request([1], beams=BeamSettings(2), top_k=3), "top_k has no meaning in a beam search"),
        (Request([1], beams=BeamSettings(2), n=3), "n is 3, more than there are beams, 2"),
        (Request([1], beams=BeamSettings(4, n_groups=3)), "beam_width must be divisible by n_groups, got 4 and 3"),
        (Request([1], repetition_penalty=0), "repetition_penalty must be above 0, got 0"),
        (Request([1], min_p=1.5), r"min_p must be in \[0, 1\], got 1.5"),
    ],
)
def test_refusals_name_the_setting_and_leave_the_others(request_: Request, says: str) -> None:
    engine = Engine(decoder)
    with pytest.raises(GenerationError, match=says):
        engine.submit(request_)
    refused, fine = engine.generate([request_, greedy([1], max_new_tokens=3)])
    assert refused.completions == ()
    assert refused.error is not None
    assert list(fine.tokens) == recomputed(decoder, [1], 3)


def test_beams_are_not_streamed() -> None:
    with pytest.raises(GenerationError, match="cannot be streamed"):
        Engine(decoder).stream(Request([1], beams=BeamSettings(2)))
    with pytest.raises(GenerationError, match="best_of knows its texts only at their end"):
        Engine(decoder).stream(Request([1], best_of=2))


def test_a_module_around_a_decoder_is_served_over_its_cache() -> None:
    class Around(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = decoder

        def make_cache(self, batch_size: int, max_len: int | None = None) -> Any:
            return self.decoder.make_cache(batch_size, max_len)

    engine = Engine(Around())
    (result,) = engine.generate([greedy([1, 2], max_new_tokens=5)])
    assert list(result.tokens) == recomputed(decoder, [1, 2], 5)
    assert engine.rows.decode_calls == 4
    for prompt, says in ([99], "token id 99, outside the model's vocabulary of 17"), ([1] * 25, "the context 24"):
        with pytest.raises(GenerationError, match=says):
            engine.submit(Request(prompt))


def test_a_cache_beyond_memory_is_refused_before_it_is_made() -> None:
    with pytest.raises(GenerationError, match=r"a cache of 1000000000 texts of 24 tokens would take .* GiB"):
        Engine(decoder, max_rows=10**9)
    with pytest.raises(GenerationError, match="max_len is 25, more than the model's, 24"):
        Engine(decoder, max_len=25)
