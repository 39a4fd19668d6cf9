"""The layers of a run's settings: defaults, a checkpoint's proposals, the user's word, a checkpoint's decisions."""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

import xlab
from xlab import checkpoints
from xlab.commands.parser import linked_by_hand
from xlab.datamodules import CheckpointTokenizer
from xlab.errors import CheckpointError, ConfigError
from xlab.factories import class_path

LINKS = {"model.vocab_size": "data.vocab_size", "model.max_len": "data.seq_len"}
CONFIG_OPTIONS = ("-c", "--config")
Settings = dict[str, Any]

_CLASS = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)\.(?P<name>[A-Za-z_]\w*)")


def layered(subcommand: str, given: Sequence[str]) -> list[str]:
    """Give the arguments for the parser, the weakest layer first.

    Args:
        subcommand: ``fit``, ``validate``, ``test`` or ``predict``.
        given: what the user typed after it.

    Raises:
        ConfigError: for a linked setting that is set by hand, or a configuration file that is no YAML mapping.
        CheckpointError: if a checkpoint that is named cannot be read, or ``fit`` cannot go on from it.
    """
    told = _told(given)
    for target, source in LINKS.items():
        if target in told:
            raise ConfigError(linked_by_hand(target, source))
    for key, value in told.items():
        names_class = key.rpartition(".")[2] in {"class_path", *checkpoints.CLASS_SETTINGS}
        if (
            isinstance(value, str)
            and (named := _CLASS.fullmatch(value))
            and (names_class or named["name"][0].isupper())
        ):
            checkpoints.allow_module(named["module"])  # the user's own word for it
    proposed, decided = _of_checkpoint(subcommand, told)
    for key, value in _flat(decided):
        if key in told and not _same(told[key], value):
            print(f"note: {key} stays {value!r} as in the checkpoint, not {told[key]!r}", file=sys.stderr)
    defaults = [CONFIG_OPTIONS[0], str(conf_folder() / "defaults.yaml")]
    return [subcommand, *defaults, *_as_option(proposed), *given, *_as_option(decided)]


def resumable(path: str) -> Path:
    """Give the file that ``fit --ckpt_path`` goes on from: itself, or a run folder's last.

    Raises:
        CheckpointError: if it is an export, which has weights but no training state.
    """
    checkpoint = checkpoints.read(checkpoints.find(path, names=("last.ckpt", "best.ckpt")))
    if not checkpoint.resumable:
        raise CheckpointError(
            f"{path} is an exported model without a training state; "
            f"start a new run from its weights with --model.init_from {path}"
        )
    return checkpoint.path


def conf_folder() -> Path:
    """Give the folder of XLab's own YAML: in the package where it was installed, beside it in a checkout."""
    package = Path(xlab.__file__).parent
    folder = next((parent / "conf" for parent in (package, package.parent) if (parent / "conf").is_dir()), None)
    if folder is None or not (folder / "defaults.yaml").is_file():
        raise ConfigError(f"conf/defaults.yaml is missing beside {package}; restore it from the repository")
    return folder


def _of_checkpoint(subcommand: str, told: Settings) -> tuple[Settings, Settings]:
    """Give the settings that a checkpoint proposes, and those it decides."""
    if (path := told.get("ckpt_path")) is not None:
        checkpoint = checkpoints.read(resumable(str(path)) if subcommand == "fit" else str(path))
        model = {key: value for key, value in checkpoint.model.items() if f"model.{key}" not in LINKS}
        # the same windows, and the same rounding, give the same figures
        trainer = {"precision": checkpoint.info.get("precision")}
        if subcommand == "validate":
            trainer["limit_val_batches"] = checkpoint.info.get("limit_val_batches")
        proposed = {"data": checkpoint.data, "trainer": trainer}
        return proposed, {"model": model, "data": _tokens_of(checkpoint) | {"seq_len": checkpoint.model["max_len"]}}
    if (path := told.get("model.init_from")) is not None:
        checkpoint = checkpoints.read(str(path))
        architecture = set(checkpoints.SIZES + checkpoints.PARTS) - {"vocab_size", "max_len", "dropout"}
        model = {key: value for key, value in checkpoint.model.items() if key in architecture}
        return {"data": {"seq_len": checkpoint.model["max_len"]}}, {"model": model, "data": _tokens_of(checkpoint)}
    return {}, {}


def _tokens_of(checkpoint: checkpoints.Checkpoint) -> Settings:
    recipe = {"class_path": class_path(CheckpointTokenizer), "init_args": {"path": str(checkpoint.path)}}
    return {"tokenizer": recipe, "vocab_size": checkpoint.model["vocab_size"]}


def _told(arguments: Sequence[str]) -> Settings:
    """Flatten what the user's files and options say, the later over the earlier, as dotted keys."""
    told: Settings = {}
    waiting = list(arguments)
    while waiting:
        name, has_value, value = waiting.pop(0).partition("=")
        if not name.startswith("-"):
            continue
        if name.startswith("-c") and name != "-c":  # -cFILE, in one word
            name, has_value, value = "-c", "=", name.removeprefix("-c") + has_value + value
        if not has_value and waiting and not waiting[0].startswith(("--", "-c")):
            value = waiting.pop(0)
        if name in CONFIG_OPTIONS:
            told |= dict(_flat(_file(value)))
        else:
            told |= dict(_flat({name.lstrip("-"): _scalar(value)}))
    return told


def _file(name: str, inside: tuple[Path, ...] = ()) -> Settings:
    path = Path(name)
    if name.lstrip().startswith("{"):  # a mapping written out
        written = _scalar(name)
        return written if isinstance(written, dict) else {}
    if not path.is_file():  # the parser says it better
        return {}
    if path.resolve() in inside:
        raise ConfigError(f"{name} names itself as one of its sections")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the configuration {name}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{name} holds no settings; it must be a YAML mapping such as 'data: {{batch_size: 16}}'")
    # a section may be the name of another file, beside this one
    return {
        key: _file(str(path.parent / value), (*inside, path.resolve()))
        if isinstance(value, str) and value.endswith((".yaml", ".yml"))
        else value
        for key, value in content.items()
    }


def _scalar(value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def _flat(settings: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _same(told: Any, decided: Any) -> bool:
    """Tell whether a user's value means the checkpoint's: a class may be named without its module."""
    if isinstance(told, str) and isinstance(decided, str):
        return told == decided or decided.endswith(f".{told}")
    return bool(told == decided)


def _as_option(settings: Settings) -> list[str]:
    return [CONFIG_OPTIONS[0], json.dumps(settings)] if settings else []
