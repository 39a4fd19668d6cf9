"""Where text is cut before pairs are merged: no token reaches over such a cut."""

import difflib
import re

import tokenizers
from tokenizers import pre_tokenizers

from xlab.errors import ConfigError

# As the regular expressions of Oniguruma, which the library uses, have it: there X{1,3}+ repeats the group, and $ is
# the end of every line. (?>X{1,3}) and \z are what others mean by them.
PATTERNS = {
    # Radford et al. 2019: a word, a number or signs, each with a space before it
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # GPT-4: three digits at most, signs with the line's end behind them
    "cl100k": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+\z|\s*[\r\n]"
        r"|\s+(?!\S)|\s"
    ),
    # GPT-4o: words at their capitals, and what an apostrophe ties to them
    "o200k": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}


# A pattern of one's own may keep together what spells a special token, or a byte's token; it must not become that.
_SPELT = r"<(?=\|(?:sos|eos|pad|sep)\|>|0x[0-9A-F]{2}>)"


def check(pattern: str, digits: int | None) -> None:
    """Refuse settings that cannot mean anything, before any text is read.

    Raises:
        ConfigError: naming the setting.
    """
    if digits is not None and digits < 1:
        raise ConfigError(f"digits must be at least 1, got {digits}; leave it out to keep numbers whole.")
    if pattern in PATTERNS:
        return
    if re.fullmatch(r"\w*", pattern):  # as a regular expression it would find nothing but this word
        close = difflib.get_close_matches(pattern, PATTERNS, n=1)
        guess = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(PATTERNS)}"
        raise ConfigError(f"There is no pattern {pattern!r}{guess}. A regular expression of your own is one too.")
    try:
        tokenizers.Regex(pattern)
    except Exception as error:  # the library raises Exception itself
        raise ConfigError(f"pattern is no regular expression of Oniguruma: {pattern!r}: {error}.") from error


def splits(pattern: str, digits: int | None) -> list[pre_tokenizers.PreTokenizer]:
    """Return the cuts, one after another: at numbers, then at what ``pattern`` finds.

    Args:
        pattern: A name of ``PATTERNS``, or a regular expression; what it does not find stays, as pieces of its own.
        digits: How many digits stay together at most, counted from the left; None leaves that to the pattern.
    """
    expressions = [] if pattern in PATTERNS else [_SPELT]
    expressions += [] if digits is None else [rf"\p{{N}}{{1,{digits}}}"]
    expressions.append(PATTERNS.get(pattern, pattern))
    return [pre_tokenizers.Split(tokenizers.Regex(expression), "isolated") for expression in expressions]
