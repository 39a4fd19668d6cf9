"""Text as it comes: whole characters only, and nothing from a stop string on."""

from collections.abc import Callable, Sequence

REPLACEMENT = "�"


class Detokenizer:
    """Turn tokens into pieces of text, which joined are what decoding all tokens at once gives.

    Bytes at the end that may be the beginning of a character are held back until it is whole, or until ``flush``.

    Args:
        decode: token ids to text; half a character becomes U+FFFD.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        # characters end whole at both places; decoding starts at the first: some decoders drop a text's first space
        self._start = self._border = 0
        self._given = 0  # characters given of what stands from the start on

    def add(self, token: int) -> str:
        """The text that is certain now and was not before."""
        self._ids.append(token)
        text = self._decode(self._ids[self._start :])
        whole = text.rstrip(REPLACEMENT)
        # byte fallback writes a character's first three bytes as three U+FFFD; earlier ones are there to stay
        whole = text[: max(len(whole), len(text) - 3)]
        piece = whole[self._given :]
        self._given = max(self._given, len(whole))
        if len(whole) == len(text):
            self._start, self._border = self._border, len(self._ids)
            self._given = len(self._decode(self._ids[self._start :]))
        return piece

    def flush(self) -> str:
        """What is held back, as it is."""
        text = self._decode(self._ids[self._start :])
        piece = text[self._given :]
        self._given = len(text)
        return piece


class StopStrings:
    """Cut a text before the first stop string, whichever way it comes in pieces.

    Args:
        stops: none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None

    def add(self, piece: str) -> str:
        """The text that no stop string can begin in any more."""
        if not self._stops:
            return piece
        text = self._held + piece
        # the first to be complete, so that it does not matter how much comes at once; of two, the longer
        places = ((text.find(stop), stop) for stop in self._stops)
        ends = [(place + len(stop), place, stop) for place, stop in places if place >= 0]
        if ends:
            _, place, self.found = min(ends)
            self._held = ""
            return text[:place]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """What is held back: the text has ended."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of ``text`` may begin ``stop``."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
