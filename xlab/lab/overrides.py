"""What the variants of an experiment change: parsed, taken apart, spread over a grid, and kept off the data."""

import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlab.errors import ConfigError

Settings = dict[str, Any]

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_YAML = (".yaml", ".yml")
# of the data, what changes neither the documents, nor the windows, nor their order
_FREE = {f"data.{name}" for name in ("seed", "batch_size", "num_workers", "cache_dir", "prompt_len", "max_new_tokens")}
_OF_THE_DATA = {f"trainer.{name}" for name in ("limit_train_batches", "limit_val_batches", "overfit_batches")}
# what the experiment decides for all variants alike
DECIDED = {
    "seed_everything": "it comes from the seed and the variant's name",
    "data.seed": "it is the trial's seed, for all variants",
    "trainer.max_steps": "it comes from --budget",
    "trainer.max_epochs": "the run's length comes from --budget",
    "trainer.max_time": "the run's length comes from --budget",
    "trainer.default_root_dir": "each trial has its own folder",
    "ckpt_path": "each trial begins anew; model.init_from takes the weights of a checkpoint",
}


@dataclass(frozen=True)
class Overrides:
    """A variant's name, and what it changes.

    Args:
        name: also that of its folder.
        words: fit's, over those of the base.
    """

    name: str
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"{self.name!r} is no name for a variant; use letters, digits, - _ and ., as in lowlr='--key value'"
            )

    @classmethod
    def parse(cls, text: str) -> "Overrides":
        """Read ``NAME=OVERRIDES``: fit's ``--key value`` words in one string, or the name of a YAML file.

        Raises:
            ConfigError: for anything else.
        """
        name, has_overrides, rest = text.partition("=")
        if not has_overrides:
            raise ConfigError(f"--variant {text!r} has no NAME=; as in lowlr='--model.optimizer.lr 1e-4'")
        cls(name)  # a name that is none is said before the words that are none
        try:
            words = shlex.split(rest)
        except ValueError as error:
            raise ConfigError(f"--variant {text!r}: {error}") from error
        if words and words[0].endswith(_YAML) and not words[0].startswith("-"):
            words.insert(0, "-c")
        if words and not words[0].startswith("-"):
            raise ConfigError(f"--variant {text!r}: {words[0]!r} is neither a --key value of fit nor a YAML file")
        return cls(name, tuple(words))

    @property
    def text(self) -> str:
        """The overrides as one would type them."""
        return shlex.join(self.words)

    def parts(self) -> Iterator[tuple[str, list[str]]]:
        """Give each change alone, with a name: every option, and of a YAML file every setting of a section.

        Raises:
            ConfigError: for a file that cannot be taken apart.
        """
        waiting = list(self.words)
        while waiting:
            words = [waiting.pop(0)]
            while waiting and not waiting[0].startswith(("--", "-c")):
                words.append(waiting.pop(0))
            if words[0] in ("-c", "--config"):
                yield from _parts_of_file(words[-1])
            else:
                yield words[0].lstrip("-").partition("=")[0], words


def leave_one_out(variant: Overrides) -> list[Overrides]:
    """Give the variant, and for each of its changes one that has all but that.

    Raises:
        ConfigError: for a variant with one change or none.
    """
    parts = list(variant.parts())
    if len(parts) < 2:
        raise ConfigError(
            f"--leave-one-out: {variant.name} makes {len(parts)} change{'s' * (len(parts) != 1)}; it takes two or more"
        )
    last = [key.rpartition(".")[2] for key, _ in parts]
    names = [key if last.count(name) > 1 else name for name, (key, _) in zip(last, parts, strict=True)]
    found = [variant]
    for i, name in enumerate(names):
        words = itertools.chain.from_iterable(part for j, (_, part) in enumerate(parts) if j != i)
        found.append(Overrides(f"{variant.name}-without-{name}", tuple(words)))
    return found


def choices(text: str) -> list[str]:
    """Split ``a,b,[c,d]`` at the commas outside of brackets."""
    found, depth, begin = [], 0, 0
    for i, character in enumerate(text):
        depth += (character in "[{(") - (character in "]})")
        if character == "," and depth == 0:
            found.append(text[begin:i].strip())
            begin = i + 1
    return [*found, text[begin:].strip()]


def parse_grid(texts: Sequence[str]) -> list[tuple[str, ...]]:
    """Read ``KEY=V1,V2,…``, and give the words of every combination.

    Raises:
        ConfigError: for a text without a key, or with fewer than two values.
    """
    axes = []
    for text in texts:
        key, _, rest = text.lstrip("-").partition("=")
        values = choices(rest)
        if not key or len(values) < 2 or not all(values):
            raise ConfigError(f"--grid {text!r} is no KEY=V1,V2,… with two values or more")
        if key in DECIDED:
            raise ConfigError(f"--grid {key}: {DECIDED[key]}")
        axes.append([f"--{key}={value}" for value in values])
    return list(itertools.product(*axes)) if axes else []


def folder_name(words: Sequence[str]) -> str:
    """Give a name for a folder of words such as ``--model.optimizer.lr=1e-3``: lr=1e-3."""
    named = (word.lstrip("-").partition("=") for word in words)
    return re.sub(r"[^\w.=,+-]", "_", ",".join(f"{key.rpartition('.')[2]}={value}" for key, _, value in named))


def run_seed(seed: int, variant: str) -> int:
    """Give the seed of initialisation and dropout: two variants differ by chance, be their settings the same."""
    digest = hashlib.blake2b(f"{seed}\n{variant}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Give the dotted keys at which two nested mappings differ, with both values; None for what is not there."""
    left, right = dict(_flat(one)), dict(_flat(other))
    return {key: (left.get(key), right.get(key)) for key in {**left, **right} if left.get(key) != right.get(key)}


def check(settings: Settings, base: Settings, *, allow_data: bool = False) -> None:
    """Refuse settings that differ from the base's in what all variants have in common.

    Raises:
        ConfigError: naming the setting.
    """
    for key, (_, now) in differences(base, settings).items():
        if key in DECIDED:
            raise ConfigError(f"{key} cannot be set to {now!r} here: {DECIDED[key]}")
    if not allow_data:
        for key, (was, now) in changes_data(settings, base).items():
            raise ConfigError(
                f"it changes the data: {key} is {now!r}, in the base {was!r}; --allow-data compares by bits per byte"
            )


def changes_data(settings: Settings, base: Settings) -> dict[str, tuple[Any, Any]]:
    """Give the settings that decide what is read and measured, and differ from the base's: (the base's, its own)."""
    return {
        key: values
        for key, values in differences(base, settings).items()
        if key in _OF_THE_DATA or (key.startswith("data.") and key not in _FREE)
    }


def _parts_of_file(name: str) -> Iterator[tuple[str, list[str]]]:
    import yaml

    try:
        text = name if name.lstrip().startswith("{") else Path(name).read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the configuration {name}: {error}") from error
    for section, settings in content.items() if isinstance(content, dict) else ():
        if not isinstance(settings, dict):
            raise ConfigError(f"--leave-one-out: {section} in {name} is {settings!r}; write its settings out there")
        for key, value in settings.items():
            yield f"{section}.{key}", ["-c", json.dumps({section: {key: value}})]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
