"""The tokens of ``transformers.generate`` on the same weights, copied into its Llama and its GPT-2."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_decoder import make_decoder

from xlab.inference import beam_search, greedy_search
from xlab.inference.beam_search import n_best
from xlab.transformer import (
    Decoder,
    GELUFeedForward,
    GroupedQueryAttention,
    LayerNorm,
    LearnedPosition,
    MultiHeadAttention,
)

transformers = pytest.importorskip("transformers")

EOS, LENGTH, MAX_LEN = 0, 9, 32


def llama() -> tuple[Decoder, Any]:
    decoder = make_decoder(max_len=MAX_LEN, attention=partial(GroupedQueryAttention, n_kv_heads=2))
    config = transformers.LlamaConfig(
        vocab_size=17,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_LEN,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config).double().eval()
    weights = {"model.embed_tokens.weight": decoder.embedding.weight, "model.norm.weight": decoder.norm.weight}
    for i, block in enumerate(decoder.blocks):
        prefix = f"model.layers.{i}."
        parts = block.attention.qkv.weight.split([16, 8, 8])
        gate, up = block.feed_forward.gate_up.weight.chunk(2)
        weights |= {
            **{f"{prefix}self_attn.{n}_proj.weight": part for n, part in zip("qkv", parts, strict=True)},
            f"{prefix}self_attn.o_proj.weight": block.attention.out.weight,
            f"{prefix}mlp.gate_proj.weight": gate,
            f"{prefix}mlp.up_proj.weight": up,
            f"{prefix}mlp.down_proj.weight": block.feed_forward.down.weight,
            f"{prefix}input_layernorm.weight": block.attention_norm.weight,
            f"{prefix}post_attention_layernorm.weight": block.feed_forward_norm.weight,
        }
    return decoder, loaded(model, weights)


def gpt2() -> tuple[Decoder, Any]:
    decoder = make_decoder(
        max_len=MAX_LEN,
        position=LearnedPosition,
        norm=LayerNorm,
        attention=partial(MultiHeadAttention, bias=True),
        feed_forward=partial(GELUFeedForward, bias=True, approximate="tanh"),
    )
    config = transformers.GPT2Config(
        vocab_size=17, n_positions=MAX_LEN, n_embd=16, n_layer=2, n_head=4, n_inner=16, attn_pdrop=0.0
    )
    model = transformers.GPT2LMHeadModel(config).double().eval()
    weights = {
        "transformer.wte.weight": decoder.embedding.weight,
        "transformer.wpe.weight": decoder.position.table.weight,
        "transformer.ln_f.weight": decoder.norm.weight,
        "transformer.ln_f.bias": decoder.norm.bias,
    }
    for i, block in enumerate(decoder.blocks):
        names = {
            "ln_1": block.attention_norm,
            "attn.c_attn": block.attention.qkv,
            "attn.c_proj": block.attention.out,
            "ln_2": block.feed_forward_norm,
            "mlp.c_fc": block.feed_forward.up,
            "mlp.c_proj": block.feed_forward.down,
        }
        for name, module in names.items():
            weight = module.weight.t() if isinstance(module, nn.Linear) else module.weight
            weights |= {
                f"transformer.h.{i}.{name}.weight": weight,
                f"transformer.h.{i}.{name}.bias": module.bias,
            }
    return decoder, loaded(model, weights)


def loaded(model: Any, weights: dict[str, Tensor]) -> Any:
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert missing in ([], ["lm_head.weight"])
    assert not unexpected
    model.tie_weights()
    return model


def without_eos(ids: list[int]) -> list[int]:
    return ids[: ids.index(EOS)] if EOS in ids else ids


@pytest.fixture(scope="module", params=[llama, gpt2], ids=["llama", "gpt2"])
def pair(request: pytest.FixtureRequest) -> tuple[Decoder, Any]:
    decoder, theirs = request.param()
    ids = torch.randint(17, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(decoder(ids), theirs(ids).logits, rtol=0.0, atol=1e-5)  # Llama norms in float32
    return decoder, theirs


def generate(model: Any, x: Tensor, **settings: Any) -> Any:
    return model.generate(
        x[None],
        attention_mask=torch.ones_like(x[None]),
        max_new_tokens=LENGTH,
        do_sample=False,
        eos_token_id=EOS,
        pad_token_id=EOS,
        return_dict_in_generate=True,
        output_scores=True,
        **settings,
    )


@pytest.mark.parametrize("seed", range(8))
def test_greedy(pair: tuple[Decoder, Any], seed: int) -> None:
    decoder, theirs = pair
    x = torch.randint(1, 17, (1 + seed % 4,), generator=torch.Generator().manual_seed(seed))
    expected = without_eos(generate(theirs, x).sequences[0, len(x) :].tolist())
    assert greedy_search(decoder, x, LENGTH, MAX_LEN, eos_class=EOS).tolist() == expected


@pytest.mark.parametrize("early_stopping", ["never", True, False])
@pytest.mark.parametrize("penalty", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("width", [2, 3, 5])
def test_beams(pair: tuple[Decoder, Any], width: int, penalty: float, early_stopping: Any) -> None:
    decoder, theirs = pair
    for seed in range(3):
        x = torch.randint(1, 17, (3,), generator=torch.Generator().manual_seed(seed))
        answer = generate(
            theirs, x, num_beams=width, early_stopping=early_stopping, length_penalty=penalty, num_return_sequences=1
        )
        ours = n_best(
            decoder, x, width, LENGTH, MAX_LEN, EOS, length_penalty=penalty, n=1, early_stopping=early_stopping
        )
        assert ours[0].tokens == without_eos(answer.sequences[0, len(x) :].tolist())
        assert ours[0].score == pytest.approx(answer.sequences_scores[0].item(), abs=1e-4)
        if early_stopping == "never":
            found = beam_search(decoder, x, width, LENGTH, MAX_LEN, eos_class=EOS, length_penalty=penalty)
            assert found.tolist() == ours[0].tokens
