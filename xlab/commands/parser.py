"""jsonargparse's help and messages, cut to what a person reads: a line a setting, a line an error."""

import argparse
import difflib
import re
import textwrap
from collections.abc import Iterable
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from xlab import factories
from xlab.errors import ConfigError, XLabError

_UNKNOWN = (
    re.compile(r"[Uu]nrecognized arguments: --(?P<key>[\w.+-]+)"),
    re.compile(r"does not accept option '(?P<key>[\w.]+)'"),
    re.compile(r"Option '(?P<key>[\w.]+)' is not accepted"),
    re.compile(r"Key '(?P<key>[\w.]+)' is not expected"),
    re.compile(r"No action for key \"(?P<key>[\w.]+)\""),
)
_PARSER_KEY = re.compile(r"Parser key \"(?P<key>[^\"]+)\":?")
_NO_CLASS = re.compile(r"Expected a dot import path string: (?P<name>\w+)")
_OWN_WORDS = re.compile(r"^\s*- (?P<words>(?:data\.(?:meta|chat)\.|trainer\.(?:callbacks|logger): ).+)$", re.MULTILINE)
_CLASS_TYPE = re.compile(r"<class '(?:[\w.]*\.)?(\w+)'>")
_UNION = "Does not validate against any of the Union subtypes"
_SAID = re.compile(r"^\s*- (?P<words>.+)$", re.MULTILINE)  # of a union, by each of its types
_CHOICES = re.compile(r"Literal\[([^\]]*)\]")
_LINKED = re.compile(r"Linked \"(?P<target>[\w.]+)\" must be given via \"(?P<source>[\w.]+)\"")

_SETTINGS = ("config", "print_config", "seed_everything", "ckpt_path", "compile", "json", "output")
_TRAINER = {
    f"trainer.{name}"
    for name in (
        "accelerator",
        "strategy",
        "devices",
        "num_nodes",
        "precision",
        "logger",
        "callbacks",
        "max_epochs",
        "max_steps",
        "max_time",
        "val_check_interval",
        "limit_val_batches",
        "accumulate_grad_batches",
        "gradient_clip_val",
        "log_every_n_steps",
    )
}
_HELP = {
    "config": "YAML file; may be repeated, each over the one before.",
    "print_config": "Print all settings as YAML, and end.",
    "seed_everything": "Seed of initialisation and dropout; data.seed is that of the order.",
    "ckpt_path": "Checkpoint or run folder to go on from.",
}
_WIDTH = 118
_COLUMN = 46


class OneLineParser(LightningArgumentParser):
    """A parser that raises ConfigError where another would print its whole usage."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        raise ConfigError(one_line(message, self.known_keys())) from ex

    def instantiate(self, *args: Any, **kwargs: Any) -> Any:
        """Make the objects; what a setting that may be null says against its value is not lost."""
        try:
            return super().instantiate(*args, **kwargs)
        except XLabError:
            raise
        except ValueError as error:  # of a union the parser lists what each of its types said, and raises its own
            raise_own_words(error)
            raise

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """Give a line for each setting; LightningCLI's own help runs to 700."""
        lines = [str(self.description), "", "settings, and their values before any YAML:"]
        for action in self._actions:
            if action.dest in _SETTINGS or action.dest.startswith(("data.", "model.")) or action.dest in _TRAINER:
                lines += _described(action)
        return "\n".join(
            [
                *lines,
                "",
                "--trainer.* takes every argument of Lightning's Trainer; --print_config shows every setting.",
                "--model.attention.help GroupedQueryAttention shows a part's own settings; so for every part.",
                "--debug shows the traceback of an error; --allow-module NAME trusts the classes of your own module.",
                "",
            ]
        )

    def known_keys(self) -> set[str]:
        """Give the full names of every setting, options of the parts included."""
        keys = set()
        for action in self._actions:
            parsers = getattr(action, "choices", None)
            if isinstance(parsers, dict):
                for parser in parsers.values():
                    keys |= parser.known_keys() if isinstance(parser, OneLineParser) else set()
            else:
                keys.add(action.dest)
        return keys


def raise_own_words(error: ValueError) -> None:
    """Raise ConfigError with what a class said itself, if it stands among what the parser tells of a union's types."""
    if (own := _OWN_WORDS.search(str(error))) is not None:
        raise ConfigError(own["words"]) from error


def _described(action: argparse.Action) -> list[str]:
    option = next((name for name in action.option_strings if name.startswith("--")), "")
    if not option or option.endswith("+") or action.dest.endswith(".help") or action.help == argparse.SUPPRESS:
        return []
    default = action.default
    if isinstance(default, Namespace | dict):
        default = default.get("class_path", "").rpartition(".")[2] or None
    elif isinstance(default, type):
        default = default.__name__
    shown = "" if default in (None, argparse.SUPPRESS) else f" {default}"
    text = _HELP.get(action.dest) or " ".join(str(action.help or "").split()).split(". ")[0]
    wrapped = textwrap.wrap(text, _WIDTH - _COLUMN) or [""]
    names = ", ".join([*(name for name in action.option_strings if len(name) == 2), option])
    head = f"  {names}{shown}".ljust(_COLUMN)
    first = [head + wrapped[0]] if len(head) == _COLUMN else [head, " " * _COLUMN + wrapped[0]]
    return first + [" " * _COLUMN + line for line in wrapped[1:]]


def one_line(message: str, known: Iterable[str]) -> str:
    """Reword one of the parser's messages.

    Args:
        message: what jsonargparse says, often on several lines.
        known: the names of all settings, among which the nearest to a misspelt one is looked for.
    """
    text = " ".join(message.split())
    if linked := _LINKED.search(text):
        return linked_by_hand(linked["target"], linked["source"])
    for pattern in _UNKNOWN:
        if unknown := pattern.search(text):
            return unknown_key(unknown["key"], known)
    key = match["key"] if (match := _PARSER_KEY.search(text)) else "the configuration"
    if no_class := _NO_CLASS.search(text):
        try:
            factories.find_class(no_class["name"])
        except ConfigError as error:
            return f"{key}: {error}"
        return f"{key}: {no_class['name']} is not a part that belongs here"
    if choices := _CHOICES.findall(text):
        given = text.rpartition("Given value: ")[2] if "Given value: " in text else text.rpartition("Got value: ")[2]
        options = dict.fromkeys(option.strip("' ") for choice in choices for option in choice.split(","))
        return f"{key} is {given}; it can be {', '.join(options)}"
    if said := _of_a_union(message):
        text = f"{key}: {said}"
    text = _PARSER_KEY.sub(r"\g<key>:", text)
    text = _CLASS_TYPE.sub(r"\1", text)
    return text if len(text) <= 400 else f"{text[:400]} …"


def _of_a_union(message: str) -> str | None:
    """What the types of a union say of a value, but for null, which nobody meant."""
    if _UNION not in message:
        return None
    said = dict.fromkeys(" ".join(match["words"].split()) for match in _SAID.finditer(message))
    told = [words for words in said if words != _UNION and "NoneType" not in words]
    value = message.partition("Given value: ")[2].partition("\n")[0]  # the innermost
    is_own = value.startswith(("NestedArg(", "Namespace("))  # the parser's, of which the words have told
    return None if not told else ", or ".join(told) + ("" if is_own else f". Got value: {value.strip()}")


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Say that a setting does not exist, and which is nearest, or which parts have one of that name."""
    names = {name for name in known if name and not name.startswith("_")}
    last = key.rpartition(".")[2]
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.7)
    if not close and (owners := factories.parts_with(last)):
        have = "have" if len(owners) > 1 else "has"
        return f"there is no setting {key!r} here; {', '.join(owners)} {have} it: give the class as well"
    # a part's own options are known by their last name alone
    own_names = factories.option_names() | {name.rpartition(".")[2] for name in names}
    close = close or difflib.get_close_matches(last, own_names, n=1)
    return f"there is no setting {key!r}" + (f"; did you mean {close[0]!r}?" if close else "; see --help")


def linked_by_hand(target: str, source: str) -> str:
    """Say that a setting follows another one and cannot be set."""
    return f"{target} is taken from {source}; set that instead"
