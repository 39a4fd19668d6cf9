"""Prepared weights give the decoder's logits, as well as their type can."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from toy_decoder import ARCHITECTURES, make_decoder

from xlab.errors import GenerationError
from xlab.inference import Engine, Request
from xlab.inference.weights import Int8Linear, prepare
from xlab.transformer import (
    ALiBi,
    Decoder,
    EmbeddingShortcutBlock,
    GELUFeedForward,
    GroupedQueryAttention,
    HeadQKNorm,
    LayerNorm,
    LearnedPosition,
    MultiHeadAttention,
    PlainRMSNorm,
    ReLUSquaredFeedForward,
    RMSNorm,
    RotaryPosition,
    ValueEmbeddings,
)

ids = torch.randint(17, (3, 9), generator=torch.Generator().manual_seed(0))

# as conf/defaults.yaml has it, but fewer heads of keys and values than of queries, and more of a head that turns
DEFAULT: dict[str, Any] = {
    "d_model": 32,
    "attention": partial(GroupedQueryAttention, n_kv_heads=2, key_shift=0.5, qk_norm=HeadQKNorm),
    "block": partial(EmbeddingShortcutBlock, embedding_scale=0.3),
    "embedding_norm": PlainRMSNorm,
    "feed_forward": ReLUSquaredFeedForward,
    "norm": PlainRMSNorm,
    "position": partial(RotaryPosition, fraction=0.5),
    "tie_embeddings": False,
    "value_mix": partial(ValueEmbeddings, every=1),
}
BUILDS: list[dict[str, Any]] = [
    DEFAULT,
    {},
    {"tie_embeddings": False, "position": ALiBi},
    {
        "norm": LayerNorm,
        "position": LearnedPosition,
        "feed_forward": lambda d_model, d_ff: GELUFeedForward(d_model, d_ff, bias=True),
        "attention": lambda d_model, n_heads, layer: MultiHeadAttention(d_model, n_heads, layer, bias=True),
    },
    *ARCHITECTURES.values(),
]


@torch.no_grad()
@pytest.mark.parametrize("leaner", [True, False])
@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize(("precision", "tolerance"), [("keep", 1e-12), ("fp32", 1e-4), ("bf16", 0.05), ("int8", 0.1)])
def test_logits_are_close_and_the_original_stays_as_it_was(
    precision: Any, tolerance: float, build: dict[str, Any], leaner: bool
) -> None:
    decoder = make_decoder(**build)
    for name, parameter in decoder.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(0.0, 0.5)
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in decoder.state_dict().items()}
    expected = decoder(ids)
    prepared = prepare(decoder, precision, leaner=leaner)
    for rows in (ids, ids[:1], ids[:, :1]):
        logits = prepared.project(prepared.decoder.hidden(rows)).double()
        assert (logits - decoder(rows)).std() < tolerance * expected.std()
    cache = prepared.decoder.make_cache(3, dtype=prepared.dtype)
    stepwise = torch.cat([prepared.decoder.hidden(chunk, cache) for chunk in ids.split([4, 1, 4], dim=1)], dim=1)
    assert (prepared.project(stepwise).double() - expected).std() < tolerance * expected.std()
    for name, tensor in decoder.state_dict().items():
        assert tensor.data_ptr() == before[name][0]
        assert torch.equal(tensor, before[name][1])


@torch.no_grad()
@pytest.mark.parametrize("build", [DEFAULT, ARCHITECTURES["key shift"], ARCHITECTURES["GPT-NeoX"]])
@pytest.mark.parametrize("n_rows", [1, 3])
def test_leaner_steps_give_what_the_whole_text_does(n_rows: int, build: dict[str, Any]) -> None:
    """A row alone, whose step goes its own way, and rows that have written different numbers of tokens."""
    decoder = make_decoder(**build)
    for parameter in decoder.parameters():
        if parameter.dim() == 1:  # biases other than 0 and scales other than 1
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    prepared = prepare(decoder).decoder
    texts = ids[:n_rows]
    expected = decoder.hidden(texts)
    cache = prepared.make_cache(n_rows)
    prepared.hidden(texts[:, :5], cache)
    held = [5, 3, 2][:n_rows]
    cache.rewind(held)
    for step in range(4):
        rows, places = torch.arange(n_rows), torch.tensor(held) + step
        found = prepared.hidden(texts[rows, places].unsqueeze(1), cache)[:, 0]
        torch.testing.assert_close(found, expected[rows, places], rtol=0.0, atol=1e-12)


def test_what_need_not_change_is_shared() -> None:
    decoder = make_decoder()
    prepared = prepare(decoder, "keep")
    assert prepared.decoder.embedding.weight.data_ptr() == decoder.embedding.weight.data_ptr()
    assert (
        prepared.decoder.blocks[0].attention.qkv.weight.data_ptr() == decoder.blocks[0].attention.qkv.weight.data_ptr()
    )


def test_int8_keeps_little_more_than_a_byte_for_a_parameter() -> None:
    decoder = Decoder(300, 16, 128, 3, 4)
    prepared = prepare(decoder, "int8")
    quantised = [module for module in prepared.decoder.modules() if isinstance(module, Int8Linear)]
    table = prepared.decoder.embedding.table
    assert table is prepared.project
    assert table in quantised
    parameters = sum(module.weight.numel() for module in quantised)
    assert parameters == sum(p.numel() for p in decoder.parameters() if p.dim() == 2)
    held = {t.data_ptr(): t.numel() * t.element_size() for module in quantised for t in module.buffers()}
    assert sum(held.values()) <= 1.1 * parameters
    everything = {t.data_ptr(): t.numel() * t.element_size() for t in prepared.decoder.state_dict().values()}
    vectors = sum(2 * p.numel() * 2 for p in decoder.parameters() if p.dim() == 1)  # leaner norms hold theirs twice
    tables = sum(b.numel() * 4 for b in decoder.buffers())
    assert sum(everything.values()) <= 1.1 * parameters + vectors + tables


def test_int8_tables_of_values_take_a_byte_for_a_parameter() -> None:
    decoder = Decoder(300, 16, 64, 2, 4, value_mix=partial(ValueEmbeddings, every=1))
    tables = prepare(decoder, "int8").decoder.value_mix.tables
    assert [table.table.weight.dtype for table in tables.values()] == [torch.int8] * 2
    assert all(tensor.numel() < 1000 or tensor.dtype == torch.int8 for tensor in tables.state_dict().values())


@pytest.mark.parametrize("build", [DEFAULT, ARCHITECTURES["nanochat"]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_default_s_parts_are_all_leaner(dtype: torch.dtype, build: dict[str, Any]) -> None:
    prepared = prepare(make_decoder(**build).to(dtype))
    kinds = {type(module) for module in prepared.decoder.modules()}
    assert not kinds & {PlainRMSNorm, RMSNorm, HeadQKNorm, RotaryPosition}
    assert not kinds & {ValueEmbeddings, EmbeddingShortcutBlock, ReLUSquaredFeedForward}


def test_norms_that_know_queries_from_keys_are_leaner_only_as_rms_norms() -> None:
    norms = partial(HeadQKNorm, norm=LayerNorm)
    prepared = prepare(make_decoder(attention=partial(MultiHeadAttention, qk_norm=norms)))
    assert all(type(block.attention.qk_norm) is HeadQKNorm for block in prepared.decoder.blocks)


@torch.no_grad()
@pytest.mark.parametrize("n_inputs", [8, 16, 24, 40, 48, 72])
@pytest.mark.parametrize("n_rows", [1, 3])
def test_int8_takes_any_number_of_inputs(n_inputs: int, n_rows: int) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(17, n_inputs), torch.randn(n_rows, n_inputs).bfloat16()
    found = Int8Linear(weight, None, torch.bfloat16)(x).float()
    expected = x.float() @ weight.T
    assert (found - expected).std() < 0.05 * expected.std()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_an_int8_product_is_that_of_its_rounded_weights(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(48, 64), torch.randn(48), torch.randn(2, 5, 64)
    linear = Int8Linear(weight, bias, dtype)
    restored = linear.weight.double() * linear.scale.double().unsqueeze(1)
    assert ((restored - weight).abs() <= linear.scale.double().unsqueeze(1) * 0.75).all()
    expected = nn.functional.linear(x.to(dtype).double(), restored, bias.double())
    torch.testing.assert_close(linear(x.to(dtype)).double(), expected, rtol=0.02, atol=0.1)


@pytest.mark.parametrize("dtype", ["bf16", "int8", "fp32"])
def test_an_engine_generates_in_every_type(dtype: Any) -> None:
    decoder = Decoder(17, 24, 32, 2, 4).eval()
    engine = Engine(decoder, dtype=dtype, max_rows=3)
    assert engine.cache_bytes == engine.rows.cache.n_bytes
    results = engine.generate([Request([i] * (i + 1), max_new_tokens=6, seed=i) for i in range(5)])
    assert all(len(result.tokens) == 6 for result in results)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(GenerationError, match='"bf16" or "int8", got \'int4\''):
        prepare(make_decoder(), "int4")  # type: ignore[arg-type]
