"""OpenAI's encodings, from tiktoken: the same ids for every text, and no tiktoken needed once they are converted."""

import difflib
import importlib
import importlib.metadata
import importlib.util
import re
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from xlab.data.byte_alphabet import bytes_of
from xlab.data.digest import digest
from xlab.data.tokenizers.merges import merges_of
from xlab.data.tokenizers.recipe import ReadyTokenizer, fixed_size
from xlab.errors import ConfigError, DataError

# ids of each encoding, those that it leaves out included: known without fetching it
_SIZES = {"gpt2": 50_257, "cl100k_base": 100_277, "o200k_base": 200_019}
_ADDED = 2  # sos and pad; <|endoftext|> is eos


class TiktokenEncoding(ReadyTokenizer):
    """An encoding of tiktoken's, with its ids; ``<|endoftext|>`` ends a document, sos and pad are added at the end.

    tiktoken fetches the encoding, or finds it in the folder that ``TIKTOKEN_CACHE_DIR`` names.

    Args:
        name: gpt2, cl100k_base (GPT-4) or o200k_base (GPT-4o).
    """

    def __init__(self, name: str) -> None:
        if name not in _SIZES:
            close = difflib.get_close_matches(name, _SIZES, n=1)
            guess = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(_SIZES)}."
            raise ConfigError(f"XLab has no encoding {name!r} of tiktoken's; {guess}")
        super().__init__(name)

    def vocab_size_of(self, asked: int | None) -> int:
        if importlib.util.find_spec("tiktoken") is None:
            raise ConfigError(f"The encoding {self._name} needs tiktoken, which is not installed: pip install tiktoken")
        return fixed_size(self._name, _SIZES[self._name] + _ADDED, asked)

    def identity(self) -> str:
        return digest("TiktokenEncoding", 1, self._name, importlib.metadata.version("tiktoken"))

    def has_separator(self) -> bool:
        return False  # known without fetching it

    def read(self) -> tuple[tokenizers.Tokenizer, dict[str, str | None]]:
        definition = _definition(self._name)
        ranks: dict[bytes, int] = definition["mergeable_ranks"]
        specials = {token_id: token for token, token_id in definition["special_tokens"].items()}
        size = max(specials) + 1
        if size != _SIZES[self._name] or set(ranks.values()) != set(range(len(ranks))):
            raise DataError(
                f"tiktoken's {self._name} has {size} tokens, not the {_SIZES[self._name]} that XLab knows; "
                "take a newer XLab, or another version of tiktoken."
            )
        letters = {bytes_of(letter)[0]: letter for letter in pre_tokenizers.ByteLevel.alphabet()}

        def spelt(token: bytes) -> str:
            return "".join(letters[byte] for byte in token)

        vocabulary = {spelt(token): rank for token, rank in ranks.items()}
        merges = [(spelt(left), spelt(right)) for left, right in merges_of(ranks)]
        backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
        words = pre_tokenizers.Split(tokenizers.Regex(_for_oniguruma(definition["pat_str"])), "isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        backend.decoder = decoders.ByteLevel()
        # ids that the encoding leaves out are filled, so that what comes behind keeps its place
        names = [specials.get(token_id, f"<|unused_{token_id}|>") for token_id in range(len(ranks), size)]
        backend.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False) for name in names])
        return backend, {"eos_token": "<|endoftext|>"}


def _definition(name: str) -> dict[str, Any]:
    """Give an encoding as tiktoken defines it: ``pat_str``, ``mergeable_ranks`` and ``special_tokens``."""
    try:
        public = importlib.import_module("tiktoken_ext.openai_public")
    except ImportError as error:
        raise ConfigError(
            f"The encoding {name} needs tiktoken, which is not installed: pip install tiktoken"
        ) from error
    try:
        return dict(public.ENCODING_CONSTRUCTORS[name]())
    except (OSError, ValueError) as error:  # it cannot be fetched, or is damaged
        raise DataError(
            f"tiktoken's encoding {name} cannot be read: {' '.join(str(error).split())[:200]}. Where it cannot be "
            "fetched, put its files into a folder that TIKTOKEN_CACHE_DIR names."
        ) from error


def _for_oniguruma(pattern: str) -> str:
    """Write a regular expression of Rust's as the library's engine means it.

    There ``X{1,3}+`` is a repeated group, which is possessive here, and ``$`` is the end of any line.
    """
    possessive = re.sub(r"(\\p\{\w+\}|\[[^]]*\])(\{\d+,\d+\})\+", r"(?>\1\2)", pattern)
    return possessive.replace("$", r"\z")
