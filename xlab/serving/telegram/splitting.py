"""Cut long texts into messages: Telegram counts UTF-16 units, readers see graphemes."""

import unicodedata

MESSAGE_LIMIT = 4096  # of a message, in UTF-16 units: core.telegram.org/bots/api#sendmessage
ZERO_WIDTH_JOINER = "\u200d"


def utf16_length(text: str) -> int:
    """The length that Telegram counts: a character beyond U+FFFF is two units."""
    return len(text) + sum(character > "\uffff" for character in text)


def split(text: str, limit: int = MESSAGE_LIMIT) -> list[str]:
    """Cut a text into parts that fit into messages; joined, they are the text.

    A part ends after a line or a word where one ends in its last quarter, else between graphemes, and inside of one
    only if that one alone is too long. The parts before the last do not change as a text grows at its end, but where
    what is added joins the grapheme at a cut.

    Args:
        limit: UTF-16 units in a part, at least 2.
    """
    parts, start = [], 0
    while start < len(text):
        end = _reach(text, start, limit)
        if end < len(text):
            end = _border(text, start, end)
        parts.append(text[start:end])
        start = end
    return parts


def _reach(text: str, start: int, limit: int) -> int:
    """The end of as many characters as ``limit`` units hold."""
    end = min(start + limit, len(text))
    while (excess := utf16_length(text[start:end]) - limit) > 0:
        end -= max(1, excess // 2)  # no character has more than two units, so this never takes too many
    return end


def _border(text: str, start: int, end: int) -> int:
    last_quarter = start + (end - start) * 3 // 4
    for mark in ("\n", " "):
        place = text.rfind(mark, last_quarter, end) + 1
        if place > last_quarter and not _joined(text, place):
            return place
    return next((place for place in range(end, start, -1) if not _joined(text, place)), end)


def _joined(text: str, place: int) -> bool:
    """Whether the characters around a place are of one grapheme: Unicode Standard Annex 29, but for its rare rules."""
    before, after = text[place - 1], text[place]
    if before + after == "\r\n":
        return True
    if unicodedata.category(before) in {"Cc", "Zl", "Zp"}:  # nothing joins a line's end
        return False
    if ZERO_WIDTH_JOINER in (before, after) or _extends(after):
        return True
    if _is_flag_letter(before) and _is_flag_letter(after):
        first = place - 1
        while first > 0 and _is_flag_letter(text[first - 1]):
            first -= 1
        return (place - first) % 2 == 1  # flags are pairs of letters
    return _hangul_joins(before, after)


def _extends(character: str) -> bool:
    """Accents, variation selectors, skin tones, the tags of subdivision flags, half-width voicing marks."""
    return (
        unicodedata.category(character) in {"Mn", "Me", "Mc"}
        or "\U0001f3fb" <= character <= "\U0001f3ff"
        or "\U000e0020" <= character <= "\U000e007f"
        or character in "\u200c\uff9e\uff9f\u0e33\u0eb3"
    )


def _is_flag_letter(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _hangul_joins(before: str, after: str) -> bool:
    first, then = _hangul_kind(before), _hangul_kind(after)
    return (first + then) in {"LL", "LV", "LS", "LC", "VV", "SV", "VT", "ST", "TT", "CT"}


def _hangul_kind(character: str) -> str:
    """Leading consonant L, vowel V, trailing consonant T, a syllable open S or closed C, or nothing of these."""
    if "\u1100" <= character <= "\u115f" or "\ua960" <= character <= "\ua97c":
        return "L"
    if "\u1160" <= character <= "\u11a7" or "\ud7b0" <= character <= "\ud7c6":
        return "V"
    if "\u11a8" <= character <= "\u11ff" or "\ud7cb" <= character <= "\ud7fb":
        return "T"
    if "\uac00" <= character <= "\ud7a3":
        return "C" if (ord(character) - 0xAC00) % 28 else "S"
    return "-"
