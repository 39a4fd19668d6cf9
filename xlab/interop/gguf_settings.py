"""A model's settings as GGUF's metadata, by way of its family's config.json, in both directions."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xlab.interop.errors import ConversionError
from xlab.interop.families.family import Family
from xlab.interop.families.normal_form import differences, normal
from xlab.interop.gguf_names import Architecture
from xlab.transformer.rotary_scaling import Llama3Scaling, rotary_frequencies

ROPE_FACTORS = "rope_freqs.weight"
# llama.cpp has Llama 3's scaling as a factor for each pair; where it comes from stands beside it
_LLAMA3 = "xlab.rope_scaling."
_LLAMA3_KEYS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
_HEAD = ("attention.key_length", "attention.value_length")
_PUBLISHED = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_YARN_KEYS = {
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}


def metadata_of(architecture: Architecture, config: Mapping[str, Any]) -> dict[str, Any]:
    """Give the numbers of a config.json in GGUF's keys."""
    config = _filled(config)
    name = architecture.name
    metadata: dict[str, Any] = {
        f"{name}.{key}": config[theirs] for key, theirs in architecture.keys.items() if config.get(theirs) is not None
    }
    if "rope_theta" in config:
        base, head_dim = config["rope_theta"], config["head_dim"]
        metadata[f"{name}.rope.freq_base"] = float(base)
        metadata[f"{name}.rope.dimension_count"] = round(head_dim * config.get("rotary_pct", 1.0))
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type")
    if kind == "linear":
        metadata[f"{name}.rope.scaling.type"] = "linear"
        metadata[f"{name}.rope.scaling.factor"] = float(scaling["factor"])
    elif kind == "yarn":
        metadata[f"{name}.rope.scaling.type"] = "yarn"
        told = {key: scaling[theirs] for key, theirs in _YARN_KEYS.items() if theirs in scaling}
        metadata |= {f"{name}.rope.scaling.{key}": value for key, value in told.items()}
    elif kind == "llama3":
        metadata |= {f"{_LLAMA3}{key}": scaling[key] for key in _LLAMA3_KEYS}
    return metadata


def config_of(
    architecture: Architecture, metadata: Mapping[str, Any], names: Collection[str], factors: Tensor | None = None
) -> dict[str, Any]:
    """Give the config.json of a GGUF file.

    Args:
        architecture: of the file.
        metadata: of the file.
        names: of its tensors: they tell which projections have biases.
        factors: its factors of rotary angles, if it has any.

    Raises:
        ConversionError: for heads, and scalings of rotary positions, that XLab does not know.
    """
    name = architecture.name
    found = {key: _rounded(metadata.get(f"{name}.{key}")) for key in architecture.keys}
    if len({found[key] for key in _HEAD if found.get(key) is not None}) > 1:
        raise ConversionError("XLab has no equal for keys and values of different widths")
    config: dict[str, Any] = {"model_type": architecture.model_type}
    config |= {theirs: found[key] for key, theirs in architecture.keys.items() if found[key] is not None}
    config |= {
        "vocab_size": len(metadata.get("tokenizer.ggml.tokens") or []),
        "tie_word_embeddings": "output.weight" not in names,
        "attention_bias": any(name.endswith((".attn_q.bias", ".attn_qkv.bias")) for name in names),
        "mlp_bias": any(name.endswith(".ffn_up.bias") for name in names),
    }
    width, n_heads = config.get("hidden_size"), config.get("num_attention_heads")
    if isinstance(width, int) and isinstance(n_heads, int) and n_heads > 0:
        # llama.cpp's defaults, which are not those of every config.json
        config.setdefault("num_key_value_heads", n_heads)
        config.setdefault("head_dim", width // n_heads)
        turning = metadata.get(f"{name}.rope.dimension_count", config["head_dim"])
        if turning != config["head_dim"]:
            config["rotary_pct"] = config["partial_rotary_factor"] = turning / config["head_dim"]
        elif name == "gptneox":
            config["rotary_pct"] = 1.0
        config["query_pre_attn_scalar"] = config["head_dim"]
    config["rope_theta"] = config["rotary_emb_base"] = _rounded(metadata.get(f"{name}.rope.freq_base", 10_000.0))
    if scaling := _scaling(name, metadata, config, factors):
        config["rope_scaling"] = scaling
    return config


def rope_factors(config: Mapping[str, Any]) -> Tensor | None:
    """Give the factor by which each pair turns more slowly, (Dh/2,), for Llama 3's scaling; else None."""
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") != "llama3":
        return None
    config = _filled(config)
    made = Llama3Scaling(*(scaling[key] for key in _LLAMA3_KEYS))
    base, width = float(config["rope_theta"]), int(config["head_dim"])
    scaled = made.frequencies(base, width, int(config["max_position_embeddings"]))
    return (rotary_frequencies(base, width) / scaled).float()


def misfits(
    architecture: Architecture, family: Family, settings: Mapping[str, Any], names: Collection[str]
) -> list[str]:
    """Name what of a model's settings a GGUF file of that architecture cannot say: what does not come back from it."""
    config = family.config(settings)
    form = normal(settings)
    tokens = {"tokenizer.ggml.tokens": [""] * form["vocab_size"]}
    factors = rope_factors(config)
    metadata = {key: _stored(value) for key, value in metadata_of(architecture, config).items()}
    try:
        back = normal(family.settings(config_of(architecture, metadata | tokens, names, factors)))
    except ConversionError as error:
        return [str(error)]
    found = differences(form, back)
    if factors is not None and not architecture.reads_factors:
        found.append("Llama 3's scaling of rotary positions")
    if architecture.ties is None and not form["tie_embeddings"]:
        found.append("tie_embeddings False (there: always True)")
    if architecture.square and form["n_heads"] * form["attention.head_dim"] != form["d_model"]:
        found.append(f"heads of {form['attention.head_dim']} that do not add up to d_model, {form['d_model']}")
    return found


def _filled(config: Mapping[str, Any]) -> dict[str, Any]:
    """Say what a config.json leaves to its defaults."""
    filled = dict(config)
    if "n_embd" in config:
        filled["n_inner"] = config.get("n_inner") or 4 * config["n_embd"]
    elif config.get("head_dim") is None:
        filled["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    if "rotary_emb_base" in config:  # GPT-NeoX's word for it
        filled["rope_theta"] = config["rotary_emb_base"]
    return filled


def _scaling(
    name: str, metadata: Mapping[str, Any], config: Mapping[str, Any], factors: Tensor | None
) -> dict[str, Any] | None:
    if factors is not None:
        return _llama3_scaling(metadata, config, factors)
    kind = metadata.get(f"{name}.rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise ConversionError(f"XLab has no equal for GGUF's rope scaling {kind!r}")
    keys = _YARN_KEYS if kind == "yarn" else {"factor": "factor"}
    told = {theirs: _rounded(metadata.get(f"{name}.rope.scaling.{key}")) for key, theirs in keys.items()}
    return {"rope_type": kind} | {key: value for key, value in told.items() if value is not None}


def _llama3_scaling(metadata: Mapping[str, Any], config: Mapping[str, Any], factors: Tensor) -> dict[str, Any]:
    """Find the numbers behind a file's factors: those beside them, or else those of the published models."""
    guessed = {"factor": _rounded(float(factors.max())), **_PUBLISHED}
    scaling = {"rope_type": "llama3"} | {
        key: _rounded(metadata.get(f"{_LLAMA3}{key}", guessed[key])) for key in _LLAMA3_KEYS
    }
    expected = rope_factors({**config, "rope_scaling": scaling})
    if expected is None or expected.shape != factors.shape or not torch.allclose(expected, factors.float(), rtol=1e-4):
        raise ConversionError(f"XLab has no equal for this file's {ROPE_FACTORS}: they are not Llama 3's")
    return scaling


def _stored(value: Any) -> Any:
    return float(np.float32(value)) if isinstance(value, float) else value


def _rounded(value: Any) -> Any:
    """GGUF has numbers in single precision: 1e-6 comes back as 9.99999997e-07. Give the shortest that is the same."""
    return float(str(np.float32(value))) if isinstance(value, float) else value
