"""Cut a long text where a tokenizer cuts too, so that encoding the pieces encodes the text."""

import re
from collections.abc import Iterator

# Pre-tokenizers (GPT-2's, Llama 3's) look ahead from white space only, and take a newline between two
# visible characters alone or with what is before it: behind it, a token always begins.
_LINE_START = re.compile(r"(?<=\S\n)(?=\S)")
# Without such lines: white space never continues a word.
_WORD_END = re.compile(r"(?<=[^\W_])(?=\s)")


def pieces(text: str, *, least: int = 1 << 16, most: int = 1 << 20) -> Iterator[str]:
    """Yield pieces that joined give the text, each of ``least`` to ``most`` characters but the last.

    Byte-level tokens of the pieces are those of the text, unless ``most - least`` characters in a row have neither
    a line's start nor a word's end; there the text is cut anyway, which costs a token and no character.
    """
    start = 0
    while len(text) - start > least:
        stop = min(start + most, len(text))
        found = _LINE_START.search(text, start + least, stop) or _WORD_END.search(text, start + least, stop)
        if found is None and stop == len(text):
            break
        end = found.start() if found else stop
        yield text[start:end]
        start = end
    yield text[start:] if start else text
