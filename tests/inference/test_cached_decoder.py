"""XLab's decoder over its cache gives the tokens that full recomputation gives, whatever it is composed of."""

import itertools
from functools import partial
from typing import Any

import pytest
import torch

from xlab.inference import beam_search, greedy_search, sample
from xlab.inference.beam_search import n_best
from xlab.transformer import (
    ALiBi,
    Decoder,
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

W = 6  # the decoder's max_len
POSITIONS = [RotaryPosition, LearnedPosition, SinusoidalPosition, ALiBi, NoPosition]
ATTENTIONS = [MultiHeadAttention, partial(GroupedQueryAttention, n_kv_heads=2), MultiQueryAttention]
BLOCKS = [PreNormBlock, PostNormBlock]


def make_decoder(**parts: Any) -> Decoder:
    torch.manual_seed(0)
    decoder = Decoder(vocab_size=17, max_len=W, d_model=16, n_layers=2, n_heads=4, **parts).double().eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.dim() == 2:  # far from initialisation, where every token is about as likely as any other
                parameter.normal_(0.0, 0.5)
    return decoder


@pytest.mark.parametrize(
    "parts",
    [
        dict(zip(("position", "attention", "block"), parts, strict=True))
        for parts in itertools.product(POSITIONS, ATTENTIONS, BLOCKS)
    ],
)
def test_cached_tokens_are_the_recomputed_tokens(parts: dict[str, Any]) -> None:
    decoder = make_decoder(**parts)
    recompute = lambda ids: decoder(ids)  # noqa: E731 - a function offers no cache
    for prompt_length in (1, W - 1, W, W + 1, 2 * W):
        x = torch.randint(17, (prompt_length,), generator=torch.Generator().manual_seed(prompt_length))
        length = max(W + 3 - prompt_length, 2)  # beyond the window, both recompute
        assert torch.equal(greedy_search(decoder, x, length, W), greedy_search(recompute, x, length, W))
    draws = [sample(m, x[:2], W, W, generator=torch.Generator().manual_seed(1)) for m in (decoder, recompute)]
    assert torch.equal(*draws)
    x = torch.tensor([3, 1])
    beams = [n_best(m, x, 3, W, W, eos_class=0, length_penalty=1.0, n=3) for m in (decoder, recompute)]
    assert [text.tokens for text in beams[0]] == [text.tokens for text in beams[1]]


@pytest.mark.parametrize("parts", [{}, {"position": LearnedPosition}, {"position": ALiBi}])
def test_beyond_the_window_logits_are_those_of_its_last_tokens(parts: dict[str, Any]) -> None:
    decoder = make_decoder(**parts)
    ids = [3, 1]
    for token in greedy_search(decoder, torch.tensor(ids), 3 * W, W - 2).tolist():
        assert token == decoder(torch.tensor([ids[-(W - 2) :]]))[0, -1].argmax().item()
        ids.append(token)


def test_beams_in_one_batch_are_the_texts_they_say_they_are() -> None:
    decoder = make_decoder()
    for text in n_best(decoder, torch.tensor([3, 1]), 4, 5, W, eos_class=0, n=4):
        whole = torch.tensor([[3, 1, *text.tokens, *[0] * text.finished]])
        log_p = decoder(whole[:, :-1]).log_softmax(-1)[0, 1:].gather(-1, whole[0, 2:, None]).sum()
        assert text.log_probability == pytest.approx(log_p.item(), abs=1e-10)


def test_a_wide_beam_is_no_worse_than_greedy() -> None:
    decoder, x = make_decoder(), torch.tensor([3, 1])
    greedy = n_best(decoder, x, 1, 5, W, n=1)[0]
    assert greedy.tokens == greedy_search(decoder, x, 5, W).tolist()
    best = n_best(decoder, x, 200, 5, W, n=1)[0]
    assert best.score >= greedy.score
    assert best.tokens == beam_search(decoder, x, 200, 5, W).tolist()
