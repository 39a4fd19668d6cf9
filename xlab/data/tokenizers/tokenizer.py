"""Turn text into tokens and back, without losing a byte."""

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import tokenizers
from numpy.typing import NDArray

from xlab.data.digest import digest
from xlab.data.text_pieces import pieces
from xlab.data.tokenizers.special_tokens import SEP, choose, with_roles, written_roles
from xlab.data.tokenizers.token_bytes import bytes_by_id, leading_spaces_dropped
from xlab.errors import DataError

_JSON = "a tokenizer.json of Hugging Face's tokenizers"


class HasToList(Protocol):
    """A tensor or an array, known here only by what is used of it."""

    def tolist(self) -> list[int]: ...


class Tokenizer:
    """A vocabulary with a start (sos), an end (eos) and a padding token, and perhaps a separator (sep) behind meta.

    ``encode`` never adds a special token, and text that spells one is text: only the data pipeline marks documents.

    Args:
        backend: The library's tokenizer, which is changed: special tokens that it lacks come last.
        sos_token: Which of its tokens starts a document; None looks for one by the usual names, or adds one.
        eos_token: Which one ends a document.
        pad_token: Which one fills what is left of a batch.

    Raises:
        DataError: for a token that the vocabulary has not, or that is to have two roles; or if two tokens share an id.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        sos_token: str | None = None,
        eos_token: str | None = None,
        pad_token: str | None = None,
    ) -> None:
        chosen = choose(backend, sos_token=sos_token, eos_token=eos_token, pad_token=pad_token)
        self.sos_token, self.eos_token, self.pad_token = chosen
        # those that have an id keep it, others come last
        specials = [self.pad_token, self.sos_token, self.eos_token]
        backend.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in specials])
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self._backend = backend
        self._drops = leading_spaces_dropped(backend)
        written = backend.to_str()
        self._json = written if choose(backend) == chosen else with_roles(written, chosen)
        ids = backend.get_vocab(with_added_tokens=True).values()
        self._size = max(ids) + 1  # what a model needs, where a foreign vocabulary leaves ids out
        if len(set(ids)) < len(ids):
            raise DataError("The vocabulary gives two tokens one id; number its tokens from 0 without leaving any out.")
        self.sos_id, self.eos_id, self.pad_id = (self[token] for token in chosen)
        added = backend.get_added_tokens_decoder().items()
        self.sep_id = next((number for number, token in added if token.special and token.content == SEP), None)

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """Rebuild a tokenizer from what ``to_json`` gave, or from the text of any tokenizer.json.

        Raises:
            DataError: when the text describes no tokenizer.
        """
        return cls(_backend(text), **written_roles(text))

    @classmethod
    def from_file(cls, path: str | Path) -> "Tokenizer":
        """Read a tokenizer.json, ours or another's.

        Raises:
            DataError: when the file is missing or describes no tokenizer.
        """
        backend, roles = read_json(path)
        return cls(backend, **roles)

    @property
    def marker_ids(self) -> list[int]:
        """What marks a document's beginning and padding, and ends its meta: a text that is written holds none."""
        return [self.sos_id, self.pad_id, *([] if self.sep_id is None else [self.sep_id])]

    @property
    def special_tokens(self) -> dict[str, int]:
        """The names of all special tokens, which no text is encoded as, and their ids."""
        return {name.decode(): token_id for token_id, name in self._spelt_specials.items()}

    def with_separator(self) -> "Tokenizer":
        """Return this tokenizer with ``<|sep|>``, which stands between a document's meta and its text.

        Where the vocabulary lacks it, it comes last.
        """
        if self.sep_id is not None:
            return self
        backend = _backend(self._json)
        backend.add_special_tokens([tokenizers.AddedToken(SEP, special=True, normalized=False)])
        return Tokenizer(backend, **written_roles(self._json))

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
        return self._size

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
        return _encode_batch(self._backend, texts)

    def encode_with_specials(self, text: str) -> list[int]:
        """Return the tokens of a text in which the names of special tokens stand for these.

        Only for text of one's own: in a stranger's, a special token's name must stay text.

        Raises:
            DataError: for text that has no UTF-8.
        """
        return _encode_batch(self._reading_specials, [text])[0]

    def pieces(self, text: str) -> Iterator[str]:
        """Cut a long text where tokens end, so that the pieces' tokens are the text's.

        One that marks the beginning of each text, as Llama 2's does, gets it whole: every piece would get such a mark.
        """
        return pieces(text) if self._can_be_cut else iter([text])

    def decode(self, ids: Sequence[int] | HasToList, skip_special_tokens: bool = True) -> str:
        """Join tokens into text; bytes that are no UTF-8 (half a character) become U+FFFD.

        Raises:
            DataError: for an id outside the vocabulary.
        """
        tokens: list[int] = list(ids) if isinstance(ids, Sequence) else ids.tolist()
        for outermost in (min(tokens, default=0), max(tokens, default=0)):
            self._check_id(outermost)
        if self._drops is None:
            return self._backend.decode(tokens, skip_special_tokens=skip_special_tokens)
        special = {} if skip_special_tokens else self._spelt_specials
        text = b"".join(special.get(token) or self._bytes_by_id[token] for token in tokens).decode(errors="replace")
        n_spaces = len(text) - len(text.lstrip(" "))
        return text[min(n_spaces, self._drops) :]

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of source text that a token stands for; nothing for a special token."""
        self._check_id(token_id)
        return self._bytes_by_id[token_id]

    def byte_lengths(self) -> NDArray[np.int64]:
        """Return (V,) the bytes of source text that each token stands for.

        Over a document encoded with a vocabulary that was trained here they sum to the length of its UTF-8.
        """
        return np.array([len(token) for token in self._bytes_by_id], dtype=np.int64)

    def _check_id(self, token_id: int) -> None:
        if not 0 <= token_id < len(self):
            raise DataError(f"There is no token {token_id}: the vocabulary's ids are 0 to {len(self) - 1}.")

    @cached_property
    def _can_be_cut(self) -> bool:
        return self.encode("a.\n") + self.encode("b") == self.encode("a.\nb")

    @cached_property
    def _bytes_by_id(self) -> list[bytes]:
        return bytes_by_id(self._backend, len(self))

    @cached_property
    def _spelt_specials(self) -> dict[int, bytes]:
        added = self._backend.get_added_tokens_decoder()
        return {token_id: token.content.encode() for token_id, token in added.items() if token.special}

    @cached_property
    def _reading_specials(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_str(self._json)  # a second one: the switch is not safe between threads


def read_json(path: str | Path) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """Read the library's tokenizer from a tokenizer.json, and the special tokens that are marked in it.

    Raises:
        DataError: when the file is missing or describes no tokenizer.
    """
    text = read_text(path, _JSON)
    try:
        return _backend(text), written_roles(text)
    except DataError as error:
        raise DataError(f"{path} is not {_JSON}: {error}") from error


def read_text(path: str | Path, what: str) -> str:
    """Read a tokenizer's file as it stands, line ends included; ``what`` says what it should be.

    Raises:
        DataError: when it is missing, or not UTF-8.
    """
    try:
        return Path(path).expanduser().read_bytes().decode("utf-8")
    except OSError as error:
        raise DataError(f"The tokenizer file {path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not {what}: it is not UTF-8 at byte {error.start}.") from error


def _backend(text: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises Exception itself
        raise DataError(f"This is no tokenizer's JSON: {error}.") from error


def settle_parallelism() -> None:
    """Decide about threads before ``tokenizers`` starts any, so that it has nothing to warn of when workers fork."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def _encode_batch(backend: tokenizers.Tokenizer, texts: list[str]) -> list[list[int]]:
    settle_parallelism()
    try:
        encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
    except (TypeError, UnicodeEncodeError) as error:
        raise DataError(f"The text cannot be encoded: it has no UTF-8 ({error}).") from error
    return [encoding.ids for encoding in encodings]


def _encode_alone_after_fork() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the parent's threads did not come along


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_encode_alone_after_fork)
