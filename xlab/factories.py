"""Turn plain settings (a class path and its arguments) into objects, and objects' settings into plain data.

A part of an experiment is described by ``{"class_path": "package.module.Class", "init_args": {...}}`` or by a class
name alone. Such settings travel in YAML and in checkpoints, so nothing in them may need unpickling.
"""

import difflib
import importlib
import inspect
import os
import types
import typing
from collections.abc import Callable
from typing import Any

from xlab.errors import ConfigError

Settings = dict[str, Any]

# where a class named without its module is looked for
HOMES = (
    "xlab.transformer.attention",
    "xlab.transformer.block",
    "xlab.transformer.feed_forward",
    "xlab.transformer.initialisations",
    "xlab.transformer.lora",
    "xlab.transformer.mixture_of_experts",
    "xlab.transformer.norms",
    "xlab.transformer.positions",
    "xlab.transformer.qk_norms",
    "xlab.transformer.rotary_scaling",
    "xlab.transformer.values",
    "xlab.training.objectives",
    "xlab.training.schedules",
    "xlab.data.sources",
    "xlab.data.tokenizers",
    "xlab.data.packing",
    "xlab.training.muon",
    "xlab.training.schedule_free",
    "torch.optim",
)


def plain(value: Any, name: str = "setting") -> Any:
    """Give a setting as plain data: numbers, strings, lists and dicts, with classes as class paths.

    Raises:
        ConfigError: for a lambda, a partial or another object that has no class path.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(key): plain(item, f"{name}.{key}") for key, item in value.items() if key != "_instantiator"}
    if isinstance(value, list | tuple):
        return [plain(item, name) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, type):
        return {"class_path": class_path(value, name)}
    if type(value).__module__ in ("functools", "builtins") or inspect.isroutine(value):
        raise ConfigError(
            f"{name} is {value!r}, which a checkpoint cannot hold; give a class, its path, "
            'or {"class_path": ..., "init_args": {...}} instead'
        )
    return {"class_path": class_path(type(value), name), "init_args": _arguments(value, name)}


def class_path(kind: type, name: str = "setting") -> str:
    """Give the dotted path under which ``kind`` can be imported again."""
    if "<locals>" in kind.__qualname__:
        raise ConfigError(f"{name} is {kind.__qualname__}, a class inside a function; move it to the top of its module")
    return f"{kind.__module__}.{kind.__qualname__}"


def find_class(path: str) -> type:
    """Import the class at a dotted path, or the class of that name among XLab's parts.

    Raises:
        ConfigError: if there is no such module or class; it names the nearest.
    """
    if "." not in path:
        return _find_part(path)
    module_name, _, class_name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"cannot import {module_name!r}, the module of the class {path!r}: {error}") from error
    kind = getattr(module, class_name, None)
    if not isinstance(kind, type):
        raise ConfigError(f"{module_name} has no class {class_name!r}{_nearest(class_name, dir(module))}")
    return kind


def build(settings: Any, *args: Any) -> Any:
    """Make the object that plain settings describe.

    Args:
        settings: a class path, or ``class_path`` with ``init_args``; arguments annotated as callables stay factories.
        args: given to the class before its ``init_args``.

    Raises:
        ConfigError: for an unknown class or argument.
    """
    if isinstance(settings, str):
        settings = {"class_path": settings}
    if not isinstance(settings, dict) or not isinstance(settings.get("class_path"), str):
        raise ConfigError(f"{settings!r} describes no class; give its path, or class_path with init_args")
    kind = find_class(settings["class_path"])
    init_args = dict(settings.get("init_args") or {})
    parameters = inspect.signature(kind).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for key in init_args:
        if key not in parameters and not takes_any:
            raise ConfigError(f"{settings['class_path']} has no option {key!r}{_nearest(key, parameters)}")
    callables = callable_parameters(kind)
    made = {key: _made(value, key in callables) for key, value in init_args.items()}
    try:
        inspect.signature(kind).bind(*args, **made)
    except TypeError as error:
        raise ConfigError(f"{settings['class_path']}: {error}") from error
    return kind(*args, **made)


def factory(settings: Any) -> Callable[..., Any]:
    """Give a function that makes, from its positional arguments, what ``settings`` describe."""

    def make(*args: Any) -> Any:
        return build(settings, *args)

    return make


def option_names() -> set[str]:
    """Give the names of the options of all of XLab's own parts."""
    names: set[str] = set()
    for home in HOMES:
        for kind in _own_classes(home).values():
            names |= inspect.signature(kind).parameters.keys() if home.startswith("xlab.") else set()
    return names


def parts_with(option: str) -> list[str]:
    """Give the names of XLab's own parts that have an option of that name."""
    homes = [home for home in HOMES if home.startswith("xlab.")]
    kinds = [kind for home in homes for kind in _own_classes(home).items()]
    return [name for name, kind in kinds if name[0] != "_" and option in inspect.signature(kind).parameters]


def _made(value: Any, stays_factory: bool) -> Any:
    if isinstance(value, dict) and "class_path" in value:
        return factory(value) if stays_factory else build(value)
    if isinstance(value, str) and stays_factory:
        return factory(value)
    if isinstance(value, list):
        return [_made(item, stays_factory) for item in value]
    return value


def callable_parameters(kind: type) -> set[str]:
    """Give the names of the constructor's parameters that are annotated as callables: those stay factories."""
    try:
        hints = typing.get_type_hints(kind.__init__)  # type: ignore[misc]
    except NameError:  # a user's annotation that only a type checker can resolve
        return set()
    return {name for name, hint in hints.items() if _is_callable(hint)}


def textless_parameters(kind: type) -> set[str]:
    """Give the names of the constructor's parameters whose annotations leave no place for a text."""
    try:
        hints = typing.get_type_hints(kind.__init__)  # type: ignore[misc]
    except NameError:
        return set()
    return {name for name, hint in hints.items() if not _takes_text(hint)}


def _takes_text(hint: Any) -> bool:
    if typing.get_origin(hint) is typing.Literal:
        return any(isinstance(choice, str) for choice in typing.get_args(hint))
    if hint in (Any, str, object) or (isinstance(hint, type) and issubclass(hint, os.PathLike)):
        return True
    return any(_takes_text(choice) for choice in typing.get_args(hint))


def _is_callable(hint: Any) -> bool:
    """Tell whether a hint is ``Callable[...]``, or that or None."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_is_callable(choice) for choice in typing.get_args(hint))
    return typing.get_origin(hint) is typing.get_origin(Callable[..., Any])


def _arguments(value: object, name: str) -> Settings:
    """Read back the constructor's arguments of an object that keeps them, as ``name`` or ``_name``."""
    arguments: Settings = {}
    for parameter, form in inspect.signature(type(value)).parameters.items():
        attribute = next((own for own in (parameter, f"_{parameter}") if hasattr(value, own)), None)
        if attribute is None:
            raise ConfigError(
                f"{name} is a {type(value).__name__} that does not keep its argument {parameter!r} as an attribute, "
                "so a checkpoint cannot hold its settings; keep it, or give class_path and init_args"
            )
        kept = plain(getattr(value, attribute), f"{name}.{parameter}")
        arguments |= kept if form.kind is form.VAR_KEYWORD else {parameter: kept}
    return arguments


def _find_part(name: str) -> type:
    known: list[str] = []
    for home in HOMES:
        own = _own_classes(home)
        if name in own:
            return own[name]
        known += own
    raise ConfigError(f"XLab has no part {name!r}{_nearest(name, known)}; a class of your own needs its full path")


def _own_classes(home: str) -> dict[str, type]:
    named = {key: kind for key, kind in vars(importlib.import_module(home)).items() if isinstance(kind, type)}
    return {key: kind for key, kind in named.items() if kind.__module__.startswith(home)}  # not what it only imports


def _nearest(name: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
