"""Which classes a checkpoint may name: XLab's parts, torch's, and those of modules that the user trusts."""

import os
from pathlib import Path
from typing import Any

from xlab import factories
from xlab.errors import CheckpointError, ConfigError
from xlab.setting_names import CLASS_SETTINGS

ALLOW_VARIABLE = "XLAB_ALLOW_MODULES"

# the parts of a model and of its data, and not XLab's commands: those do more than they are made of
_allowed = {
    *("xlab.data", "xlab.checkpoint_data", "xlab.datamodules", "xlab.training", "xlab.transformer"),
    *("torch.nn", "torch.optim"),
}


def allow_module(name: str) -> None:
    """Let checkpoints name classes of the module or package ``name``: its code runs when such a checkpoint is read."""
    _allowed.add(name)


def check_classes(settings: Any, path: Path, is_part: bool = False) -> None:
    """Refuse a class that may not be imported, wherever ``factories.build`` or the parser would look for one.

    Raises:
        CheckpointError: naming the class.
    """
    if isinstance(settings, list):
        for value in settings:
            check_classes(value, path, is_part)
    if isinstance(settings, str) and is_part:  # a class path alone is as good as class_path with init_args
        settings = {"class_path": settings}
    if not isinstance(settings, dict):
        return
    if dotted := [key for key in settings if "." in key]:
        # the command line's parser would take "source.class_path" for the class path of source
        raise CheckpointError(f"{path} is damaged: its header has the setting {dotted[0]!r}")
    parts: set[str] = set()
    if "class_path" in settings:
        kind = _allowed_class(str(settings["class_path"]), path)
        # where no text belongs, the command line's parser takes a text for a class path, and imports it
        parts = factories.callable_parameters(kind) | factories.textless_parameters(kind)
    for key, value in settings.items():
        if key == "init_args" and isinstance(value, dict):
            for name, argument in value.items():
                check_classes(argument, path, is_part=name in parts)
        elif key == "learning_rates" and isinstance(value, dict):
            # its keys are patterns of names, with dots; its numbers name no class
            if wrong := [pattern for pattern, rate in value.items() if not isinstance(rate, int | float)]:
                raise CheckpointError(f"{path} is damaged: its header has no number for {key}.{wrong[0]}")
        elif key != "class_path":
            check_classes(value, path, is_part=key in CLASS_SETTINGS)


def _allowed_class(name: str, path: Path) -> type:
    allowed = _allowed | set(filter(None, os.environ.get(ALLOW_VARIABLE, "").split(",")))

    def inside(name: str) -> bool:
        return any(name.startswith(f"{module}.") for module in allowed)

    module = name.rpartition(".")[0]
    if module and not inside(name):
        raise CheckpointError(
            f"{path} names the class {name}, whose code is not XLab's; if you trust that module, "
            f"allow it with --allow-module {module} or {ALLOW_VARIABLE}={module}"
        )
    try:
        kind = factories.find_class(name)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not inside(f"{kind.__module__}.{kind.__qualname__}"):  # a class that an allowed module merely imported
        raise CheckpointError(f"{path} names the class {name}, which is {kind.__module__}'s, not XLab's")
    return kind
