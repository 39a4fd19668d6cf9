"""The decoder: causal, initialised as documented, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F

from xlab.errors import ConfigError
from xlab.transformer import (
    ALiBi,
    Decoder,
    GELUFeedForward,
    LayerNorm,
    LearnedPosition,
    MultiHeadAttention,
    MultiQueryAttention,
    NoPosition,
    PostNormBlock,
    RotaryPosition,
    SinusoidalPosition,
)

POSITIONS = [RotaryPosition, LearnedPosition, SinusoidalPosition, ALiBi, NoPosition]


@torch.no_grad()
def test_a_token_changes_the_logits_from_its_place_on_and_none_before(decoder: Decoder, ids: torch.Tensor) -> None:
    before = decoder(ids)
    for place in (1, 6, 11):
        changed = ids.clone()
        changed[:, place] = (ids[:, place] + 1) % 11
        difference = (decoder(changed) - before).abs().amax(-1)  # (B, T)
        assert (difference[:, :place] == 0).all()
        assert (difference[:, place] > 0).all()


@torch.no_grad()
def test_places_are_told_apart(make_decoder) -> None:
    for position in POSITIONS:
        decoder = make_decoder(position=position)
        one, other = decoder(torch.tensor([[1, 2, 3], [2, 1, 3]]))
        assert not torch.allclose(one[-1], other[-1])


def test_every_parameter_has_a_gradient(decoder: Decoder, ids: torch.Tensor) -> None:
    decoder.train()
    decoder(ids).square().sum().backward()
    unused = [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert not unused


def test_tied_embeddings_are_one_tensor_and_untied_ones_two() -> None:
    tied, untied = (Decoder(11, 4, 8, 1, 2, tie_embeddings=tie) for tie in (True, False))
    assert tied.unembedding is tied.embedding.weight
    assert untied.unembedding is not untied.embedding.weight
    assert set(untied.state_dict()) - set(tied.state_dict()) == {"output.weight"}
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(untied(ids), F.linear(untied.hidden(ids), untied.unembedding))


def test_state_dict_names_are_what_checkpoints_rely_on() -> None:
    assert list(Decoder(11, 4, 8, 1, 2).state_dict()) == [
        "embedding.weight",
        "blocks.0.attention_norm.weight",
        "blocks.0.attention.qkv.weight",
        "blocks.0.attention.out.weight",
        "blocks.0.feed_forward_norm.weight",
        "blocks.0.feed_forward.gate_up.weight",
        "blocks.0.feed_forward.down.weight",
        "norm.weight",
    ]
    # post-norm ends on a norm of its own
    assert "norm.weight" not in Decoder(11, 4, 8, 1, 2, block=PostNormBlock).state_dict()


def test_weights_start_as_gpt2s() -> None:
    torch.manual_seed(0)
    decoder = Decoder(
        256,
        64,
        96,
        8,
        4,
        attention=lambda d, h, layer: MultiHeadAttention(d, h, layer, bias=True),
        feed_forward=lambda d, d_ff: GELUFeedForward(d, d_ff, bias=True),
        norm=LayerNorm,
        position=LearnedPosition,
        tie_embeddings=False,
    )
    for name, parameter in decoder.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            residual = name.endswith(("out.weight", "down.weight"))
            # 6,144 draws at least: a standard error under 1 %
            assert parameter.std().item() == pytest.approx(0.02 / 4 if residual else 0.02, rel=0.05), name
            assert parameter.mean().item() == pytest.approx(0, abs=0.001), name


def test_a_seed_gives_the_same_weights_and_meta_gives_none() -> None:
    first, second = (torch.manual_seed(3) and Decoder(11, 4, 8, 2, 2) for _ in range(2))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    with torch.device("meta"):
        empty = Decoder(11, 4, 8, 2, 2)
    assert all(p.is_meta for p in empty.parameters())
    empty.load_state_dict(first.state_dict(), assign=True)
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(empty(ids), first(ids))


def test_to_empty_and_reset_parameters_fill_everything() -> None:
    for position in POSITIONS:
        with torch.device("meta"):
            decoder = Decoder(11, 4, 8, 2, 2, position=position, norm=LayerNorm)
        decoder.to_empty(device="cpu")
        for tensor in (*decoder.parameters(), *decoder.buffers()):
            tensor.data.fill_(float("nan"))
        decoder.reset_parameters()
        assert decoder(torch.tensor([[1, 2, 3]])).isfinite().all()


@pytest.mark.parametrize("position", POSITIONS)
def test_autocast_computes_in_bfloat16_and_learns(position) -> None:
    torch.manual_seed(0)
    decoder = Decoder(11, 8, 16, 2, 4, attention=MultiQueryAttention, position=position)
    ids = torch.randint(11, (2, 8))
    exact = decoder(ids)
    with torch.autocast("cpu", torch.bfloat16):
        logits = decoder(ids)
        cache = decoder.make_cache(2)
        stepwise = torch.cat([decoder(token, cache) for token in ids.split(1, dim=1)], dim=1)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), exact, rtol=0.05, atol=0.01)
    torch.testing.assert_close(stepwise.float(), exact, rtol=0.05, atol=0.01)
    logits.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in decoder.parameters())


@pytest.mark.parametrize("position", POSITIONS)
@torch.no_grad()
def test_a_model_all_in_bfloat16_decodes(position) -> None:
    torch.manual_seed(0)
    decoder = Decoder(11, 8, 16, 2, 4, position=position).bfloat16()
    ids = torch.randint(11, (2, 8))
    cache = decoder.make_cache(2)
    assert cache.keys[0].dtype == torch.bfloat16
    stepwise = torch.cat([decoder(token, cache) for token in ids.split([3, 1, 2, 2], dim=1)], dim=1)
    torch.testing.assert_close(stepwise, decoder(ids), rtol=0.05, atol=0.01)


@pytest.mark.parametrize("position", POSITIONS)
def test_compiles_to_one_graph_with_the_same_gradients(position, make_decoder, ids: torch.Tensor) -> None:
    decoder = make_decoder(position=position, attention=MultiQueryAttention)
    compiled = torch.compile(decoder, fullgraph=True, backend="aot_eager")
    logits = compiled(ids)
    torch.testing.assert_close(logits, decoder(ids))
    weight = decoder.blocks[0].attention_norm.weight
    (ours,) = torch.autograd.grad(logits.square().sum(), weight)
    (eager,) = torch.autograd.grad(decoder(ids).square().sum(), weight)
    torch.testing.assert_close(ours, eager)


@pytest.mark.parametrize("position", POSITIONS)
def test_more_tokens_than_max_len_are_refused_for_every_position(position, make_decoder) -> None:
    decoder = make_decoder(position=position)
    with pytest.raises(ConfigError, match="13 tokens is longer than the model's max_len, 12"):
        decoder(torch.zeros(1, 13, dtype=torch.long))
    cache = decoder.make_cache(1)
    decoder(torch.zeros(1, 12, dtype=torch.long), cache)
    with pytest.raises(ConfigError, match="max_len, 12"):
        decoder(torch.zeros(1, 1, dtype=torch.long), cache)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"vocab_size": 0}, "vocab_size must be at least 1, got 0"),
        ({"n_layers": -1}, "n_layers must be at least 1, got -1"),
        ({"d_ff": 0}, "d_ff must be at least 1, got 0"),
        ({"n_heads": 5}, "d_model must be divisible by n_heads, got 24 and 5"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_senseless_settings_are_refused_when_made(make_decoder, setting: dict[str, int], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_decoder(**setting)
