"""Text as it comes: whole characters only, and nothing from a stop string on."""

from collections.abc import Callable, Sequence

REPLACEMENT = "�"
_HELD = 16  # tokens of a text that does not end whole; then it is looked at from a later place on


def whole(text: str) -> str:
    """A text without the character that it only begins, if it ends so.

    What follows tells half a character from bytes that are none, so at the end U+FFFD is taken for the first: three of
    them at most, since byte fallback writes one for each of a character's first three bytes.
    """
    return text[: max(len(text.rstrip(REPLACEMENT)), len(text) - 3)]


class Detokenizer:
    """Turn tokens into pieces of text, which joined are the ``whole`` of what decoding all tokens at once gives.

    Bytes at the end that may be the beginning of a character are held back until it is whole.

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
        certain = whole(text)
        piece = certain[self._given :]
        self._given = max(self._given, len(certain))
        n_held = len(self._ids) - self._border
        if len(certain) == len(text):
            self._start, self._border = self._border, len(self._ids)
            self._given = len(self._decode(self._ids[self._start :]))
        elif n_held >= _HELD and n_held % _HELD == 0:
            self._begin_later(text)
        return piece

    def _begin_later(self, text: str) -> None:
        """Move the start into bytes that are no characters, so that a step's work does not grow with their number.

        The last nine tokens hold all that is held back, three U+FFFD of three tokens at most; and of three places one
        after another, one is within no character.
        """
        end = len(self._ids)
        for place in range(end - 9, end - 12, -1):
            before, after = self._decode(self._ids[self._start : place]), self._decode(self._ids[place:])
            n_left = len(text) - len(after)
            if len(before) <= n_left <= self._given and text.endswith(after):
                self._start = self._border = place
                self._given -= n_left
                return


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
