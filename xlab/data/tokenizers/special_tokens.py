"""Which tokens of a vocabulary begin, end and pad a document."""

import json
from collections.abc import Mapping
from typing import NamedTuple

import tokenizers

from xlab.errors import DataError

SOS, EOS, PAD = "<|sos|>", "<|eos|>", "<|pad|>"
SEP = "<|sep|>"  # between a document's meta and its text; only where meta are used
SPECIALS = [PAD, SOS, EOS]  # ids 0, 1, 2 of a vocabulary that is trained here

# what others call them, the likeliest first
_KNOWN = {
    "sos": [SOS, "<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<|begin_of_sentence|>", "[CLS]"],
    "eos": [EOS, "</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "<|end_of_sentence|>", "<|im_end|>", "[SEP]"],
    "pad": [PAD, "<pad>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>"],
}
_KEY = "xlab_role"  # beside an added token in tokenizer.json; other readers pass over it


class SpecialTokens(NamedTuple):
    """The tokens that begin, end and pad a document, each in one role only.

    GPT-2's <|endoftext|> ends a document; were it the start too, no model could learn where documents end.
    """

    sos: str
    eos: str
    pad: str


def choose(
    backend: tokenizers.Tokenizer,
    *,
    sos_token: str | None = None,
    eos_token: str | None = None,
    pad_token: str | None = None,
) -> SpecialTokens:
    """Choose sos, eos and pad: those that are named; else the vocabulary's own where it has one; else XLab's, to add.

    Raises:
        DataError: when a token that is named is not in the vocabulary, or is to have two roles.
    """
    named = {"sos": sos_token, "eos": eos_token, "pad": pad_token}
    for role, token in named.items():
        if token is not None and backend.token_to_id(token) is None:
            raise DataError(
                f"The vocabulary has no token {token!r} for {role}_token; name one that it has, or leave {role}_token "
                "out: then its own is found, or one is added."
            )
    taken = set(named.values())
    chosen = {}
    for role, names in _KNOWN.items():
        own = (name for name in names if name not in taken and backend.token_to_id(name) is not None)
        chosen[role] = named[role] or next(own, names[0])
    if len(set(chosen.values())) < len(chosen):
        roles = ", ".join(f"{role}_token {token!r}" for role, token in chosen.items())
        raise DataError(f"A token would have two roles ({roles}); leave one out, and it gets a token of its own.")
    return SpecialTokens(**chosen)


def combined(
    named: Mapping[str, str | None], proposed: Mapping[str, str | None], backend: tokenizers.Tokenizer
) -> dict[str, str | None]:
    """Fill roles that the user left open with what a tokenizer's own files propose, as far as it can be.

    Args:
        named: ``sos_token``, ``eos_token`` and ``pad_token``, None where they are left open.
        proposed: The same; of two roles for one token the first counts, and a token that does not exist is none.
        backend: Has the vocabulary.
    """
    roles = dict(named)
    for role, token in proposed.items():
        if (
            token is not None
            and roles[role] is None
            and token not in roles.values()
            and backend.token_to_id(token) is not None
        ):
            roles[role] = token
    return roles


def written_roles(text: str) -> dict[str, str]:
    """Read which tokens of a tokenizer.json ``with_roles`` has marked: ``sos_token`` and the like."""
    if f'"{_KEY}"' not in text:
        return {}
    added = json.loads(text).get("added_tokens", [])
    return {f"{token[_KEY]}_token": str(token["content"]) for token in added if token.get(_KEY) in _KNOWN}


def with_roles(text: str, chosen: SpecialTokens) -> str:
    """Mark the tokens of a tokenizer.json in which they could not be found by their names."""
    content = json.loads(text)
    role_of = {token: role for role, token in chosen._asdict().items()}
    content["added_tokens"] = [
        token | ({_KEY: role_of[token["content"]]} if token["content"] in role_of else {})
        for token in content["added_tokens"]
    ]
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))
