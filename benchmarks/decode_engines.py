"""The contenders of ``decode_speed``: one shape with random weights, driven as each engine's documentation does.

Each builds its model in a precision and returns a function that writes a whole text for every prompt. Nothing ends
early: there is no EOS. Letters: B prompts, T positions, N outputs and K inputs of a product, M rows.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.decode_shape import Shape, Work

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

Write = Callable[[Tensor], list[list[int]]]  # prompts (B, T) → the new tokens of each
Engine = tuple[int, Write]  # the number of parameters, and how to write


def xlab(shape: Shape, work: Work, precision: str, compiled: bool) -> Engine:
    """XLab's decoder, as its defaults compose it, and its engine."""
    from xlab.inference import BeamSettings, Request
    from xlab.inference import Engine as XLabEngine

    decoder = xlab_decoder(shape)
    engine = XLabEngine(decoder, max_rows=work.rows, dtype=precision, compile=compiled)
    beams = BeamSettings(width=work.beams) if work.beams > 1 else None

    def write(prompts: Tensor) -> list[list[int]]:
        results = engine.generate(
            [
                Request(prompt, max_new_tokens=shape.new_tokens, temperature=0.0 if beams is None else 1.0, beams=beams)
                for prompt in prompts.tolist()
            ]
        )
        for result in results:
            if result.error is not None:
                raise result.error
        return [list(result.completions[0].tokens) for result in results]

    return count(decoder), write


def xlab_decoder(shape: Shape) -> Any:
    """XLab's decoder in fp32."""
    from xlab.transformer.attention import GroupedQueryAttention
    from xlab.transformer.decoder import Decoder

    decoder = Decoder(
        vocab_size=shape.vocab_size,
        max_len=shape.max_len,
        d_model=shape.d_model,
        n_layers=shape.n_layers,
        n_heads=shape.n_heads,
        d_ff=shape.d_ff,
        attention=lambda d, heads, layer: GroupedQueryAttention(d, heads, layer, n_kv_heads=shape.n_kv_heads),
        tie_embeddings=shape.tied,
    )
    return decoder.eval().requires_grad_(False)


def transformers(shape: Shape, work: Work, precision: str, compiled: bool) -> Engine:
    """transformers' Llama and ``generate``; compiled as its documentation says, over a static cache."""
    from transformers import GenerationConfig

    model = llama(shape).to(DTYPES[precision])
    settings: dict[str, Any] = {"cache_implementation": "static"} if compiled else {}
    if compiled:
        model.forward = torch.compile(model.forward, fullgraph=True)
    config = GenerationConfig(
        max_new_tokens=shape.new_tokens,
        min_new_tokens=shape.new_tokens,
        do_sample=False,
        num_beams=work.beams,
        pad_token_id=0,
        eos_token_id=None,
        **settings,
    )

    @torch.inference_mode()
    def write(prompts: Tensor) -> list[list[int]]:
        ids = model.generate(prompts, attention_mask=torch.ones_like(prompts), generation_config=config)
        return ids[:, shape.prompt_len :].tolist()

    return count(model), write


def litgpt(shape: Shape, work: Work, precision: str, compiled: bool) -> Engine:
    """litgpt's GPT and its ``generate``, batched where there is a batch; it has no beams."""
    import litgpt.generate.base as base
    from litgpt import GPT, Config

    assert work.beams == 1, "decode_speed asks litgpt for no beams"
    config = Config(
        name="decode_speed",
        block_size=shape.max_len,
        n_layer=shape.n_layers,
        n_embd=shape.d_model,
        n_head=shape.n_heads,
        n_query_groups=shape.n_kv_heads,
        vocab_size=shape.vocab_size,
        padded_vocab_size=shape.vocab_size,
        intermediate_size=shape.d_ff,
        mlp_class_name="LLaMAMLP",
        norm_class_name="RMSNorm",
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
    )
    model = GPT(config)
    model.apply(model._init_weights)
    if shape.tied:  # litgpt's option for it binds them when it loads a checkpoint
        model.lm_head.weight = model.transformer.wte.weight
    model = model.to(DTYPES[precision]).eval().requires_grad_(False)
    model.max_seq_length = shape.max_len
    model.set_kv_cache(batch_size=work.batch_size, dtype=DTYPES[precision])
    if compiled:  # as `litgpt generate --compile`
        torch._dynamo.config.automatic_dynamic_shapes = True
        torch._inductor.config.coordinate_descent_tuning = True
        base.next_token = torch.compile(base.next_token, mode="reduce-overhead")
        base.batched_next_token = torch.compile(base.batched_next_token, mode="reduce-overhead")

    def write(prompts: Tensor) -> list[list[int]]:
        if len(prompts) == 1:
            ids = base.generate(model, prompts[0], shape.max_len, temperature=0.0, include_prompt=False)
            return [ids.tolist()]
        steps = base.batched_generate_fn(
            model,
            prompts,
            shape.max_len,
            sample_args={"temperature": 0.0},
            include_prompt=False,
            include_eos=True,
        )
        texts: list[list[int]] = [[] for _ in prompts]
        for step in steps:
            for text, token in zip(texts, step, strict=True):
                text += token.tolist()
        return texts

    return count(model), write


def ctranslate2(shape: Shape, work: Work, precision: str, compiled: bool) -> Engine:
    """CTranslate2's generator over transformers' Llama, converted here."""
    import ctranslate2

    model = llama(shape)
    parameters = count(model)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "converted")
        convert(model, path)
        generator = ctranslate2.Generator(
            path,
            device="cpu",
            compute_type={"fp32": "float32"}.get(precision, precision),
            intra_threads=torch.get_num_threads(),
            inter_threads=1,
        )

    def write(prompts: Tensor) -> list[list[int]]:
        answers = generator.generate_batch(
            [[token_name(token) for token in prompt] for prompt in prompts.tolist()],
            beam_size=work.beams,
            min_length=shape.new_tokens,
            max_length=shape.new_tokens,
            include_prompt_in_result=False,
        )
        return [answer.sequences_ids[0] for answer in answers]

    return parameters, write


def products(shape: Shape, work: Work, precision: str, compiled: bool) -> Engine:
    """The matrix products that this text takes and nothing else, as PyTorch has them: a limit to compare a step with.

    Every layer has weights of its own, so that they come from memory as a model's do. The prompt is one pass over all
    of its tokens; vocabulary logits are of the last token of a row.
    """
    if precision == "int8":
        return _products(shape, work, torch.bfloat16, _int8_product)
    return _products(shape, work, DTYPES[precision], lambda weight: lambda x: F.linear(x, weight))


def packed(shape: Shape, work: Work, precision: str, compiled: bool) -> Engine:
    """The same products over weights in oneDNN's own order, as inductor's freezing has them: a stricter limit."""
    return _products(shape, work, DTYPES[precision], _packed_product)


Product = Callable[[Tensor], Tensor]  # (M, K) → (M, N)


def _products(shape: Shape, work: Work, dtype: torch.dtype, product: Callable[[Tensor], Product]) -> Engine:
    def make(n: int, k: int) -> tuple[int, Product]:
        return k, product(torch.randn(n, k, dtype=dtype))

    layers = [make(*sizes) for _ in range(shape.n_layers) for sizes in shape.layer_products]
    _, vocabulary = make(shape.vocab_size, shape.d_model)

    def inputs(rows: int) -> dict[int, Tensor]:
        return {k: torch.randn(rows, k, dtype=dtype) for k in (shape.d_model, shape.d_ff)}

    # beams part after the prompt
    prompt, first, step = (inputs(n) for n in (work.batch_size * shape.prompt_len, work.batch_size, work.rows))

    @torch.inference_mode()
    def write(prompts: Tensor) -> list[list[int]]:
        for number in range(shape.new_tokens):
            # the last token is not fed; the first logits are the prompt's
            x = step if number else prompt
            for k, multiply in layers:
                multiply(x[k])
            vocabulary((step if number else first)[shape.d_model])
        return [[0] * shape.new_tokens for _ in prompts]

    return shape.parameters, write


def _int8_product(weight: Tensor) -> Product:
    """Rows in bf16 times int8 weights, with a scale for each output."""
    scale = weight.abs().amax(dim=1) / 127
    rounded = (weight / scale.unsqueeze(1)).round().to(torch.int8)
    return lambda x: torch._weight_int8pack_mm(x, rounded, scale)


def _packed_product(weight: Tensor) -> Product:
    ordered = torch.ops.mkldnn._reorder_linear_weight(weight, 8)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, ordered, None, "none", [], "")


def llama(shape: Shape) -> Any:
    """transformers' Llama over ``scaled_dot_product_attention``."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.d_model,
        intermediate_size=shape.d_ff,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads,
        max_position_embeddings=shape.max_len,
        tie_word_embeddings=shape.tied,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def convert(model: Any, path: str) -> None:
    """Write a Llama as CTranslate2 reads it, with names made up for its tokens."""
    from ctranslate2.converters.converter import Converter
    from ctranslate2.converters.transformers import LlamaLoader

    class Names:
        bos_token, eos_token, unk_token = token_name(1), token_name(2), token_name(0)

        def get_vocab(self) -> dict[str, int]:
            return {token_name(token): token for token in range(model.config.vocab_size)}

    class InMemory(Converter):
        def _load(self) -> Any:
            return LlamaLoader()(model, Names())

    InMemory().convert(path)


def token_name(token_id: int) -> str:
    """What CTranslate2 calls a token here."""
    return f"<{token_id}>"


def count(model: torch.nn.Module) -> int:
    """The parameters of a model, each once."""
    return sum(parameter.numel() for parameter in model.parameters())


ENGINES = {
    "xlab": xlab,
    "transformers": transformers,
    "litgpt": litgpt,
    "ctranslate2": ctranslate2,
    "products": products,
    "packed": packed,
}
