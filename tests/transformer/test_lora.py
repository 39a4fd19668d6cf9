"""Low-rank corrections: nothing at first, then exactly what their merged weights are."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from xlab.errors import CheckpointError, ConfigError
from xlab.inference.weights import prepare
from xlab.transformer.decoder import Decoder
from xlab.transformer.lora import LoRA, LoRALinear
from xlab.transformer.mixture_of_experts import MixtureOfExperts

IDS = torch.randint(50, (2, 16), generator=torch.Generator().manual_seed(0))


def make(**settings: Any) -> Decoder:
    torch.manual_seed(0)
    return Decoder(50, 16, 32, 2, 4, **settings).double().eval()


def adapted(lora: LoRA, **settings: Any) -> Decoder:
    """One whose corrections are not zero any more."""
    decoder = make(**settings)
    lora.adapt(decoder)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith("lora_b"):
                parameter.normal_(0.0, 0.1)
    return decoder.eval()


def test_an_untrained_correction_changes_nothing() -> None:
    plain, decoder = make(), make()
    LoRA(dropout=0.5).adapt(decoder)
    torch.testing.assert_close(decoder.train()(IDS), plain(IDS), rtol=0, atol=0)


@pytest.mark.parametrize(
    "targets",
    [None, ["*.feed_forward.*"], ["*.down", "blocks.1.attention.out"], ["*"]],
)
def test_merged_weights_give_what_the_corrections_gave(targets: list[str] | None) -> None:
    lora = LoRA(rank=3, alpha=5.0, targets=targets)
    decoder, plain = adapted(lora), make()
    before = {name: weight.clone() for name, weight in decoder.state_dict().items()}
    merged = lora.merged(decoder.state_dict())
    assert merged.keys() == plain.state_dict().keys()
    base = plain.state_dict()
    plain.load_state_dict(merged)
    torch.testing.assert_close(plain(IDS), decoder(IDS))
    assert not torch.allclose(plain(IDS), make()(IDS))
    assert all(torch.equal(before[name], weight) for name, weight in decoder.state_dict().items())
    changed = [name for name, weight in merged.items() if not torch.equal(weight, make().state_dict()[name])]
    assert changed == [f"{name}.weight" for name, part in decoder.named_modules() if isinstance(part, LoRALinear)]
    assert base.keys() == merged.keys()


def test_only_the_corrections_train() -> None:
    decoder = adapted(LoRA())
    decoder.train()(IDS).square().sum().backward()
    trained = {name for name, parameter in decoder.named_parameters() if parameter.grad is not None}
    assert trained == {
        f"blocks.{layer}.attention.{projection}.{factor}"
        for layer in range(2)
        for projection in ("qkv", "out")
        for factor in ("lora_a", "lora_b")
    }
    qkv = decoder.blocks[0].attention.qkv
    assert isinstance(qkv, LoRALinear)
    assert (qkv.lora_a.shape, qkv.lora_b.shape) == ((8, 32), (96, 8))  # one pair for all three


@pytest.mark.parametrize(("precision", "tolerance"), [("keep", 1e-9), ("bf16", 0.02), ("int8", 0.03)])
def test_a_decoder_can_be_prepared_while_it_is_adapted(precision: Any, tolerance: float) -> None:
    decoder = adapted(LoRA())
    prepared = prepare(decoder, precision)
    with torch.no_grad():
        found, expected = prepared.project(prepared.decoder.hidden(IDS)), decoder(IDS)
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def test_experts_can_be_adapted_but_not_their_router() -> None:
    decoder = adapted(LoRA(targets=["*.experts.*.down"]), feed_forward=MixtureOfExperts)
    kinds = {name: type(part) for name, part in decoder.named_modules() if isinstance(part, LoRALinear)}
    assert len(kinds) == 16
    with pytest.raises(ConfigError, match=r"'\*\.router' names no projection"):
        LoRA(targets=["*.router"]).adapt(make(feed_forward=MixtureOfExperts))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "model.lora.rank must be at least 1, got 0"),
        ({"alpha": 0.0}, "model.lora.alpha must be above 0, got 0.0"),
        ({"dropout": 1.0}, "model.lora.dropout must be in [0, 1), got 1.0"),
        ({"targets": []}, "model.lora.targets is empty"),
    ],
)
def test_senseless_numbers_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        LoRA(**settings)


@pytest.mark.parametrize("target", ["*.atention.qkv", "embedding", "output"])
def test_a_target_that_names_no_projection_is_refused_with_the_nearest(target: str) -> None:
    decoder = make(tie_embeddings=False)
    with pytest.raises(ConfigError, match=rf"{re.escape(repr(target))} names no projection; there are blocks\.\*"):
        LoRA(targets=[target]).adapt(decoder)
    assert all(parameter.requires_grad for parameter in decoder.parameters())


def test_half_a_correction_or_one_that_does_not_fit_is_refused() -> None:
    lora = LoRA()
    state = adapted(lora).state_dict()
    half = {name: weight for name, weight in state.items() if name != "blocks.0.attention.qkv.lora_b"}
    with pytest.raises(CheckpointError, match=r"blocks\.0\.attention\.qkv has a LoRA correction that lacks"):
        lora.merged(half)
    wrong = state | {"blocks.1.attention.out.lora_a": torch.zeros(8, 3)}
    with pytest.raises(CheckpointError, match=r"\(32, 8\) × \(8, 3\) for \(32, 32\)"):
        lora.merged(wrong)


def test_bf16_weights_are_merged_in_fp32() -> None:
    lora = LoRA(rank=2, alpha=2.0)
    layer = LoRALinear(nn.Linear(16, 16, bias=False).bfloat16(), rank=2, scale=1.0, dropout=0.0)
    with torch.no_grad():
        layer.lora_b.normal_()
    state = {f"p.{name}": weight.detach() for name, weight in layer.state_dict().items()}
    exact = layer.weight.double() + layer.lora_b.double() @ layer.lora_a.double()
    assert torch.equal(lora.merged(state)["p.weight"], exact.to(torch.bfloat16))
