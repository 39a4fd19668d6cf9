"""What weights begin with, and the rates that go with it."""

import re
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from xlab.errors import ConfigError
from xlab.transformer.attention import MultiHeadAttention
from xlab.transformer.block import EmbeddingShortcutBlock
from xlab.transformer.decoder import Decoder
from xlab.transformer.feed_forward import GELUFeedForward
from xlab.transformer.initialisations import (
    GPT2Initialisation,
    Initialisation,
    MuPInitialisation,
    ZeroOutputInitialisation,
)
from xlab.transformer.mixture_of_experts import MixtureOfExperts
from xlab.transformer.norms import LayerNorm
from xlab.transformer.positions import LearnedPosition
from xlab.transformer.values import ValueEmbeddings, ValueResidual


def make(width: int = 128, n_layers: int = 3, **settings: Any) -> Decoder:
    torch.manual_seed(0)
    return Decoder(300, 64, width, n_layers, width // 32, **settings)


def std(decoder: Decoder, name: str) -> float:
    return decoder.get_parameter(name).std().item()


def test_gpt2_divides_what_writes_to_the_residual_stream() -> None:
    decoder = make(
        position=LearnedPosition, feed_forward=GELUFeedForward, initialisation=partial(GPT2Initialisation, 0.1)
    )
    for name in ("embedding", "position.table", "blocks.1.attention.qkv", "blocks.2.feed_forward.up"):
        assert std(decoder, f"{name}.weight") == pytest.approx(0.1, rel=0.05)
    for name in ("blocks.0.attention.out", "blocks.2.feed_forward.down"):
        assert std(decoder, f"{name}.weight") == pytest.approx(0.1 / 6**0.5, rel=0.05)


def test_the_default_is_gpt2_s() -> None:
    one, two = make(), make(initialisation=GPT2Initialisation)
    assert all(torch.equal(one.state_dict()[name], weight) for name, weight in two.state_dict().items())
    assert std(one, "embedding.weight") == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("tied", [False, True])
def test_a_block_of_zero_outputs_is_the_identity(tied: bool) -> None:
    decoder = make(initialisation=ZeroOutputInitialisation, tie_embeddings=tied).eval()
    ids = torch.randint(300, (2, 9))
    torch.testing.assert_close(decoder.hidden(ids), decoder.norm(decoder.embedding(ids)))
    assert std(decoder, "embedding.weight") == pytest.approx(0.02 if tied else 1.0, rel=0.05)
    if decoder.output is not None:
        assert std(decoder, "output.weight") == pytest.approx(0.001, rel=0.05)
    qkv = decoder.get_parameter("blocks.0.attention.qkv.weight")
    assert qkv.std().item() == pytest.approx(128**-0.5, rel=0.02)
    assert qkv.abs().max() <= (3 / 128) ** 0.5  # uniform: nothing beyond


def test_mup_at_its_base_is_gpt2() -> None:
    one, two = make(), make(initialisation=partial(MuPInitialisation, base_width=128))
    assert all(torch.equal(one.state_dict()[name], weight) for name, weight in two.state_dict().items())
    rates = {two.initialisation.learning_rate_factor(name, weight, two) for name, weight in two.named_parameters()}
    assert rates == {1.0}


def test_mup_scales_deviations_and_rates_with_the_width() -> None:
    decoder = make(
        256,
        attention=partial(MultiHeadAttention, bias=True),
        feed_forward=partial(MixtureOfExperts, n_experts=64, top_k=2),
        initialisation=partial(MuPInitialisation, base_width=64),
        norm=LayerNorm,
        position=LearnedPosition,
        tie_embeddings=False,
        value_mix=ValueEmbeddings,
    )
    residual = 6**-0.5
    expected = {
        "embedding.weight": (1.0, 1.0),
        "position.table.weight": (1.0, 1.0),
        "value_mix.tables.0.weight": (1.0, 1.0),
        "value_mix.gates.0.weight": (1.0, 1.0),  # it reads as many numbers at every width
        "blocks.1.attention.qkv.weight": (0.5, 0.25),
        "blocks.1.attention.out.weight": (0.5 * residual, 0.25),
        "blocks.1.feed_forward.experts.7.gate_up.weight": (0.5, 0.25),
        "blocks.1.feed_forward.experts.7.down.weight": (0.5 * residual, 0.25),
        "blocks.1.feed_forward.router.weight": (0.25, 0.25),
        "output.weight": (0.25, 0.25),
    }
    for name, (deviation, rate) in expected.items():
        parameter = decoder.get_parameter(name)
        assert parameter.std().item() == pytest.approx(0.02 * deviation, rel=0.12), name
        assert decoder.initialisation.learning_rate_factor(name, parameter, decoder) == rate, name
    for name, parameter in decoder.named_parameters():
        if parameter.ndim < 2:
            assert decoder.initialisation.learning_rate_factor(name, parameter, decoder) == 1.0


def test_mup_of_tied_embeddings_needs_its_scale_of_the_logits() -> None:
    mup = partial(MuPInitialisation, base_width=64)
    with pytest.raises(ConfigError, match=r"logit_scale is 1; .* needs base_width / d_model, 0\.25; set it, or"):
        make(256, initialisation=mup)
    assert make(256, initialisation=mup, logit_scale=0.25).logit_scale == 0.25


@pytest.mark.parametrize("initialisation", [GPT2Initialisation, ZeroOutputInitialisation, MuPInitialisation])
@pytest.mark.parametrize("value_mix", [ValueEmbeddings, ValueResidual])
def test_nothing_is_left_without_content(initialisation: type[Initialisation], value_mix: Any) -> None:
    made = partial(initialisation, base_width=32) if initialisation is MuPInitialisation else initialisation
    decoder = make(
        64,
        block=EmbeddingShortcutBlock,
        attention=partial(MultiHeadAttention, bias=True, sinks=True),
        feed_forward=MixtureOfExperts,
        initialisation=made,
        norm=LayerNorm,
        position=LearnedPosition,
        tie_embeddings=False,
        value_mix=value_mix,
    )
    for tensor in (*decoder.parameters(), *decoder.buffers()):
        nn.init.constant_(tensor, torch.nan)
    decoder.reset_parameters()
    empty = [name for name, tensor in decoder.state_dict().items() if not tensor.isfinite().all()]
    assert empty == []


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: GPT2Initialisation(std=0.0), "initialisation.std must be above 0, got 0.0"),
        (lambda: MuPInitialisation(base_width=0), "initialisation.base_width must be above 0, got 0"),
        (
            lambda: ZeroOutputInitialisation(embedding_std=-1.0),
            "initialisation.embedding_std must be above 0, got -1.0",
        ),
        (lambda: ZeroOutputInitialisation(output_std=0.0), "initialisation.output_std must be above 0, got 0.0"),
    ],
)
def test_senseless_numbers_are_refused(make_it: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_it()
