"""jsonargparse's messages in one line each, naming the key, the value and the nearest real key."""

import difflib
import re
from collections.abc import Iterable

from lightning.pytorch.cli import LightningArgumentParser

from xlab import factories
from xlab.errors import ConfigError

_UNKNOWN = (
    re.compile(r"[Uu]nrecognized arguments: --(?P<key>[\w.+-]+)"),
    re.compile(r"does not accept option '(?P<key>[\w.]+)'"),
    re.compile(r"Option '(?P<key>[\w.]+)' is not accepted"),
    re.compile(r"Key '(?P<key>[\w.]+)' is not expected"),
    re.compile(r"No action for key \"(?P<key>[\w.]+)\""),
)
_PARSER_KEY = re.compile(r"Parser key \"(?P<key>[^\"]+)\":?")
_NO_CLASS = re.compile(r"Expected a dot import path string: (?P<name>\w+)")
_CLASS_TYPE = re.compile(r"<class '(?:[\w.]*\.)?(\w+)'>")
_LINKED = re.compile(r"Linked \"(?P<target>[\w.]+)\" must be given via \"(?P<source>[\w.]+)\"")


class OneLineParser(LightningArgumentParser):
    """A parser that raises ConfigError where another would print its whole usage."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        raise ConfigError(one_line(message, self.known_keys())) from ex

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
    text = _PARSER_KEY.sub(r"\g<key>:", text)
    text = _CLASS_TYPE.sub(r"\1", text)
    return text if len(text) <= 400 else f"{text[:400]} …"


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Say that a setting does not exist, and which is nearest."""
    names = {name for name in known if name and not name.startswith("_")}
    last = key.rpartition(".")[2]
    # a part's own options are known by their last name alone
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.7) or difflib.get_close_matches(
        last, factories.option_names() | {name.rpartition(".")[2] for name in names}, n=1
    )
    return f"there is no setting {key!r}" + (f"; did you mean {close[0]!r}?" if close else "; see --help")


def linked_by_hand(target: str, source: str) -> str:
    """Say that a setting follows another one and cannot be set."""
    return f"{target} is taken from {source}; set that instead"
