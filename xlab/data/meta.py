"""Meta: what is known about a document, as control codes before its text.

A document with meta is stored as ``sos, meta, sep, text, eos``, one without as ``sos, text, eos``: a model learns to
write with meta and without. Control codes: Keskar et al. 2019, arXiv 1909.05858.

Letters: N tokens, P stretches of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xlab.data.digest import digest
from xlab.data.token_reader import TokenReader
from xlab.data.tokenizers import SEP, Tokenizer
from xlab.errors import ConfigError, DataError


@dataclass(frozen=True)
class Meta:
    """How the meta of documents come before their text.

    Args:
        max_meta_len: tokens of meta that a document keeps; of longer ones the first go.
        drop: share of the training documents that are learnt without their meta, chosen by a hash of each, so that
            the model can write without meta too; the other splits keep theirs.
        in_loss: whether meta are predicted, or only given; the separator counts as meta.
    """

    max_meta_len: int = 64
    drop: float = 0.0
    in_loss: bool = True

    def __post_init__(self) -> None:
        if self.max_meta_len < 1:
            raise ConfigError(f"data.meta.max_meta_len must be at least 1, got {self.max_meta_len}.")
        if not 0 <= self.drop <= 1:
            raise ConfigError(f"data.meta.drop must be from 0 to 1, got {self.drop}.")

    def identity(self) -> str:
        """Digest what decides the tokens; ``in_loss`` does not."""
        return digest("Meta", 1, self.max_meta_len, self.drop)

    def is_dropped(self, document_digest: bytes, split: str) -> bool:
        """Tell whether a document goes without its meta.

        Args:
            document_digest: 16 bytes, of which the second half decides; the first has decided the split.
            split: Only ``train`` drops any.
        """
        return split == "train" and int.from_bytes(document_digest[8:], "little") < self.drop * 2**64


def prompt_ids(
    tokenizer: Tokenizer, text: str, *, meta: str | None = None, max_meta_len: int | None = None
) -> list[int]:
    """Return the tokens that a model goes on from: ``sos, meta, sep, text``, or ``sos, text`` without meta.

    Args:
        tokenizer: The model's.
        text: The beginning of the text; may be empty.
        meta: What is known about it; None or empty where nothing is.
        max_meta_len: The tokens of meta that the model was trained with; of longer ones the first go.

    Raises:
        ConfigError: for meta where the model was trained without.
    """
    if not meta:  # a document whose meta is empty is stored without
        return [tokenizer.sos_id, *tokenizer.encode(text)]
    return [tokenizer.sos_id, *meta_ids(tokenizer.encode(meta), tokenizer, max_meta_len), *tokenizer.encode(text)]


def meta_ids(ids: list[int], tokenizer: Tokenizer, max_meta_len: int | None) -> list[int]:
    """Return the tokens of meta, cut from the left, with the separator behind.

    Raises:
        ConfigError: when the tokenizer has no separator.
    """
    if tokenizer.sep_id is None:
        raise ConfigError(f"The tokenizer has no {SEP}: its model was trained without meta. Leave meta out.")
    return [*(ids if max_meta_len is None else ids[-max_meta_len:]), tokenizer.sep_id]


def body_start(tokens: Sequence[int] | NDArray[Any], sep_id: int | None, max_meta_len: int) -> int:
    """Return where the text of a stored document begins: behind its sos, or behind the separator if it has meta."""
    first = np.asarray(tokens[: max_meta_len + 2])
    found = [] if sep_id is None else np.flatnonzero(first == sep_id).tolist()
    return int(found[0]) + 1 if found else 1


@dataclass(frozen=True)
class MetaPlaces:
    """Where meta stand in a stream of tokens, told by the tokens themselves.

    A token belongs to meta if a separator comes at it or behind it, before any sos or eos. So a stretch may begin in
    the middle of meta.

    Args:
        sep_id: The separator, which counts as meta.
        boundaries: sos and eos, which no meta goes across.
        max_meta_len: How far to look ahead: the most tokens of meta that a document has.
    """

    sep_id: int
    boundaries: tuple[int, int]
    max_meta_len: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, meta: Meta) -> "MetaPlaces":
        """Look for the meta that these settings put before documents.

        Raises:
            DataError: when the tokenizer has no separator.
        """
        refuse_without_separator(tokenizer)
        assert tokenizer.sep_id is not None
        return cls(tokenizer.sep_id, (tokenizer.sos_id, tokenizer.eos_id), meta.max_meta_len)

    def within(self, store: TokenReader, starts: ArrayLike, lengths: ArrayLike) -> NDArray[np.bool_]:
        """Tell which tokens of some stretches of a store belong to meta.

        Args:
            store: The documents.
            starts: (P,) the stretches' first places in the stream.
            lengths: (P,) how many tokens they have; they may reach over the stream's ends.

        Returns:
            (sum of lengths,), the stretches one after the other.
        """
        firsts, sizes = np.asarray(starts, dtype=np.int64), np.asarray(lengths, dtype=np.int64)
        seen = sizes + self.max_meta_len + 1  # the last one is no token, but a boundary to the next stretch
        ends = np.cumsum(seen)
        within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - seen, seen)
        places = np.repeat(firsts, seen) + within
        is_token = (places >= 0) & (places < store.n_tokens) & (within < np.repeat(seen - 1, seen))
        tokens = np.full(len(places), self.boundaries[0])
        tokens[is_token] = store.gather(places[is_token])
        return self.among(tokens)[within < np.repeat(sizes, seen)]

    def among(self, tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which tokens (N,) belong to meta, as far as the separators among them tell it."""
        marks = np.flatnonzero((tokens == self.sep_id) | np.isin(tokens, self.boundaries))
        following = np.searchsorted(marks, np.arange(len(tokens)))  # the next mark of each; none behind the last
        is_separator = np.append(tokens[marks] == self.sep_id, False)
        return np.asarray(is_separator[following])


def refuse_without_separator(tokenizer: Tokenizer) -> None:
    """Check that a ready tokenizer can mark meta.

    Raises:
        DataError: when it has no separator.
    """
    if tokenizer.sep_id is None:
        raise DataError(f"data.meta is set, but the tokenizer has no {SEP}: it was made without. Leave data.meta out.")


def same_meta(description: Mapping[str, Any], meta: Meta | None) -> bool:
    """Tell whether prepared data, by their description, hold meta as these settings want them."""
    stored = description.get("meta")
    if stored is None or meta is None:
        return stored is None and meta is None
    return bool((stored["max_meta_len"], stored["drop"]) == (meta.max_meta_len, meta.drop))
