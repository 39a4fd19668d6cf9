"""Reading a stranger's config.json: each field by its type, and all that is wrong with it said at once."""

import math
from collections.abc import Mapping
from typing import Any, cast

_MISSING: Any = object()


class Fields:
    """The fields of a configuration.

    Args:
        content: the configuration.
        problems: where to write what is wrong; a list of its own if not given.
        prefix: before the names of the fields in what is written there.
    """

    def __init__(self, content: Mapping[str, Any], problems: list[str] | None = None, prefix: str = "") -> None:
        self._content = content
        self._prefix = prefix
        self.problems: list[str] = [] if problems is None else problems

    def value(self, key: str) -> Any:
        """Give a field as it stands, None if it is not there."""
        return self._content.get(key)

    def has(self, key: str) -> bool:
        """Tell whether a field is there, be it null."""
        return key in self._content

    def integer(self, key: str, default: int = _MISSING, at_most: int = 2**40) -> int:
        """Give a whole number from 1 to ``at_most``; null means the default."""

        def fits(value: Any) -> bool:
            return _is_whole(value) and 1 <= value <= at_most

        return cast(int, self._typed(key, default, fits, f"a whole number from 1 to {at_most}", 1))

    def integer_or_none(self, key: str, default: int | None) -> int | None:
        """Give a whole number; here null means none, and only a field that is not there means the default."""
        if self.value(key) is None:
            return None if self.has(key) else default
        return self.integer(key)

    def number_or_none(self, key: str, default: float | None) -> float | None:
        """Give a number; here null means none, and only a field that is not there means the default."""
        if self.value(key) is None:
            return None if self.has(key) else default
        return self.number(key)

    def number(self, key: str, default: float = _MISSING) -> float:
        """Give a number."""
        found = self._typed(key, default, _is_number, "a number", 1.0)
        return float(found)

    def flag(self, key: str, default: bool) -> bool:
        """Give true or false."""
        return bool(self._typed(key, default, lambda value: isinstance(value, bool), "true or false", default))

    def text(self, key: str, default: str) -> str:
        """Give a text."""
        return str(self._typed(key, default, lambda value: isinstance(value, str), "a text", default))

    def mapping(self, key: str) -> Mapping[str, Any]:
        """Give a mapping, an empty one if it is not there."""
        return cast(Mapping[str, Any], self._typed(key, {}, lambda value: isinstance(value, dict), "a mapping", {}))

    def must_be(self, key: str, allowed: Any) -> None:
        """Refuse a field that is there and asks for what XLab cannot do."""
        if self._content.get(key, allowed) != allowed:
            self.refuse(f"{self._prefix}{key} {self._content[key]!r}")

    def refuse(self, what: str) -> None:
        """Remember something that XLab has no equal for, or that cannot be read."""
        self.problems.append(what)

    def _typed(self, key: str, default: Any, fits: Any, kind: str, instead: Any) -> Any:
        value = self._content.get(key)
        if value is None and default is not _MISSING:
            return default
        if value is None:
            self.refuse(f"no {self._prefix}{key}")
        elif fits(value):
            return value
        else:
            self.refuse(f"{self._prefix}{key} {value!r}, which is not {kind}")
        return instead  # the problem is written down; reading goes on, to find the others


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))
