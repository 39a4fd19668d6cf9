"""Sampling and greedy search against loops one can read in a glance."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toy_models import CachedRecurrent, Fixed, Recurrent, Scripted, V

from xlab.errors import GenerationError
from xlab.inference import greedy_search, sample
from xlab.inference.sampling import stream

prompts = st.lists(st.integers(0, V - 1), min_size=1, max_size=6)
one = torch.tensor([1])


def argmax_loop(prompt: list[int], length: int, block_size: int | None) -> list[int]:
    ids = list(prompt)
    for _ in range(length):
        ids.append(int(Recurrent()(torch.tensor([ids[-(block_size or 99) :]]))[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("make", [Recurrent, CachedRecurrent, lambda: lambda ids: Recurrent()(ids)])
@given(prompts, st.integers(0, 9), st.none() | st.integers(1, 9))
def test_greedy_is_a_loop_of_argmax(make, prompt: list[int], length: int, block_size: int | None) -> None:
    greedy = greedy_search(make(), torch.tensor(prompt), length, block_size)
    assert greedy.dtype == torch.long
    assert greedy.tolist() == argmax_loop(prompt, length, block_size)


@given(prompts)
def test_one_token_to_choose_from_is_greedy(prompt: list[int]) -> None:
    x = torch.tensor(prompt)
    greedy = greedy_search(Recurrent(), x, 6, None).tolist()
    for settings in ({"top_k": 1}, {"top_p": 1e-9}, {"temperature": 0}, {"temperature": 1e-30}):
        assert sample(Recurrent(), x, 6, None, **settings).tolist() == greedy  # type: ignore[arg-type]


def test_ties_go_to_the_lower_id_in_every_greedy_way() -> None:
    model = Fixed([0.0, 1.0, 1.0, 1.0])
    assert greedy_search(model, one, 3, None).tolist() == [1, 1, 1]
    assert sample(model, one, 3, None, top_k=1).tolist() == [1, 1, 1]
    assert sample(model, one, 3, None, top_p=0.1).tolist() == [1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_draws_follow_the_distribution(dtype: torch.dtype) -> None:
    logits = torch.tensor([0.125, 0.25, 0.0625, 0.5, 0.0625]).log().to(dtype)
    drawn = sample(
        Fixed(logits), one, 4000, 1, exclude_classes=[2], top_k=3, generator=torch.Generator().manual_seed(3)
    )
    expected = torch.tensor([1 / 7, 2 / 7, 0.0, 4 / 7, 0.0]) * 4000
    seen = drawn.bincount(minlength=V)
    assert seen[[2, 4]].tolist() == [0, 0]
    possible = expected > 0
    # chi-square, 2 degrees of freedom: 13.8 is exceeded by one seed in a thousand, and the seed is fixed
    assert ((seen - expected)[possible] ** 2 / expected[possible]).sum() < 13.8


def test_temperature_flattens_and_sharpens() -> None:
    model = Fixed(torch.tensor([0.2, 0.8]).log())
    for temperature in (0.5, 2.0):
        drawn = sample(model, one, 4000, 1, temperature=temperature, generator=torch.Generator().manual_seed(0))
        odds = 0.25 ** (1 / temperature)
        # four standard deviations of a share of 4000 draws are 0.032
        assert abs((drawn == 0).double().mean().item() - odds / (1 + odds)) < 0.032


def test_a_generator_repeats_itself_and_leaves_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    first, second = (sample(Recurrent(), one, 20, None, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_generator_the_global_one_is_drawn_from() -> None:
    texts = []
    for _ in range(2):
        torch.manual_seed(7)
        texts += [sample(Recurrent(), one, 20, None), sample(Recurrent(), one, 20, None)]
    assert torch.equal(texts[0], texts[2])
    assert torch.equal(texts[1], texts[3])
    assert not torch.equal(texts[0], texts[1])


def test_a_draw_is_what_torch_multinomial_draws() -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    expected = [int(torch.multinomial(logits.softmax(-1), 1, generator=generator)) for _ in range(20)]
    assert sample(Fixed(logits), one, 20, 1, generator=torch.Generator().manual_seed(1)).tolist() == expected


def test_greedy_draws_nothing() -> None:
    before = torch.get_rng_state()
    greedy_search(Recurrent(), one, 5, None)
    sample(Recurrent(), one, 5, None, temperature=0, top_k=3, top_p=0.5)
    assert torch.equal(torch.get_rng_state(), before)


def test_eos_is_a_token_id_and_not_a_rank() -> None:
    # after top-k, rank 0 is token 3: a search that took ranks for ids would end here, or never
    model = Fixed([0.0, 1.0, 2.0, 3.0])
    assert sample(model, one, 4, None, eos_class=0, top_k=1).tolist() == [3, 3, 3, 3]
    assert sample(model, one, 4, None, eos_class=3, top_k=2, top_p=0.1).tolist() == []


def test_eos_ends_the_text_and_is_not_part_of_it() -> None:
    model = Scripted([0.0, 0.0, 9.0], [0.0, 9.0, 0.0], [9.0, 0.0, 0.0], [0.0, 9.0, 0.0])
    assert greedy_search(model, one, 4, None).tolist() == [2, 1, 0, 1]
    assert greedy_search(model, one, 4, None, eos_class=0).tolist() == [2, 1]
    assert greedy_search(model, one, 4, None, eos_class=2).tolist() == []
    assert greedy_search(model, one, 2, None, eos_class=0).tolist() == [2, 1]


def test_eos_in_the_prompt_ends_nothing() -> None:
    assert greedy_search(Fixed([0.0, 9.0, 1.0]), torch.tensor([2, 2]), 2, None, eos_class=2).tolist() == [1, 1]


def test_excluded_classes_never_occur() -> None:
    for settings in ({}, {"temperature": 0}, {"temperature": 30.0}, {"top_k": 4}, {"top_p": 0.99}):
        drawn = sample(Recurrent(), one, 100, 8, exclude_classes=[0, 3], **settings)  # type: ignore[arg-type]
        assert set(drawn.tolist()) <= {1, 2, 4}


def test_an_excluded_eos_lets_the_length_end_the_text() -> None:
    assert greedy_search(Fixed([9.0, 1.0]), one, 3, None, eos_class=0, exclude_classes=[0]).tolist() == [1, 1, 1]


def test_stream_gives_tokens_as_they_come() -> None:
    model = Recurrent()
    tokens = stream(model, one, 10, None, temperature=0)
    taken = list(itertools.islice(tokens, 3))
    assert len(model.calls) == 3
    assert taken + list(tokens) == argmax_loop([1], 10, None)


def test_stream_refuses_at_the_call() -> None:
    with pytest.raises(GenerationError, match="temperature"):
        stream(Recurrent(), one, 1, None, temperature=-1.0)


@pytest.mark.parametrize("settings", [{"temperature": 0}, {}, {"top_k": 1}, {"exclude_classes": [1]}])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_and_infinity_stop_generation_and_are_named(bad: float, settings: dict[str, float]) -> None:
    model = Scripted([0.0, 1.0, 2.0], [0.0, bad, 2.0])
    tokens = stream(model, one, 5, None, **settings)  # type: ignore[arg-type]
    next(tokens)
    with pytest.raises(GenerationError, match="logits contain NaN or infinity"):
        next(tokens)


def test_a_model_that_allows_only_what_is_excluded_is_named() -> None:
    with pytest.raises(GenerationError, match="every allowed token probability 0"):
        sample(Fixed([0.0, -torch.inf]), one, 1, None, exclude_classes=[0])


def test_the_result_is_on_the_device_of_x_and_small_ints_will_do() -> None:
    drawn: Tensor = sample(Recurrent(), torch.tensor([1], dtype=torch.int32), 2, None)
    assert drawn.device == one.device
    assert drawn.dtype == torch.long
