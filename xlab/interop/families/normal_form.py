"""A decoder's settings in one normal form: flat, every default filled in, so that two models can be compared.

``{"n_layers": 2, "norm": "xlab.transformer.norms.RMSNorm", "norm.eps": 1e-6, …}``. What only training sees, dropout and
the initialisation, is left out.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from xlab import factories
from xlab.errors import ConfigError
from xlab.interop.errors import ConversionError
from xlab.transformer import attention, positions
from xlab.transformer.decoder import Decoder

Settings = dict[str, Any]

SIZES = ("vocab_size", "max_len", "d_model", "n_layers", "n_heads")
PARTS = ("attention", "norm", "feed_forward", "position", "block", "value_mix", "embedding_norm")
NUMBERS = ("tie_embeddings", "embedding_scale", "logit_scale", "logit_cap")

GROUPED = factories.class_path(attention.GroupedQueryAttention)
ROTARY = factories.class_path(positions.RotaryPosition)

# what the model gives its parts, or only training sees: no setting of the architecture
_GIVEN = {"d_model", "d_ff", "dropout", "args", "kwargs"}


def normal(settings: Mapping[str, Any]) -> Settings:
    """Bring ``XLabModel``'s settings, as plain data, into normal form.

    Raises:
        ConversionError: if a size is missing, or a part cannot be found.
    """
    if missing := [key for key in SIZES if settings.get(key) is None]:
        raise ConversionError(f"the settings lack {', '.join(missing)}, so they describe no model")
    form: Settings = {key: settings[key] for key in SIZES}
    defaults = inspect.signature(Decoder).parameters
    for key in NUMBERS:
        form[key] = settings.get(key, defaults[key].default)
    for key in PARTS:
        _lay_out(form, key, settings.get(key, defaults[key].default))
    form["d_ff"] = _inner_width(settings, form)
    _settle_attention(form)
    _settle_position(form)
    return form


def differences(form: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Name every setting of a normal form that ``other`` has otherwise, each with what that has."""
    found: list[str] = []
    foreign: tuple[str, ...] = ()  # parts of another class: their options say nothing more
    for key in sorted(form.keys() | other.keys()):  # a part comes before its options
        ours, theirs = form.get(key), other.get(key)
        if key.startswith(foreign) or _same(ours, theirs):
            continue
        found.append(f"{key} {_said(ours)} (there {_said(theirs)})")
        foreign += (f"{key}.",)
    return found


def periodic(values: Sequence[Any]) -> list[Any]:
    """Give the shortest list that, repeated, gives ``values``."""
    whole = list(values)
    for length in range(1, len(whole) + 1):
        if all(value == whole[index % length] for index, value in enumerate(whole)):
            return whole[:length]
    return whole


def _lay_out(form: Settings, key: str, part: Any) -> None:
    """Write a part's class under ``key`` and its options, defaults included, under ``key.option``."""
    if part is None or part is inspect.Parameter.empty:
        form[key] = None
        return
    plain = factories.plain(part, key)
    described: Settings = {"class_path": plain} if isinstance(plain, str) else plain
    try:
        kind = factories.find_class(str(described.get("class_path")))
    except ConfigError as error:
        raise ConversionError(f"{key}: {error}") from error
    form[key] = factories.class_path(kind, key)
    told = described.get("init_args") or {}
    callables = factories.callable_parameters(kind)
    for name, parameter in inspect.signature(kind).parameters.items():
        if name in _GIVEN or (name not in told and parameter.default is parameter.empty):
            continue
        value = told.get(name, parameter.default)
        is_part = isinstance(value, type | dict) or (name in callables and isinstance(value, str))
        if is_part:
            _lay_out(form, f"{key}.{name}", value)
        else:
            form[f"{key}.{name}"] = list(value) if isinstance(value, tuple) else value


def _inner_width(settings: Mapping[str, Any], form: Settings) -> int | None:
    if settings.get("d_ff") is not None:
        return int(settings["d_ff"])
    with torch.device("meta"):
        made = factories.build(settings.get("feed_forward", form["feed_forward"]), form["d_model"], None)
    width = getattr(made, "d_ff", None)
    return width if isinstance(width, int) else None


def _settle_attention(form: Settings) -> None:
    """Multi-head and multi-query attention are grouped attention, and what is left open has a value."""
    kinds = {
        factories.class_path(attention.MultiHeadAttention): form["n_heads"],
        factories.class_path(attention.MultiQueryAttention): 1,
    }
    if form["attention"] in kinds:
        form["attention.n_kv_heads"] = kinds[form["attention"]]
        form["attention"] = GROUPED
    if form["attention"] != GROUPED:
        return
    if form["attention.head_dim"] is None:
        form["attention.head_dim"] = max(1, form["d_model"] // form["n_heads"])
    if form["attention.out_bias"] is None:
        form["attention.out_bias"] = form["attention.bias"]
    if form["attention.scale"] is None:
        form["attention.scale"] = form["attention.head_dim"] ** -0.5
    windows = form["attention.windows"]
    if windows is not None:
        expanded = [windows[layer % len(windows)] for layer in range(form["n_layers"])]
        form["attention.windows"] = None if set(expanded) == {None} else expanded


def _settle_position(form: Settings) -> None:
    """A rotary position's dynamic scaling is fixed by the model's context: it is another base, and nothing more."""
    if form["position"] != ROTARY:
        return
    if form["position.head_dim"] is None:
        form["position.head_dim"] = form.get("attention.head_dim", form["d_model"] // form["n_heads"])
    width = positions.rotary_width(form["position.head_dim"], form["position.fraction"])
    if str(form["position.scaling"]).endswith(".DynamicNTKScaling") and width > 2:
        factor, original = form.pop("position.scaling.factor"), form.pop("position.scaling.original_max_len")
        stretch = factor * max(form["max_len"], original) / original - (factor - 1)
        form["position.base"] *= stretch ** (width / (width - 2))
        form["position.scaling"] = None


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float | int):
        return math.isclose(ours, theirs, rel_tol=1e-9)  # a scale goes through a square root and back
    return bool(ours == theirs)


def _said(value: Any) -> str:
    """Name a class by its last name, anything else as it is."""
    if isinstance(value, str):
        return value.rpartition(".")[2]
    if isinstance(value, list) and len(value) > 4:
        return f"[{', '.join(map(str, value[:4]))}, …]"
    return str(value)
