"""Turn text into tokens and back, without losing a byte."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, pre_tokenizers, trainers

from xlab.data.byte_alphabet import bytes_of
from xlab.data.digest import digest
from xlab.errors import ConfigError, DataError

SOS, EOS, PAD = "<|sos|>", "<|eos|>", "<|pad|>"
_SPECIALS = [PAD, SOS, EOS]  # ids 0, 1, 2
_SMALLEST_VOCABULARY = 256 + len(_SPECIALS)

# what others call them, the likeliest first
_KNOWN = {
    "sos": [SOS, "<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<|begin_of_sentence|>", "[CLS]"],
    "eos": [EOS, "</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "<|end_of_sentence|>", "<|im_end|>", "[SEP]"],
    "pad": [PAD, "<pad>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>"],
}


class HasToList(Protocol):
    """A tensor or an array, known here only by what is used of it."""

    def tolist(self) -> list[int]: ...


class Tokenizer:
    """A vocabulary with a start (sos), an end (eos) and a padding token.

    ``encode`` never adds a special token, and text that spells one is text: only the data pipeline marks documents.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self.sos_token, self.eos_token, self.pad_token = _find_specials(backend)
        # those that have an id keep it, others come last
        specials = [self.pad_token, self.sos_token, self.eos_token]
        backend.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in specials])
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self._backend = backend
        self._json = backend.to_str()
        self.sos_id, self.eos_id, self.pad_id = (self[t] for t in (self.sos_token, self.eos_token, self.pad_token))

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """Rebuild a tokenizer from what ``to_json`` gave, or from the text of any tokenizer.json.

        Raises:
            DataError: when the text describes no tokenizer.
        """
        try:
            backend = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises Exception itself
            raise DataError(f"This is no tokenizer's JSON: {error}.") from error
        return cls(backend)

    @classmethod
    def from_file(cls, path: str | Path) -> "Tokenizer":
        """Read a tokenizer.json, ours or another's.

        Raises:
            DataError: when the file is missing or describes no tokenizer.
        """
        try:
            return cls.from_json(Path(path).expanduser().read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"The tokenizer file {path} cannot be read: {error.strerror or error}.") from error
        except (DataError, UnicodeDecodeError) as error:
            raise DataError(f"{path} is not a tokenizer.json of Hugging Face's tokenizers: {error}") from error

    def to_json(self) -> str:
        return self._json

    def save(self, path: str | Path) -> None:
        Path(path).write_text(self._json, encoding="utf-8")

    @cached_property
    def fingerprint(self) -> str:
        """A digest of everything that decides which text becomes which tokens."""
        return digest(self._json)

    @property
    def vocab_size(self) -> int:
        return len(self)

    def __len__(self) -> int:
        return self._backend.get_vocab_size(with_added_tokens=True)

    def __getitem__(self, token: str) -> int:
        """Return a token's id.

        Raises:
            DataError: when the vocabulary lacks the token.
        """
        token_id = self._backend.token_to_id(token)
        if token_id is None:
            raise DataError(f"The vocabulary has no token {token!r}; tokenizer.encode(text) splits text into tokens.")
        return token_id

    def __reduce__(self) -> tuple[object, ...]:
        return Tokenizer.from_json, (self._json,)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without sos and eos.

        Raises:
            DataError: for text that has no UTF-8, such as half of a surrogate pair.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Encode texts side by side on all cores."""
        _settle_parallelism()
        try:
            encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError) as error:
            raise DataError(f"The text cannot be encoded: it has no UTF-8 ({error}).") from error
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int] | HasToList, skip_special_tokens: bool = True) -> str:
        """Join tokens into text; bytes that are no UTF-8 (half a character) become U+FFFD.

        Raises:
            DataError: for an id outside the vocabulary.
        """
        tokens: list[int] = list(ids) if isinstance(ids, Sequence) else ids.tolist()
        for outermost in (min(tokens, default=0), max(tokens, default=0)):
            self._check_id(outermost)
        return self._backend.decode(tokens, skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of source text that a token stands for; nothing for a special token."""
        self._check_id(token_id)
        return self._bytes_by_id[token_id]

    def byte_lengths(self) -> NDArray[np.int64]:
        """Return (V,) the bytes of source text that each token stands for.

        Over a document encoded with a byte-level vocabulary they sum to the length of its UTF-8.
        """
        return np.array([len(token) for token in self._bytes_by_id], dtype=np.int64)

    def _check_id(self, token_id: int) -> None:
        if not 0 <= token_id < len(self):
            raise DataError(f"There is no token {token_id}: the vocabulary's ids are 0 to {len(self) - 1}.")

    @cached_property
    def _bytes_by_id(self) -> list[bytes]:
        added = self._backend.get_added_tokens_decoder()
        standing_for = [b""] * len(self)
        for token, token_id in self._backend.get_vocab(with_added_tokens=True).items():
            if token_id not in added:
                standing_for[token_id] = bytes_of(token)
            elif not added[token_id].special:
                standing_for[token_id] = token.encode()
        return standing_for


class TokenizerRecipe(ABC):
    """How to come by a tokenizer before the first token is stored."""

    @abstractmethod
    def vocab_size_of(self, asked: int | None) -> int:
        """Return the vocabulary's size, known before any text is read.

        Args:
            asked: ``data.vocab_size``, or None where it is left open.

        Raises:
            ConfigError: when this recipe cannot give what is asked.
        """

    @abstractmethod
    def make(self, texts: Iterator[str], vocab_size: int) -> Tokenizer:
        """Make the tokenizer; ``texts`` are training documents, and need not be read.

        Raises:
            DataError: when the texts, or the file, cannot give this tokenizer.
        """

    @abstractmethod
    def identity(self) -> str:
        """Digest what, beside texts and size, decides the tokenizer."""


class ByteLevelBPE(TokenizerRecipe):
    """Byte-pair encoding over UTF-8 bytes, trained on the corpus: no text is unknown to it.

    Sennrich et al. 2016, arXiv 1508.07909; over bytes as in GPT-2 (Radford et al. 2019).

    Args:
        min_frequency: How often a pair must occur to be merged.
    """

    def __init__(self, min_frequency: int = 2) -> None:
        if min_frequency < 1:
            raise ConfigError(f"min_frequency must be at least 1, got {min_frequency}.")
        self._min_frequency = min_frequency

    def vocab_size_of(self, asked: int | None) -> int:
        if asked is None:
            raise ConfigError("ByteLevelBPE is trained to a size: set data.vocab_size, for example to 8192.")
        if asked < _SMALLEST_VOCABULARY:
            raise ConfigError(
                f"data.vocab_size must be at least {_SMALLEST_VOCABULARY} (256 bytes and sos, eos, pad), got {asked}."
            )
        return asked

    def make(self, texts: Iterator[str], vocab_size: int) -> Tokenizer:
        _settle_parallelism()
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size_of(vocab_size),
            min_frequency=self._min_frequency,
            special_tokens=_SPECIALS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        tokenizer = Tokenizer(backend)
        if len(tokenizer) < vocab_size:
            raise DataError(
                f"The training texts give a vocabulary of {len(tokenizer)} tokens, not {vocab_size}. "
                f"Set data.vocab_size to at most {len(tokenizer)}, or add text."
            )
        return tokenizer

    def identity(self) -> str:
        return digest("ByteLevelBPE", 1, self._min_frequency)


class TokenizerFile(TokenizerRecipe):
    """A tokenizer.json made elsewhere; where it has no start, end or padding token, XLab's are added at its end.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        if not path:
            raise ConfigError("TokenizerFile's path is empty; name a tokenizer.json.")
        self._path = path

    def vocab_size_of(self, asked: int | None) -> int:
        size = len(Tokenizer.from_file(self._path))
        if asked is not None and asked != size:
            raise ConfigError(
                f"data.vocab_size is {asked}, but {self._path} has {size} tokens; leave data.vocab_size out."
            )
        return size

    def make(self, texts: Iterator[str], vocab_size: int) -> Tokenizer:
        self.vocab_size_of(vocab_size)
        return Tokenizer.from_file(self._path)

    def identity(self) -> str:
        return digest("TokenizerFile", 1, Tokenizer.from_file(self._path).fingerprint)


def _find_specials(backend: tokenizers.Tokenizer) -> tuple[str, str, str]:
    """Choose sos, eos and pad: a vocabulary's own where it has one, each token in one role only.

    GPT-2's <|endoftext|> ends a document; were it the start too, no model could learn where documents end.
    """
    sos, eos, pad = (
        next((token for token in names if backend.token_to_id(token) is not None), ours)
        for names, ours in zip(_KNOWN.values(), (SOS, EOS, PAD), strict=True)
    )
    return sos, eos, pad


def _settle_parallelism() -> None:
    """Decide about threads before ``tokenizers`` starts any, so that it has nothing to warn of when workers fork."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def _encode_alone_after_fork() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the parent's threads did not come along


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_encode_alone_after_fork)
