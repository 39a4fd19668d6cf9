"""Hash the word n-grams of texts, all bytes of a block at once.

Letters: Y bytes, W words, G n-grams.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

N = 13  # words; what GPT-3 was decontaminated with (Brown et al. 2020, arXiv 2005.14165, appendix C)


def _mixed(numbers: Hashes) -> Hashes:
    """Make all 64 bits depend on all: the finalizer of SplitMix64 (Steele et al. 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Hashes = numbers ^ (numbers >> np.uint64(31))
    return mixed


def _letters() -> Hashes:
    """(256,) a number for each byte: 0 for what is in no word, and the same for a and A."""
    numbers = _mixed(np.arange(1, 257, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    for byte in range(128):
        if not chr(byte).isalnum():
            numbers[byte] = 0
        elif chr(byte).isupper():
            numbers[byte] = numbers[ord(chr(byte).lower())]
    return numbers


_LETTERS = _letters()
# the first bytes of U+3000 to U+DFFF and of U+10000 on: kana, Han and Hangul, each character a word
_IS_IDEOGRAPH = np.isin(np.arange(256), [*range(0xE3, 0xEE), *range(0xF0, 0xF5)])
_BASE = np.uint64(0x9E3779B97F4A7C15)


def ngrams(text: NDArray[np.uint8], starts: NDArray[np.int64], n: int = N) -> tuple[Hashes, NDArray[np.int64]]:
    """Hash every n words in a row of some documents.

    A word is a run of letters and digits, whatever their case in ASCII, or a single ideograph; what is between words
    does not count.

    Args:
        text: (Y,) the UTF-8 of the documents, one behind the other.
        starts: Where each begins, ascending.
        n: Words in a row.

    Returns:
        (G,) hashes, and (G,) the number of the document that each is in.
    """
    words, at = _words(text, starts)
    n_grams = max(len(words) - n + 1, 0)
    document = np.searchsorted(starts, at, side="right") - 1
    inside = document[:n_grams] == document[len(words) - n_grams :] if n_grams else np.empty(0, dtype=bool)
    sums = np.zeros(n_grams, dtype=np.uint64)
    for weight, offset in zip(_powers(n), range(n), strict=True):
        sums += words[offset : offset + n_grams] * weight
    return _mixed(sums[inside]), document[:n_grams][inside]


def _words(text: NDArray[np.uint8], starts: NDArray[np.int64]) -> tuple[Hashes, NDArray[np.int64]]:
    """(W,) a hash of each word, and (W,) the byte it begins at."""
    letters = _LETTERS[text]  # (Y,)
    for place in _punctuation(text):
        letters[place] = 0
    in_word = letters != 0
    begins = in_word.copy()
    begins[1:] &= ~in_word[:-1]
    ideographs = _IS_IDEOGRAPH[text]
    begins |= ideographs
    if len(text) > 3:
        begins[3:] |= ideographs[:-3] & in_word[3:]  # what follows three bytes of an ideograph begins anew
    first = starts[starts < len(text)]
    begins[first] = in_word[first]
    at = np.flatnonzero(begins)
    if not len(at):
        return np.empty(0, dtype=np.uint64), at
    place = np.arange(len(text)) - at[np.maximum(np.cumsum(begins) - 1, 0)]  # in the word; negative before the first
    powers = _powers(int(place.max()) + 1)
    return _mixed(np.add.reduceat(letters * powers[np.maximum(place, 0)], at)), at


def _punctuation(text: NDArray[np.uint8]) -> list[NDArray[np.int64]]:
    """Where U+2000 to U+207F are written, such as dashes and curly quotes: their first, second and third bytes."""
    first = np.flatnonzero((text[:-2] == 0xE2) & ((text[1:-1] == 0x80) | (text[1:-1] == 0x81)))
    return [first, first + 1, first + 2]


def _powers(n: int) -> NDArray[Any]:
    return np.cumprod(np.full(n, _BASE))  # modulo 2⁶⁴
