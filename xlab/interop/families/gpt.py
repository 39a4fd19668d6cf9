"""GPT-2, and GPT-NeoX with its Pythia.

Letters: H heads, Dh width of a head.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from xlab.interop.families import rotary
from xlab.interop.families.family import LONGEST, Family, activation
from xlab.interop.families.fields import Fields
from xlab.interop.families.normal_form import Settings, normal
from xlab.interop.families.tensors import HeadByHead, TensorRule, Transposed, both

_PARTS = "xlab.transformer"
_PLAIN = {
    "gelu": (f"{_PARTS}.feed_forward.GELUFeedForward", {"approximate": "none"}),
    "gelu_tanh": (f"{_PARTS}.feed_forward.GELUFeedForward", {"approximate": "tanh"}),
    "relu": (f"{_PARTS}.feed_forward.ReLUFeedForward", {}),
    "relu2": (f"{_PARTS}.feed_forward.ReLUSquaredFeedForward", {}),
}


class GPT2(Family):
    """Radford et al. 2019: LayerNorm before each branch, learned positions, biases everywhere, tied embeddings."""

    name: ClassVar[str] = "GPT-2"
    model_type: ClassVar[str] = "gpt2"
    architecture: ClassVar[str] = "GPT2LMHeadModel"
    prefix: ClassVar[str] = "transformer."
    embedding: ClassVar[str] = "transformer.wte.weight"
    buffers: ClassVar[re.Pattern[str]] = re.compile(r"\.attn\.(masked_)?bias$")

    def _settings(self, fields: Fields) -> Settings:
        fields.must_be("scale_attn_weights", True)
        fields.must_be("scale_attn_by_inverse_layer_idx", False)
        d_model, n_heads = fields.integer("n_embd", 768), fields.integer("n_head", 12)
        return {
            "vocab_size": fields.integer("vocab_size", 50_257),
            "max_len": fields.integer("n_positions", 1024, at_most=LONGEST),
            "d_model": d_model,
            "n_layers": fields.integer("n_layer", 12, at_most=10_000),
            "n_heads": n_heads,
            "d_ff": fields.integer("n_inner", 4 * d_model),
            "tie_embeddings": fields.flag("tie_word_embeddings", True),
            "attention": _attention(bias=True),
            "norm": _layer_norm(fields, "layer_norm_epsilon"),
            "feed_forward": _feed_forward(fields, "activation_function", "gelu_new"),
            "position": {"class_path": f"{_PARTS}.positions.LearnedPosition"},
            "block": {"class_path": f"{_PARTS}.block.PreNormBlock"},
        }

    def _config(self, form: Settings) -> dict[str, Any]:
        return {
            "vocab_size": form["vocab_size"],
            "n_positions": form["max_len"],
            "n_ctx": form["max_len"],
            "n_embd": form["d_model"],
            "n_layer": form["n_layers"],
            "n_head": form["n_heads"],
            "n_inner": form["d_ff"],
            "activation_function": _activation(form, tanh="gelu_new"),
            "layer_norm_epsilon": form.get("norm.eps", 1e-5),
            "tie_word_embeddings": form["tie_embeddings"],
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        }

    def tensors(self, settings: Mapping[str, Any]) -> list[TensorRule]:
        form = normal(settings)
        rules = both("embedding", "transformer.wte", bias=False)
        rules += both("position.table", "transformer.wpe", bias=False)
        rules += both("norm", "transformer.ln_f", bias=True)
        if not form["tie_embeddings"]:
            rules += both("output", "lm_head", bias=False)
        for layer in range(form["n_layers"]):
            ours, theirs = f"blocks.{layer}", f"transformer.h.{layer}"
            rules += both(f"{ours}.attention_norm", f"{theirs}.ln_1", bias=True)
            rules += both(f"{ours}.attention.qkv", f"{theirs}.attn.c_attn", bias=True, layout=Transposed())
            rules += both(f"{ours}.attention.out", f"{theirs}.attn.c_proj", bias=True, layout=Transposed())
            rules += both(f"{ours}.feed_forward_norm", f"{theirs}.ln_2", bias=True)
            rules += both(f"{ours}.feed_forward.up", f"{theirs}.mlp.c_fc", bias=True, layout=Transposed())
            rules += both(f"{ours}.feed_forward.down", f"{theirs}.mlp.c_proj", bias=True, layout=Transposed())
        return rules

    def _refusals(self, form: Settings) -> list[str]:
        return _uneven_heads(form)


class GPTNeoX(Family):
    """Black et al. 2022, arXiv 2204.06745; Pythia, Biderman et al. 2023, arXiv 2304.01373: both branches side by side.

    Attention and feed-forward read the same stream, and a quarter of each head turns with the place.
    """

    name: ClassVar[str] = "GPT-NeoX"
    model_type: ClassVar[str] = "gpt_neox"
    architecture: ClassVar[str] = "GPTNeoXForCausalLM"
    prefix: ClassVar[str] = "gpt_neox."
    embedding: ClassVar[str] = "gpt_neox.embed_in.weight"
    output: ClassVar[str] = "embed_out.weight"
    buffers: ClassVar[re.Pattern[str]] = re.compile(r"\.attention\.((masked_)?bias|rotary_emb\.inv_freq)$")
    renamed: ClassVar[Mapping[str, str]] = {"lm_head.weight": "embed_out.weight"}

    def _settings(self, fields: Fields) -> Settings:
        d_model, n_heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
        max_len = fields.integer("max_position_embeddings", 2048, at_most=LONGEST)
        is_parallel = fields.flag("use_parallel_residual", True)
        position = rotary.read(
            fields,
            head_dim=max(1, d_model // n_heads),
            has_own_width=False,
            max_len=max_len,
            base_key="rotary_emb_base",
            fraction_key="rotary_pct",
            fraction=0.25,
            takes_fraction=True,
        )
        return {
            "vocab_size": fields.integer("vocab_size"),
            "max_len": max_len,
            "d_model": d_model,
            "n_layers": fields.integer("num_hidden_layers", at_most=10_000),
            "n_heads": n_heads,
            "d_ff": fields.integer("intermediate_size"),
            "tie_embeddings": fields.flag("tie_word_embeddings", False),
            "attention": _attention(bias=fields.flag("attention_bias", True)),
            "norm": _layer_norm(fields, "layer_norm_eps"),
            "feed_forward": _feed_forward(fields, "hidden_act", "gelu"),
            "position": position,
            "block": {"class_path": f"{_PARTS}.block.{'ParallelBlock' if is_parallel else 'PreNormBlock'}"},
        }

    def _config(self, form: Settings) -> dict[str, Any]:
        rope = rotary.write(form)
        return {
            "vocab_size": form["vocab_size"],
            "max_position_embeddings": form["max_len"],
            "hidden_size": form["d_model"],
            "num_hidden_layers": form["n_layers"],
            "num_attention_heads": form["n_heads"],
            "intermediate_size": form["d_ff"],
            "hidden_act": _activation(form, tanh="gelu_pytorch_tanh"),
            "layer_norm_eps": form.get("norm.eps", 1e-5),
            "tie_word_embeddings": form["tie_embeddings"],
            "use_parallel_residual": not str(form["block"]).endswith(".PreNormBlock"),
            "attention_bias": bool(form.get("attention.bias", True)),
            "rotary_emb_base": rope["rope_theta"],
            "rotary_pct": form.get("position.fraction", 0.25),
            "rope_scaling": rope["rope_scaling"],
            **dict.fromkeys(("attention_dropout", "hidden_dropout"), 0.0),
        }

    def tensors(self, settings: Mapping[str, Any]) -> list[TensorRule]:
        form = normal(settings)
        has_bias, by_head = form["attention.bias"], HeadByHead(form["n_heads"])
        rules = both("embedding", "gpt_neox.embed_in", bias=False)
        rules += both("norm", "gpt_neox.final_layer_norm", bias=True)
        if not form["tie_embeddings"]:
            rules += both("output", "embed_out", bias=False)
        for layer in range(form["n_layers"]):
            ours, theirs = f"blocks.{layer}", f"gpt_neox.layers.{layer}"
            rules += both(f"{ours}.attention_norm", f"{theirs}.input_layernorm", bias=True)
            own = f"{theirs}.attention.query_key_value"
            rules += both(f"{ours}.attention.qkv", own, bias=has_bias, layout=by_head)
            rules += both(f"{ours}.attention.out", f"{theirs}.attention.dense", bias=has_bias)
            rules += both(f"{ours}.feed_forward_norm", f"{theirs}.post_attention_layernorm", bias=True)
            rules += both(f"{ours}.feed_forward.up", f"{theirs}.mlp.dense_h_to_4h", bias=True)
            rules += both(f"{ours}.feed_forward.down", f"{theirs}.mlp.dense_4h_to_h", bias=True)
        return rules

    def _refusals(self, form: Settings) -> list[str]:
        return _uneven_heads(form)


def _attention(*, bias: bool) -> Settings:
    return {"class_path": f"{_PARTS}.attention.MultiHeadAttention", "init_args": {"bias": bias}}


def _layer_norm(fields: Fields, key: str) -> Settings:
    return {"class_path": f"{_PARTS}.norms.LayerNorm", "init_args": {"eps": fields.number(key, 1e-5)}}


def _feed_forward(fields: Fields, key: str, default: str) -> Settings:
    kind = activation(fields, key, default)
    if kind not in _PLAIN:
        fields.refuse(f"{key} {kind!r} in a feed-forward without a gate")
        kind = "gelu"
    path, options = _PLAIN[kind]
    return {"class_path": path, "init_args": {"bias": True, **options}}


def _activation(form: Settings, *, tanh: str) -> str:
    for name in ("relu", "relu2"):
        if form["feed_forward"] == _PLAIN[name][0]:
            return name
    return "gelu" if form.get("feed_forward.approximate") == "none" else tanh


def _uneven_heads(form: Settings) -> list[str]:
    if form["d_model"] % form["n_heads"]:
        return [f"d_model {form['d_model']}, which is no multiple of n_heads, {form['n_heads']}"]
    return []
