"""The layers of a run's settings: defaults, a checkpoint's proposals, the user's word, a checkpoint's decisions."""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from xlab import checkpoints
from xlab.checkpoint_data import CheckpointTokenizer
from xlab.commands.conf_folder import conf_folder
from xlab.commands.parser import linked_by_hand
from xlab.errors import CheckpointError, ConfigError
from xlab.factories import class_path
from xlab.setting_names import CLASS_SETTINGS, PARTS, SIZES

LINKS = {"model.vocab_size": "data.vocab_size", "model.max_len": "data.seq_len"}
PUBLISHED = ("model.pretrained", "model.config")
CONFIG_OPTIONS = ("-c", "--config")
# parts whose numbers were found for one class and mean something else to another, so that none of them stays
TUNED = ("model.optimizer", "model.schedule")
Settings = dict[str, Any]

_WINDOW = (
    1024  # tokens: as long a window as is proposed; published contexts of 131,072 fill no ordinary machine's memory
)
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
        names_class = key.rpartition(".")[2] in {"class_path", *CLASS_SETTINGS}
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
    return [subcommand, *_without_replaced([*defaults, *_as_option(proposed), *given]), *_as_option(decided)]


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


def _of_checkpoint(subcommand: str, told: Settings) -> tuple[Settings, Settings]:
    """Give the settings that a checkpoint, or a published model, proposes, and those it decides."""
    starts = [key for key in ("model.init_from", *PUBLISHED) if told.get(key) is not None]
    if len(starts) > 1 and told.get("ckpt_path") is None:
        raise ConfigError(f"{' and '.join(starts)} say each what the model is; leave one out")
    if (path := told.get("ckpt_path")) is not None:
        if subcommand == "fit":
            checkpoint = checkpoints.read(resumable(str(path)))
        else:  # what a run is measured by is what would be exported
            checkpoint = checkpoints.merged(checkpoints.read(str(path)))
        model = {key: value for key, value in checkpoint.model.items() if f"model.{key}" not in LINKS}
        # what the run once started from is not looked at again
        model |= {key.removeprefix("model."): None for key in PUBLISHED if key in told}
        # the same windows, and the same rounding, give the same figures
        trainer = {"precision": checkpoint.info.get("precision")}
        if subcommand == "validate":
            trainer["limit_val_batches"] = checkpoint.info.get("limit_val_batches")
        proposed: Settings = {"data": checkpoint.data, "trainer": trainer}
        data = _tokens_of(checkpoint) | {"seq_len": checkpoint.model["max_len"]}
        if subcommand == "fit":
            clipping = ("gradient_clip_val", "gradient_clip_algorithm")  # as much the optimiser's as its rate
            trainer |= {name: checkpoint.info[name] for name in clipping if name in checkpoint.info}
            proposed["compile"] = checkpoint.info.get("compiled", False)  # one rounds otherwise than the other
            data |= _counted(checkpoint.data)
        return proposed, {"model": model, "data": data}
    if (path := told.get("model.init_from")) is not None:
        checkpoint = checkpoints.read(str(path))
        architecture = set(SIZES + PARTS) - {"vocab_size", "max_len", "dropout"}
        model = {key: value for key, value in checkpoint.model.items() if key in architecture}
        data = _tokens_of(checkpoint) | _chat_of(checkpoint.info.get("chat_template"), told)
        return {"data": {"seq_len": checkpoint.model["max_len"]}}, {"model": model, "data": data}
    if starts:
        return _of_published(starts[0], str(told[starts[0]]), told)
    return {}, {}


def _of_published(option: str, source: str, told: Settings) -> tuple[Settings, Settings]:
    """Give what a published model proposes and decides: with its weights its tokenizer goes, without them it need not.

    Raises:
        ConfigError: for another tokenizer than its own, or a context that it has no places for.
        ConversionError: naming everything in its configuration that XLab has no equal for.
    """
    from xlab.interop import huggingface
    from xlab.interop.published import PublishedModel

    settings = huggingface.model_settings(source)
    model = {key: value for key, value in settings.items() if f"model.{key}" not in LINKS}
    seq_len, has_table = told.get("data.seq_len"), "LearnedPosition" in settings["position"]["class_path"]
    data: Settings = {"seq_len": min(settings["max_len"], _WINDOW)}
    if option == "model.config":
        if not any(key.startswith("data.tokenizer") for key in told):
            data["vocab_size"] = settings["vocab_size"]
        return {"data": data}, {"model": model}
    if has_table and isinstance(seq_len, int) and seq_len > settings["max_len"]:
        raise ConfigError(f"data.seq_len is {seq_len}, and {source} has learned {settings['max_len']} places, no more")
    own = huggingface.tokenizer_settings(source)
    for key, value in told.items():
        if key.startswith("data.tokenizer") and value is not None and not _is_of(key, value, own):
            raise ConfigError(f"{key} is {value}, but {source} brings its own tokenizer; leave data.tokenizer out")
    # its size is the tokenizer's, whatever the layers below say
    chat = _chat_of(PublishedModel(source).chat_template, told)
    return {"data": data}, {"model": model, "data": {"tokenizer": own, "vocab_size": None} | chat}


def _chat_of(template: str | None, told: Settings) -> Settings:
    """Let conversations be written as the model knows them, where the run has any and its user says nothing else."""
    said = {key: value for key, value in told.items() if key.startswith("data.chat") and value is not None}
    if template is None or not said or "data.chat.template" in said or "data.train_data_prefix" in told:
        return {}
    own = {key.removeprefix("data.chat."): value for key, value in said.items() if key != "data.chat"}
    return {"chat": own | {"template": template}}


def _is_of(key: str, value: Any, own: Settings) -> bool:
    """Tell whether a user's word for data.tokenizer is that of the run's saved configuration."""
    said = {"class_path": own["class_path"], **{f"init_args.{name}": path for name, path in own["init_args"].items()}}
    return bool(said.get(key.removeprefix("data.tokenizer.")) == value)


def _tokens_of(checkpoint: checkpoints.Checkpoint) -> Settings:
    recipe = {"class_path": class_path(CheckpointTokenizer), "init_args": {"path": str(checkpoint.path)}}
    return {"tokenizer": recipe, "vocab_size": checkpoint.model["vocab_size"]}


def _counted(data: Settings) -> Settings:
    """Give what a run learns of its tokens, and what each of them sees: the data's fingerprint does not tell."""
    counted: Settings = {"document_mask": data["document_mask"]} if "document_mask" in data else {}
    for part, switch in (("chat", "prompt_in_loss"), ("meta", "in_loss")):
        if (settings := data.get(part)) is not None:
            counted[part] = {switch: settings[switch]}
    return counted


def _told(arguments: Sequence[str]) -> Settings:
    """Flatten what the user's files and options say, the later over the earlier, as dotted keys."""
    told: Settings = {}
    for _, content in _layers(arguments):
        told |= dict(_flat(content))
    return told


def _layers(arguments: Sequence[str]) -> Iterator[tuple[list[str], Settings]]:
    """Give each file and option: the words that it takes, and what it says."""
    waiting = list(arguments)
    while waiting:
        words = [waiting.pop(0)]
        name, has_value, value = words[0].partition("=")
        if not name.startswith("-"):
            yield words, {}
            continue
        if name.startswith("-c") and name != "-c":  # -cFILE, in one word
            name, has_value, value = "-c", "=", name.removeprefix("-c") + has_value + value
        if not has_value and waiting and not waiting[0].startswith(("--", "-c")):
            words.append(value := waiting.pop(0))
        yield words, _file(value) if name in CONFIG_OPTIONS else {name.lstrip("-"): _scalar(value)}


def _without_replaced(arguments: Sequence[str]) -> list[str]:
    """Leave out of the files each optimiser and schedule for which a later word names another class.

    The parser would keep those of its settings that the other class takes too: a rate of Muon's for AdamW.
    """
    kept: list[list[str]] = []
    latest: dict[str, str] = {}
    replaced: set[str] = set()
    for words, content in reversed(list(_layers(arguments))):
        model, named = content.get("model"), dict(_flat(content))
        for part in TUNED:
            word = named.get(f"{part}.class_path", named.get(part))
            if isinstance(word, str):
                name = word.rpartition(".")[2]
                if latest.setdefault(part, name) != name:
                    replaced.add(part.partition(".")[2])
        if isinstance(model, dict) and not replaced.isdisjoint(model):  # of a file, and not an option
            others = {key: value for key, value in model.items() if key not in replaced}
            words = _as_option({**content, "model": others})
        kept.append(words)
    return [word for words in reversed(kept) for word in words]


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
