"""The bytes of source text that each entry of a vocabulary stands for."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import tokenizers

from xlab.data.byte_alphabet import bytes_of


def bytes_by_id(backend: tokenizers.Tokenizer, size: int) -> list[bytes]:
    """Return the bytes of each id below ``size``; none for special tokens, and for ids that nothing has."""
    added = backend.get_added_tokens_decoder()
    read = _reader(backend)
    standing_for = [b""] * size
    for token, token_id in backend.get_vocab(with_added_tokens=True).items():
        if token_id not in added:
            standing_for[token_id] = read(token)
        elif not added[token_id].special:
            standing_for[token_id] = token.encode()
    return standing_for


def leading_spaces_dropped(backend: tokenizers.Tokenizer) -> int | None:
    """How many of a text's first spaces a decoder with byte fallback drops; None for a decoder of another kind.

    The library's makes U+FFFD of every byte in a row of bytes in which one is no UTF-8, so that whole characters vanish
    while the next is not yet complete. Joining the bytes keeps them.
    """
    steps = list(_steps(backend.decoder))
    kinds = {step["type"] for step in steps}
    strips = [step for step in steps if step["type"] == "Strip"]
    if "ByteFallback" not in kinds or not kinds <= {"ByteFallback", "Fuse", "Replace", "Strip"}:
        return None
    if any(step["content"] != " " or step["stop"] for step in strips):
        return None
    return sum(int(step["start"]) for step in strips)


def _reader(backend: tokenizers.Tokenizer) -> Callable[[str], bytes]:
    """Find out how the decoder reads an entry: as GPT-2's letters for bytes, or as text with exceptions."""
    steps = [*_steps(backend.decoder), *_steps(backend.pre_tokenizer)]
    kinds = {step["type"] for step in steps}
    if "ByteLevel" in kinds:
        return bytes_of
    spaces = [step["replacement"] for step in steps if step["type"] == "Metaspace"]
    replaced = [(spelt, " ") for spelt in spaces] + [
        (step["pattern"]["String"], step["content"])
        for step in steps
        if step["type"] == "Replace" and "String" in step["pattern"]
    ]

    def read(token: str) -> bytes:
        if "ByteFallback" in kinds and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes.fromhex(token[3:5])
        for spelt, meant in replaced:
            token = token.replace(spelt, meant)
        return token.encode()

    return read


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """List a decoder's or pre-tokenizer's steps, those of sequences one by one."""
    waiting = [] if part is None else [json.loads(part.__getstate__())]
    while waiting:
        step = waiting.pop(0)
        inner = step.get("decoders") or step.get("pretokenizers")
        if inner is None:
            yield step
        else:
            waiting += inner
