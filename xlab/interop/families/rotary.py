"""Rotary positions in a config.json, as transformers 4 and 5 write them, and in XLab's settings."""

import math
from collections.abc import Mapping
from typing import Any

from xlab.interop.families.fields import Fields

_POSITION = "xlab.transformer.positions.RotaryPosition"
_SCALINGS = "xlab.transformer.rotary_scaling"

# what each kind is called here, and XLab's arguments by the names that transformers has for them
KINDS = {
    "linear": ("LinearScaling", {"factor": "factor"}),
    "dynamic": ("DynamicNTKScaling", {"factor": "factor", "original_max_len": "original_max_position_embeddings"}),
    "yarn": (
        "YaRNScaling",
        {
            "factor": "factor",
            "original_max_len": "original_max_position_embeddings",
            "beta_fast": "beta_fast",
            "beta_slow": "beta_slow",
            "attention_factor": "attention_factor",
            "truncate": "truncate",
        },
    ),
    "llama3": (
        "Llama3Scaling",
        {
            "factor": "factor",
            "low_freq_factor": "low_freq_factor",
            "high_freq_factor": "high_freq_factor",
            "original_max_len": "original_max_position_embeddings",
        },
    ),
}


def read(
    fields: Fields,
    *,
    head_dim: int,
    has_own_width: bool,
    max_len: int,
    base_key: str = "rope_theta",
    fraction_key: str = "partial_rotary_factor",
    fraction: float = 1.0,
    takes_fraction: bool = False,
) -> dict[str, Any]:
    """Give the settings of the position part.

    Args:
        fields: of the config.json.
        head_dim: width of a head.
        has_own_width: whether that is not d_model / n_heads, so that the position has to be told.
        max_len: ``max_position_embeddings``.
        base_key: under which a transformers 4 configuration has the base.
        fraction_key: … and the share of a head that turns.
        fraction: that share where nothing is said.
        takes_fraction: whether the family's models can turn a part of a head.
    """
    # transformers 5 has one mapping; 4 has rope_scaling, with rope_theta beside it
    rope = {**fields.mapping("rope_parameters"), **fields.mapping("rope_scaling")}
    if any(isinstance(value, Mapping) for value in rope.values()):
        fields.refuse("rope_parameters of its own for each kind of layer")
        return {}
    inner = Fields(rope, fields.problems, "rope_parameters.")
    base = inner.number("rope_theta", fields.number(base_key, 10_000.0))
    share = inner.number("partial_rotary_factor", fields.number(fraction_key, fraction))
    if not takes_fraction and share != 1.0:
        fields.refuse(f"partial_rotary_factor {share}")
    arguments: dict[str, Any] = {"base": base}
    if share != 1.0:
        arguments["fraction"] = share
    if has_own_width:
        arguments["head_dim"] = head_dim
    kind = inner.text("rope_type", inner.text("type", "default"))
    if kind in KINDS:
        arguments["scaling"] = _scaling(inner, kind, max_len, fields.value("original_max_position_embeddings"))
    elif kind != "default":
        fields.refuse(f"rope_type {kind!r} (XLab has {', '.join(KINDS)})")
    return {"class_path": _POSITION, "init_args": arguments}


def write(form: Mapping[str, Any]) -> dict[str, Any]:
    """Give a config.json's ``rope_theta`` and ``rope_scaling``, which transformers 4 and 5 read, of a normal form."""
    entries: dict[str, Any] = {"rope_theta": float(form.get("position.base", 10_000.0)), "rope_scaling": None}
    name = str(form.get("position.scaling")).rpartition(".")[2]
    for kind, (own, arguments) in KINDS.items():
        if own == name:
            told = {theirs: form.get(f"position.scaling.{ours}") for ours, theirs in arguments.items()}
            scaling = {key: value for key, value in told.items() if value is not None}
            entries["rope_scaling"] = {"rope_type": kind, **scaling}
    return entries


def _scaling(rope: Fields, kind: str, max_len: int, outer_original: Any) -> dict[str, Any]:
    name, keys = KINDS[kind]
    arguments: dict[str, Any] = {}
    for ours, theirs in keys.items():
        if ours == "truncate":
            arguments[ours] = rope.flag(theirs, True)
        elif ours == "attention_factor":
            arguments[ours] = _attention_factor(rope)
        elif ours in ("beta_fast", "beta_slow"):
            arguments[ours] = rope.number(theirs, {"beta_fast": 32.0, "beta_slow": 1.0}[ours])
        elif ours == "original_max_len":
            # of dynamic scaling transformers knows no other than the model's own context
            told = max_len if kind == "dynamic" else outer_original or max_len
            arguments[ours] = told if kind == "dynamic" or outer_original else rope.integer(theirs, max_len)
        elif ours == "factor" and kind == "yarn" and rope.value("factor") is None:
            arguments[ours] = max_len / rope.integer("original_max_position_embeddings", max_len)
        else:
            arguments[ours] = rope.number(theirs)
    return {"class_path": f"{_SCALINGS}.{name}", "init_args": arguments}


def _attention_factor(rope: Fields) -> float | None:
    """YaRN's scale of queries and keys; DeepSeek's two coefficients of it come to one number."""
    told = rope.value("attention_factor")
    mscale, of_all = rope.value("mscale"), rope.value("mscale_all_dim")
    if told is not None or not mscale or not of_all:
        return None if told is None else rope.number("attention_factor")
    factor = rope.number("factor", 1.0)
    if factor <= 1:
        return 1.0
    growth = 0.1 * math.log(factor)
    return (growth * rope.number("mscale") + 1) / (growth * rope.number("mscale_all_dim") + 1)
