"""The characters that stand for bytes in a byte-level vocabulary, as in GPT-2 (Radford et al. 2019)."""


def _character_of_each_byte() -> dict[int, str]:
    """Visible Latin-1 characters stand for themselves, the other bytes are written from U+0100 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


_BYTE_OF = {character: byte for byte, character in _character_of_each_byte().items()}


def bytes_of(token: str) -> bytes:
    """Return the bytes of text that a vocabulary's entry stands for."""
    try:
        return bytes(_BYTE_OF[character] for character in token)
    except KeyError:  # not byte-level: SentencePiece writes a space as ▁ and a lone byte as <0x0A>
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes.fromhex(token[3:5])
        return token.replace("▁", " ").encode()
