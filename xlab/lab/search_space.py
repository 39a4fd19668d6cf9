"""What a sweep searches: settings, and the values that each may take."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xlab.errors import ConfigError
from xlab.lab.overrides import DECIDED, choices

if TYPE_CHECKING:
    import optuna

_NUMBER = r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?"
_RANGE = re.compile(rf"(?P<low>{_NUMBER})\.\.(?P<high>{_NUMBER})(?P<log>:log)?")


@dataclass(frozen=True)
class Dimension:
    """A setting and its values: a range of numbers, or a few to choose from.

    Args:
        key: the setting's, dotted.
        low: the least number.
        high: the greatest.
        log: whether equal ratios, not equal differences, are equally likely.
        whole: whether only whole numbers are meant.
        values: to choose from; then there is no range.
    """

    key: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    values: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Dimension":
        """Read ``KEY=LOW..HIGH``, ``KEY=LOW..HIGH:log`` or ``KEY=a,b,c``; whole ends make a range of whole numbers.

        Raises:
            ConfigError: for anything else.
        """
        key, _, rest = text.lstrip("-").partition("=")
        if not key or not rest:
            raise ConfigError(f"--space {text!r} is no KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY=a,b,c")
        if key in DECIDED and key != "seed_everything":
            raise ConfigError(f"--space {key}: {DECIDED[key]}")
        found = _RANGE.fullmatch(rest)
        if found is None:
            values = choices(rest)
            if len(values) < 2 or not all(values):
                raise ConfigError(f"--space {text!r} leaves nothing to choose; give KEY=LOW..HIGH[:log] or KEY=a,b,c")
            return cls(key, values=tuple(values))
        low, high, log = float(found["low"]), float(found["high"]), found["log"] is not None
        if low >= high or (log and low <= 0):
            raise ConfigError(f"--space {text!r}: a range goes up{', and from above 0 with :log' if log else ''}")
        whole = all(re.fullmatch(r"[+-]?\d+", found[end]) for end in ("low", "high"))
        return cls(key, low, high, log, whole)

    def word(self, trial: "optuna.Trial") -> str:
        """Give fit's word for the value that a trial takes."""
        value: object
        if self.values:
            value = trial.suggest_categorical(self.key, self.values)
        elif self.whole:
            value = trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log)
        else:
            value = trial.suggest_float(self.key, self.low, self.high, log=self.log)
        return f"--{self.key}={value}"


def parse_space(texts: Sequence[str]) -> list[Dimension]:
    """Read all dimensions.

    Raises:
        ConfigError: for none, or a setting that comes twice.
    """
    space = [Dimension.parse(text) for text in texts]
    keys = [dimension.key for dimension in space]
    if not space:
        raise ConfigError("there is nothing to search; give --space KEY=LOW..HIGH[:log] or KEY=a,b,c")
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise ConfigError(f"--space names {twice} twice; give it one range")
    return space
