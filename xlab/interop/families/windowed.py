"""Families whose layers see a window, or have their own norms: Mistral, Qwen2, Qwen3, OLMo 2, Gemma 2."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from xlab.interop.families.fields import Fields
from xlab.interop.families.llama import Llama
from xlab.interop.families.normal_form import Settings

_FULL, _SLIDING = "full_attention", "sliding_attention"


class Mistral(Llama):
    """Jiang et al. 2023, arXiv 2310.06825: Llama without biases, each layer looking back over one window."""

    name: ClassVar[str] = "Mistral"
    model_type: ClassVar[str] = "mistral"
    architecture: ClassVar[str] = "MistralForCausalLM"
    n_kv_heads: ClassVar[int | None] = 8
    max_len: ClassVar[int] = 131_072
    takes_mlp_bias: ClassVar[bool] = False

    def _biases(self, fields: Fields) -> Settings:
        return {"bias": False}

    def _windows(self, fields: Fields, n_layers: int) -> list[int | None]:
        return [fields.integer_or_none("sliding_window", 4096)] * n_layers

    def _own(self, form: Settings) -> dict[str, Any]:
        return {"sliding_window": _window(form)}

    def _refusals(self, form: Settings) -> list[str]:
        return []


class Qwen2(Llama):
    """Yang et al. 2024, arXiv 2407.10671: Llama with biases on queries, keys and values, and windows in some layers."""

    name: ClassVar[str] = "Qwen2"
    model_type: ClassVar[str] = "qwen2"
    architecture: ClassVar[str] = "Qwen2ForCausalLM"
    n_kv_heads: ClassVar[int | None] = 32
    max_len: ClassVar[int] = 32_768
    takes_mlp_bias: ClassVar[bool] = False

    def _biases(self, fields: Fields) -> Settings:
        return {"bias": True, "out_bias": False}

    def _windows(self, fields: Fields, n_layers: int) -> list[int | None]:
        window = fields.integer_or_none("sliding_window", 4096) if fields.flag("use_sliding_window", False) else None
        first = fields.value("max_window_layers")
        first = fields.integer("max_window_layers", 28) if first != 0 else 0
        usual = [_SLIDING if window is not None and layer >= first else _FULL for layer in range(n_layers)]
        return _by_layer(fields, usual, window)

    def _own(self, form: Settings) -> dict[str, Any]:
        window, kinds = _window(form), _kinds(form)
        n_full = kinds.index(_SLIDING) if _SLIDING in kinds else len(kinds)
        return {
            "use_sliding_window": window is not None,
            "sliding_window": window,
            "max_window_layers": n_full,  # which is all that transformers 4.4x reads
            "layer_types": kinds,
        }

    def _refusals(self, form: Settings) -> list[str]:
        return []


class Qwen3(Qwen2):
    """Yang et al. 2025, arXiv 2505.09388: Qwen2 with a norm of each head's queries and keys instead of the biases."""

    name: ClassVar[str] = "Qwen3"
    model_type: ClassVar[str] = "qwen3"
    architecture: ClassVar[str] = "Qwen3ForCausalLM"
    head_dim: ClassVar[int | None] = 128
    qk_norm: ClassVar[str | None] = "xlab.transformer.qk_norms.HeadQKNorm"

    def _biases(self, fields: Fields) -> Settings:
        return {"bias": fields.flag("attention_bias", False)}

    def _own(self, form: Settings) -> dict[str, Any]:
        return {**super()._own(form), "attention_bias": bool(form.get("attention.bias"))}


class OLMo2(Llama):
    """OLMo team 2024, arXiv 2501.00656: each branch's output is normalised, and all queries and keys at once."""

    name: ClassVar[str] = "OLMo 2"
    model_type: ClassVar[str] = "olmo2"
    architecture: ClassVar[str] = "Olmo2ForCausalLM"
    eps: ClassVar[float] = 1e-5
    block: ClassVar[str] = "xlab.transformer.block.BranchNormBlock"
    qk_norm: ClassVar[str | None] = "xlab.transformer.qk_norms.WidthQKNorm"
    norms: ClassVar[Mapping[str, str]] = {
        "attention_norm": "post_attention_layernorm",
        "feed_forward_norm": "post_feedforward_layernorm",
    }
    takes_mlp_bias: ClassVar[bool] = False

    def _refusals(self, form: Settings) -> list[str]:
        return []


class Gemma2(Llama):
    """Gemma team 2024, arXiv 2408.00118: norms around each branch, caps, every other layer in a window."""

    name: ClassVar[str] = "Gemma 2"
    model_type: ClassVar[str] = "gemma2"
    architecture: ClassVar[str] = "Gemma2ForCausalLM"
    norm: ClassVar[str] = "xlab.transformer.norms.OffsetRMSNorm"
    block: ClassVar[str] = "xlab.transformer.block.SandwichNormBlock"
    norms: ClassVar[Mapping[str, str]] = {
        "attention_norm": "input_layernorm",
        "attention_out_norm": "post_attention_layernorm",
        "feed_forward_norm": "pre_feedforward_layernorm",
        "feed_forward_out_norm": "post_feedforward_layernorm",
    }
    activation_key: ClassVar[tuple[str, str]] = ("hidden_activation", "gelu_pytorch_tanh")
    n_kv_heads: ClassVar[int | None] = 4
    head_dim: ClassVar[int | None] = 256
    max_len: ClassVar[int] = 8192
    ties: ClassVar[bool] = True
    takes_mlp_bias: ClassVar[bool] = False

    def _windows(self, fields: Fields, n_layers: int) -> list[int | None]:
        usual = [_FULL if layer % 2 else _SLIDING for layer in range(n_layers)]
        return _by_layer(fields, usual, fields.integer_or_none("sliding_window", 4096))

    def _scores(self, fields: Fields) -> Settings:
        scale = fields.number("query_pre_attn_scalar", 256) ** -0.5
        return {"scale": scale, "cap": fields.number_or_none("attn_logit_softcapping", 50.0)}

    def _frame(self, fields: Fields, d_model: int) -> Settings:
        cap = fields.number_or_none("final_logit_softcapping", 30.0)
        return {"embedding_scale": math.sqrt(d_model), "logit_cap": cap}

    def _own(self, form: Settings) -> dict[str, Any]:
        scale = float(form.get("attention.scale") or 1.0)
        scalar = scale**-2
        return {
            "attention_bias": bool(form.get("attention.bias")),
            # transformers takes whole numbers here; another scale does not come back from this, and is named
            "query_pre_attn_scalar": max(1, round(scalar)),
            "attn_logit_softcapping": form.get("attention.cap"),
            "final_logit_softcapping": form["logit_cap"],
            "sliding_window": _window(form),
            "layer_types": _kinds(form),
        }


def _by_layer(fields: Fields, usual: list[str], window: int | None) -> list[int | None]:
    """Give each layer's window, of ``layer_types`` or, where they are not told, of the family's usual ones."""
    kinds = fields.value("layer_types")
    kinds = usual if kinds is None else kinds
    if not isinstance(kinds, list) or len(kinds) != len(usual):
        fields.refuse(f"layer_types that are no list of {len(usual)}")
        return [None] * len(usual)
    for kind in dict.fromkeys(str(kind) for kind in kinds):
        if kind not in (_FULL, _SLIDING):
            fields.refuse(f"layer_types {kind!r}")
    if _SLIDING in kinds and window is None:
        fields.refuse("layer_types 'sliding_attention' without a sliding_window")
    return [window if kind == _SLIDING else None for kind in kinds]


def _window(form: Settings) -> int | None:
    windows = form.get("attention.windows") or []
    return next((window for window in windows if window is not None), None)


def _kinds(form: Settings) -> list[str]:
    windows = form.get("attention.windows") or [None] * form["n_layers"]
    return [_FULL if window is None else _SLIDING for window in windows]
