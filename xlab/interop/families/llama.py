"""Llama and the families that grew from it: Mistral, Qwen2, Qwen3, OLMo 2, Gemma 2.

Letters: H query heads, G key-value heads, Dh width of a head, F inner width of the feed-forward.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from xlab.interop.families import rotary
from xlab.interop.families.family import LONGEST, Family, activation
from xlab.interop.families.fields import Fields
from xlab.interop.families.normal_form import Settings, normal, periodic
from xlab.interop.families.tensors import TensorRule, both, joined

_PARTS = "xlab.transformer"
_GATED = {
    "silu": {"class_path": f"{_PARTS}.feed_forward.SwiGLU", "init_args": {}},
    "gelu": {"class_path": f"{_PARTS}.feed_forward.GEGLU", "init_args": {"approximate": "none"}},
    "gelu_tanh": {"class_path": f"{_PARTS}.feed_forward.GEGLU", "init_args": {"approximate": "tanh"}},
}


class Llama(Family):
    """Touvron et al. 2023, arXiv 2302.13971: RMSNorm before each branch, rotary positions, SwiGLU, grouped queries.

    The other families say in class attributes, and in a few methods, where they differ.

    Attributes:
        eps: of the norms, where a config.json says nothing.
        norm: class of the norms.
        block: class of the blocks.
        qk_norm: class of the norms of queries and keys.
        norms: the norms of a block, XLab's name and theirs.
        activation_key: under which a config.json has the activation, and which it is where nothing is said.
        n_kv_heads, head_dim: where a config.json says nothing; None follows from the other sizes.
        max_len: the context, where a config.json says nothing.
        ties: whether the vocabulary projection is the embedding, where a config.json says nothing.
        takes_mlp_bias: whether a config.json can ask for biases in the feed-forwards.
    """

    name: ClassVar[str] = "Llama"
    model_type: ClassVar[str] = "llama"
    architecture: ClassVar[str] = "LlamaForCausalLM"
    eps: ClassVar[float] = 1e-6
    norm: ClassVar[str] = f"{_PARTS}.norms.RMSNorm"
    block: ClassVar[str] = f"{_PARTS}.block.PreNormBlock"
    qk_norm: ClassVar[str | None] = None
    norms: ClassVar[Mapping[str, str]] = {
        "attention_norm": "input_layernorm",
        "feed_forward_norm": "post_attention_layernorm",
    }
    activation_key: ClassVar[tuple[str, str]] = ("hidden_act", "silu")
    n_kv_heads: ClassVar[int | None] = None
    head_dim: ClassVar[int | None] = None
    max_len: ClassVar[int] = 2048
    ties: ClassVar[bool] = False
    takes_mlp_bias: ClassVar[bool] = True

    def _settings(self, fields: Fields) -> Settings:
        d_model, n_heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
        head_dim = fields.integer("head_dim", self.head_dim or max(1, d_model // n_heads))
        max_len = fields.integer("max_position_embeddings", self.max_len, at_most=LONGEST)
        norm = self._norm(fields)
        position = rotary.read(fields, head_dim=head_dim, has_own_width=head_dim * n_heads != d_model, max_len=max_len)
        n_kv_heads = n_heads if fields.has("num_key_value_heads") else self.n_kv_heads or n_heads
        attention: Settings = {"n_kv_heads": fields.integer("num_key_value_heads", n_kv_heads)}
        attention |= self._biases(fields)
        if head_dim * n_heads != d_model:
            attention["head_dim"] = head_dim
        if self.qk_norm is not None:
            attention["qk_norm"] = {"class_path": self.qk_norm, "init_args": {"norm": norm}}
        n_layers = fields.integer("num_hidden_layers", at_most=10_000)
        windows = self._windows(fields, n_layers)
        if any(window is not None for window in windows):
            attention["windows"] = periodic(windows)
        attention |= self._scores(fields)
        return {
            "vocab_size": fields.integer("vocab_size"),
            "max_len": max_len,
            "d_model": d_model,
            "n_layers": n_layers,
            "n_heads": n_heads,
            "d_ff": fields.integer("intermediate_size"),
            "tie_embeddings": fields.flag("tie_word_embeddings", self.ties),
            "attention": {"class_path": f"{_PARTS}.attention.GroupedQueryAttention", "init_args": attention},
            "norm": norm,
            "feed_forward": self._feed_forward(fields),
            "position": position,
            "block": {"class_path": self.block},
            **self._frame(fields, d_model),
        }

    def _config(self, form: Settings) -> dict[str, Any]:
        kind, approximate = str(form["feed_forward"]), form.get("feed_forward.approximate")
        gelu = "gelu" if approximate == "none" else "gelu_pytorch_tanh"
        config = {
            "vocab_size": form["vocab_size"],
            "max_position_embeddings": form["max_len"],
            "hidden_size": form["d_model"],
            "num_hidden_layers": form["n_layers"],
            "num_attention_heads": form["n_heads"],
            "num_key_value_heads": form.get("attention.n_kv_heads", form["n_heads"]),
            "head_dim": form.get("attention.head_dim", form["d_model"] // form["n_heads"]),
            "intermediate_size": form["d_ff"],
            self.activation_key[0]: gelu if kind.endswith(".GEGLU") else "silu",
            "rms_norm_eps": form.get("norm.eps", self.eps),
            "tie_word_embeddings": form["tie_embeddings"],
            "attention_dropout": 0.0,
            **rotary.write(form),
        }
        return config | self._own(form)

    def tensors(self, settings: Mapping[str, Any]) -> list[TensorRule]:
        form = normal(settings)
        head_dim, d_ff = form["attention.head_dim"], form["d_ff"]
        n_queries, n_keys = form["n_heads"] * head_dim, form["attention.n_kv_heads"] * head_dim
        has_bias = {key: form[key] for key in ("attention.bias", "attention.out_bias", "feed_forward.bias")}
        rules = both("embedding", "model.embed_tokens", bias=False) + both("norm", "model.norm", bias=False)
        if not form["tie_embeddings"]:
            rules += both("output", "lm_head", bias=False)
        for layer in range(form["n_layers"]):
            ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
            projections = [f"{theirs}.self_attn.{letter}_proj" for letter in "qkv"]
            rows = (n_queries, n_keys, n_keys)
            rules += joined(f"{ours}.attention.qkv", projections, rows, bias=has_bias["attention.bias"])
            own = f"{theirs}.self_attn.o_proj"
            rules += both(f"{ours}.attention.out", own, bias=has_bias["attention.out_bias"])
            if self.qk_norm is not None:
                for name, letter in (("query", "q"), ("key", "k")):
                    own = f"{theirs}.self_attn.{letter}_norm"
                    rules += both(f"{ours}.attention.qk_norm.{name}", own, bias=False)
            gate_up = [f"{theirs}.mlp.{name}_proj" for name in ("gate", "up")]
            rules += joined(f"{ours}.feed_forward.gate_up", gate_up, (d_ff, d_ff), bias=has_bias["feed_forward.bias"])
            own = f"{theirs}.mlp.down_proj"
            rules += both(f"{ours}.feed_forward.down", own, bias=has_bias["feed_forward.bias"])
            for name, their_name in self.norms.items():
                rules += both(f"{ours}.{name}", f"{theirs}.{their_name}", bias=False)
        return rules

    def _norm(self, fields: Fields) -> Settings:
        return {"class_path": self.norm, "init_args": {"eps": fields.number("rms_norm_eps", self.eps)}}

    def _biases(self, fields: Fields) -> Settings:
        return {"bias": fields.flag("attention_bias", False)}

    def _windows(self, fields: Fields, n_layers: int) -> list[int | None]:
        return [None] * n_layers

    def _scores(self, fields: Fields) -> Settings:
        """Give what is special in how attention scores are made."""
        return {}

    def _feed_forward(self, fields: Fields) -> Settings:
        kind = activation(fields, *self.activation_key)
        if kind not in _GATED:
            fields.refuse(f"{self.activation_key[0]} {kind!r} in a gated feed-forward")
        part = _GATED.get(kind, _GATED["silu"])
        has_bias = self.takes_mlp_bias and fields.flag("mlp_bias", False)
        return {**part, "init_args": {**part["init_args"], "bias": has_bias}}  # type: ignore[dict-item]

    def _frame(self, fields: Fields, d_model: int) -> Settings:
        """Give what stands around the blocks: scales and caps of embeddings and logits."""
        return {}

    def _own(self, form: Settings) -> dict[str, Any]:
        """Give the fields of a config.json that this family has and others have not."""
        biases = {"attention_bias": bool(form.get("attention.bias"))}
        return biases | ({"mlp_bias": bool(form.get("feed_forward.bias"))} if self.takes_mlp_bias else {})

    def _refusals(self, form: Settings) -> list[str]:
        if form["d_model"] % form["n_heads"]:
            return [f"d_model {form['d_model']}, which is no multiple of n_heads, {form['n_heads']}"]
        return []
