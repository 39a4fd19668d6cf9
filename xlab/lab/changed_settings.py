"""Which settings of a model are not the defaults: those of ``conf/defaults.yaml``, and of the classes themselves."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from xlab import factories
from xlab.errors import ConfigError
from xlab.setting_names import CLASS_SETTINGS
from xlab.transformer.decoder import Decoder

# the defaults of ``XLabModel`` beside those of ``Decoder``: to ask it, Lightning would have to be imported
TRAINING = {"objective": "NextToken", "optimizer": "AdamW", "schedule": "Cosine"}
# what a model is by its data and its size, which are told anyway
_LEFT_OUT = {"vocab_size", "max_len", "d_model", "n_layers", "n_heads", "d_ff", "init_from"}


def changed(settings: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> dict[str, tuple[Any, Any]]:
    """Compare a model's settings with the defaults.

    Args:
        settings: the arguments of ``XLabModel``, as plain data.
        defaults: the same, of the default experiment; what it leaves out is as the model's class has it.

    Returns:
        By dotted keys, without ``class_path`` and ``init_args``, what a setting is and what it would be by default; an
        argument that the default experiment does not give has its class's own default, None where there is none. A
        class whose arguments are its own defaults is told by its name alone.
    """
    own = {key: value for key, value in settings.items() if key not in _LEFT_OUT}
    of_classes = TRAINING | {
        name: factories.plain(parameter.default)
        for name, parameter in inspect.signature(Decoder).parameters.items()
        if parameter.default is not parameter.empty
    }
    usual = {key: (defaults or {}).get(key, of_classes.get(key)) for key in own}
    found, before = (
        {told[0]: told[1:] for key, value in all_.items() for told in _told(key, value)} for all_ in (own, usual)
    )
    differing = {}
    for key, (value, of_class) in found.items():
        was = before[key][0] if key in before else of_class
        if value != was:
            differing[key] = (value, was)
    for key, (value, of_class) in before.items():
        part = key.rpartition(".")[0]
        if key not in found and part in found and found[part] == before[part]:  # another class has other arguments
            differing[key] = (of_class, value)
    return differing


def _told(key: str, value: Any, of_class: Any = None) -> Iterator[tuple[str, Any, Any]]:
    """Give a setting, and those of the class that it names, by dotted keys, each with its class's own default."""
    if isinstance(value, str) and key.rpartition(".")[2] in CLASS_SETTINGS:
        value = {"class_path": value}
    if not isinstance(value, dict) or not isinstance(value.get("class_path"), str):
        yield key, value, of_class
        return
    path = value["class_path"]
    yield key, path.rpartition(".")[2], of_class
    own = _defaults_of(path)
    for name, argument in (value.get("init_args") or {}).items():
        inner, usual = f"{key}.{name}", own.get(name)
        told = list(_told(inner, argument, usual))
        if name not in own or [one[:2] for one in told] != [one[:2] for one in _told(inner, usual)]:
            yield from told


def _defaults_of(path: str) -> dict[str, Any]:
    """Give the defaults of a class's arguments, as plain data; none where it cannot be looked at."""
    try:
        parameters = inspect.signature(factories.find_class(path)).parameters
    except (ConfigError, ValueError):
        return {}
    found = {}
    for name, parameter in parameters.items():
        if parameter.default is not parameter.empty:
            try:
                found[name] = factories.plain(parameter.default)
            except ConfigError:  # an object that no YAML could give
                continue
    return found
