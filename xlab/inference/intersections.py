"""How many regular expressions a JSON schema makes one string match at once.

Whether some text matches them all is the one question whose cost llguidance does not count, and it grows exponentially
with their number: two seconds for twenty, more than five minutes for fifty.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import unquote

_MOST_PLACES = 2_000  # looked at in half a second


def n_patterns(schema: object) -> int:
    """How many patterns and formats there are."""
    return sum(map(_n_patterns, _dicts(schema)))


def patterns_at_once(schema: object) -> int | None:
    """The largest number of patterns and formats that any one string must have; None where that takes too long to say.

    A place in the text is described by all schemas that hold there: through ``allOf``, ``$ref`` and one of ``anyOf`` or
    ``oneOf``, and where two of them name a property, its place is described by what both say of it.
    """
    if any(_leads_elsewhere(part, schema) for part in _dicts(schema)):
        return n_patterns(schema)  # no string has to match more than there are
    most, waiting = 0, [[schema]]
    seen: set[frozenset[int]] = set()
    while waiting:
        here = _together(waiting.pop(), schema)
        place = frozenset(map(id, here))
        if place in seen:
            continue
        seen.add(place)
        if len(seen) > _MOST_PLACES:
            return None
        choice = _open_choice(here)
        if choice:
            waiting += [[*here, option] for option in choice]
            continue
        most = max(most, sum(map(_n_patterns, here)))
        waiting += _inside(here)
    return most


def _n_patterns(part: dict[str, Any]) -> int:
    return sum(isinstance(part.get(key), str) for key in ("pattern", "format"))


def _leads_elsewhere(part: dict[str, Any], root: object) -> bool:
    """Whether a schema names others by an address or an anchor, or changes what a pointer begins at."""
    reference = part.get("$ref")
    is_named = isinstance(reference, str) and reference != "#" and not reference.startswith("#/")
    return is_named or (part is not root and isinstance(part.get("$id"), str))


def _dicts(schema: object) -> Iterator[dict[str, Any]]:
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def _together(parts: Iterable[object], root: object) -> list[dict[str, Any]]:
    """The schemas that hold where ``parts`` do."""
    found: dict[int, dict[str, Any]] = {}
    waiting = list(parts)
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict) and id(part) not in found:
            found[id(part)] = part
            waiting += _listed(part, "allOf")
            waiting.append(_target(part.get("$ref"), root))
    return list(found.values())


def _open_choice(here: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The options of an ``anyOf`` or ``oneOf`` of which none is among ``here`` yet."""
    taken = set(map(id, here))
    for part in here:
        for key in ("anyOf", "oneOf"):
            options = [option for option in _listed(part, key) if isinstance(option, dict)]
            if options and not any(id(option) in taken for option in options):
                return options
    return []


def _inside(here: list[dict[str, Any]]) -> list[list[object]]:
    """What is said together of each place inside of this one."""
    members: dict[str, list[object]] = defaultdict(list)
    items: dict[int, list[object]] = defaultdict(list)
    any_member, any_item = [], []
    for part in here:
        for name, schema in _mapped(part, "properties").items():
            members[name].append(schema)
        for place, schema in enumerate(_listed(part, "prefixItems")):
            items[place].append(schema)
        any_member += [part.get("additionalProperties"), *_mapped(part, "patternProperties").values()]
        any_item += [part.get("items"), part.get("additionalItems")]
    return [
        any_member,
        any_item,
        *(own + any_member for own in members.values()),
        *(own + any_item for own in items.values()),
    ]


def _listed(part: dict[str, Any], key: str) -> list[object]:
    value = part.get(key)
    return value if isinstance(value, list) else []


def _mapped(part: dict[str, Any], key: str) -> dict[str, object]:
    value = part.get(key)
    return value if isinstance(value, dict) else {}


def _target(reference: object, root: object) -> object:
    """What a JSON pointer within the schema points at; None where it does not."""
    if not isinstance(reference, str):
        return None
    for name in reference[1:].split("/")[1:]:
        name = unquote(name).replace("~1", "/").replace("~0", "~")
        if isinstance(root, list):
            root = root[int(name)] if name.isdecimal() and int(name) < len(root) else None
        else:
            root = root.get(name) if isinstance(root, dict) else None
    return root
