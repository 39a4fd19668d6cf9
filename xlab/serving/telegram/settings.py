"""How a user's texts are written: four settings, each one of a few values."""

from dataclasses import dataclass, fields, replace
from typing import Any

Value = float | int | None

# a button steps through these; the bot takes no value that is not among them
CHOICES: dict[str, tuple[Value, ...]] = {
    "temperature": (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0),
    "top_k": (None, 1, 5, 10, 20, 40, 100, 200),
    "top_p": (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0),
    "length": (16, 32, 64, 128, 256, 512, 1024),
}
LABELS = {"temperature": "Temperature", "top_k": "Top-k", "top_p": "Top-p", "length": "Length"}
MEANINGS = {
    "temperature": "Divisor of the logits: lower is safer, higher is wilder, 0 takes the likeliest token every time.",
    "top_k": "Draw from the k likeliest tokens only.",
    "top_p": "Draw from the smallest set of likeliest tokens that holds this probability; 1 keeps all.",
    "length": "How many tokens to write at most. A token is about a short word, or a piece of a longer one.",
}


@dataclass(frozen=True)
class WritingSettings:
    """What one user has set; the defaults are infer.py's."""

    temperature: float = 0.8
    top_k: int | None = None
    top_p: float = 0.95
    length: int = 128

    def with_value(self, name: str, value: Value) -> "WritingSettings":
        """The same settings but for one.

        Raises:
            ValueError: if there is no such setting, or the value is none of its choices.
        """
        if name not in CHOICES or value not in CHOICES[name]:
            raise ValueError(f"{name} cannot be {value}")
        change: dict[str, Any] = {name: value}
        return replace(self, **change)

    def neighbours(self, name: str) -> tuple[Value, Value]:
        """The values one step below and one step above a setting's; at the ends, the value itself."""
        choices = CHOICES[name]
        place = choices.index(getattr(self, name))
        return choices[max(place - 1, 0)], choices[min(place + 1, len(choices) - 1)]


NAMES = tuple(field.name for field in fields(WritingSettings))


def written(value: Value) -> str:
    """A value as a button shows and carries it."""
    return "off" if value is None else f"{value:g}"


def read(name: str, text: str) -> Value:
    """The value that ``written`` wrote.

    Raises:
        ValueError: if it is none of that setting's.
    """
    for value in CHOICES.get(name, ()):
        if written(value) == text:
            return value
    raise ValueError(f"{name} cannot be {text}")
