"""Measure a split's prepared tokens in one streaming pass: sizes, lengths, vocabulary, duplicates.

Letters: D documents, V vocabulary.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xlab.data.tokenizers import Tokenizer
from xlab.errors import DataError
from xlab.lab.data_blocks import Block, Documents, VocabularyBytes, blocks
from xlab.lab.data_ngrams import Hashes, ngrams
from xlab.lab.data_sample import HashSample, Share, Sought

Advance = Callable[[int], object]  # is told of every further number of tokens that was read

# Documents with less than this share of n-grams in train are as likely to quote as to be copies.
COVERED = 0.8


@dataclass(frozen=True)
class SplitFigures:
    """What a split holds, as it was prepared.

    Args:
        documents: D.
        characters: Unicode characters of the text that the tokens stand for.
        n_bytes: Bytes of that text.
        tokens: All of them, those that begin and end documents included.
        special_tokens: Those among them that stand for no text.
        byte_tokens: Those that stand for a part of a character, or for a byte that has no better token.
        lengths: How many documents have how many tokens. It grows with the number of *different* lengths, of which
            n take n²/2 tokens: a million for a corpus of 5 · 10¹¹.
        counts: (V,) how often each token occurs.
        repeated_documents: The share of documents whose text had come before.
        repeated_ngrams: The share of word n-grams that had come before.
    """

    documents: int
    characters: int
    n_bytes: int
    tokens: int
    special_tokens: int
    byte_tokens: int
    lengths: Mapping[int, int]
    counts: NDArray[np.int64]
    repeated_documents: Share
    repeated_ngrams: Share

    @property
    def text_tokens(self) -> int:
        """Tokens that stand for text."""
        return self.tokens - self.special_tokens

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text for each token of text; 0 without any."""
        return self.n_bytes / self.text_tokens if self.text_tokens else 0.0

    @property
    def byte_rate(self) -> float:
        """The share of text tokens that are ``byte_tokens``."""
        return self.byte_tokens / self.text_tokens if self.text_tokens else 0.0

    def quantile(self, share: float) -> int:
        """The length that ``share`` of the documents do not exceed."""
        wanted, so_far = share * self.documents, 0
        for length in sorted(self.lengths):
            so_far += self.lengths[length]
            if so_far >= wanted:
                return length
        return 0

    def longer_than(self, n_tokens: int) -> Share:
        """The share of documents of more than ``n_tokens`` tokens."""
        return Share(sum(n for length, n in self.lengths.items() if length > n_tokens), self.documents)


@dataclass(frozen=True)
class Overlap:
    """What of a split was trained on.

    Args:
        documents: The share of its documents whose very text is in train.
        ngrams: The share of its word n-grams that occur in train.
        covered: The share of its documents, of those with an n-gram at all, of whose n-grams ``COVERED`` or more
            occur in train.
    """

    documents: Share
    ngrams: Share
    covered: Share


class Vocabulary:
    """What a report wants to know of a vocabulary's tokens.

    Args:
        tokenizer: Whose V tokens they are.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.bytes = VocabularyBytes(tokenizer)
        self.size = len(tokenizer)
        spelt = [tokenizer.token_bytes(token_id) for token_id in range(self.size)]
        self.is_special = self.bytes.lengths == 0  # (V,)
        # UTF-8 writes characters as a first byte and others of the form 10xxxxxx
        self.characters = np.array([sum(byte & 0xC0 != 0x80 for byte in one) for one in spelt], dtype=np.int64)  # (V,)
        self.is_byte = np.array([not _is_text(one) for one in spelt], dtype=bool)  # (V,)
        self.is_byte[_bytes_that_fall_back(tokenizer)] = True

    def spell(self, token_id: int) -> str:
        """Write a token for people: its text, or the bytes of one that is no text."""
        spelt = self._tokenizer.token_bytes(token_id)
        return spelt.decode() if _is_text(spelt) else " ".join(f"{byte:02X}" for byte in spelt)


def _is_text(spelt: bytes) -> bool:
    try:
        spelt.decode()
    except UnicodeDecodeError:
        return False
    return True


def _bytes_that_fall_back(tokenizer: Tokenizer) -> list[int]:
    """List the ids of <0x00> to <0xFF>, where the vocabulary has other tokens for the characters that it knows."""
    ids: list[int] = []
    if json.loads(tokenizer.to_json())["model"].get("byte_fallback"):
        for byte in range(256):
            with suppress(DataError):  # a vocabulary may lack some
                ids.append(tokenizer[f"<0x{byte:02X}>"])
    return ids


class SplitSample:
    """The hashes of a split's documents and n-grams, as many as fit, to look for them in another split."""

    def __init__(self) -> None:
        self.documents = HashSample()
        self.ngrams = HashSample()


def measure(
    store: Documents, vocabulary: Vocabulary, name: object, *, sought: Mapping[str, "Seeker"], advance: Advance
) -> tuple[SplitFigures, SplitSample]:
    """Read a split once.

    Args:
        store: Its documents.
        vocabulary: Of the tokenizer that made them.
        name: What the store is called in errors.
        sought: What is to be looked for in it.
        advance: Is told of progress.

    Raises:
        DataError: for tokens outside the vocabulary.
    """
    sample = SplitSample()
    counts = np.zeros(vocabulary.size, dtype=np.int64)
    lengths: Counter[int] = Counter()
    for content in _contents(store, vocabulary, name, advance):
        counts += np.bincount(content.block.tokens, minlength=vocabulary.size)
        lengths.update(content.lengths)
        sample.documents.add(content.documents)
        sample.ngrams.add(content.ngrams)
        for seeker in sought.values():
            seeker.see(content)
    figures = SplitFigures(
        documents=lengths.total(),
        characters=int(counts @ vocabulary.characters),
        n_bytes=int(counts @ vocabulary.bytes.lengths),
        tokens=int(counts.sum()),
        special_tokens=int(counts[vocabulary.is_special].sum()),
        byte_tokens=int(counts[vocabulary.is_byte].sum()),
        lengths=lengths,
        counts=counts,
        repeated_documents=sample.documents.repeated(),
        repeated_ngrams=sample.ngrams.repeated(),
    )
    return figures, sample


class Seeker:
    """Looks for the documents and n-grams of one split in another."""

    def __init__(self, sample: SplitSample) -> None:
        self._documents = Sought(sample.documents)
        self._ngrams = Sought(sample.ngrams)

    def see(self, content: "Content") -> None:
        self._documents.see(content.documents)
        self._ngrams.see(content.ngrams)

    def overlap(self, store: Documents, vocabulary: Vocabulary, name: object, *, advance: Advance) -> Overlap:
        """Read the split that is sought once more, and count what of it was seen."""
        documents, ngrams, covered = np.zeros((3, 2), dtype=np.int64)  # the part, and the whole
        for content in _contents(store, vocabulary, name, advance):
            seen = self._documents.was_seen(content.documents[self._documents.askable(content.documents)])
            documents += seen.sum(), len(seen)
            asked = self._ngrams.askable(content.ngrams)
            seen = self._ngrams.was_seen(content.ngrams[asked])
            ngrams += seen.sum(), len(seen)
            # a document longer than a block counts once for each
            of_document = np.bincount(content.document_of_ngram[asked], minlength=1)
            found = np.bincount(content.document_of_ngram[asked], weights=seen, minlength=1)
            has_any = of_document > 0
            covered += (found[has_any] >= COVERED * of_document[has_any]).sum(), has_any.sum()
        return Overlap(
            Share(int(documents[0]), int(documents[1]), self._documents.one_in),
            Share(int(ngrams[0]), int(ngrams[1]), self._ngrams.one_in),
            Share(int(covered[0]), int(covered[1]), self._ngrams.one_in),
        )


@dataclass(frozen=True)
class Content:
    """A block with what is hashed of it: every document that ends in it, every n-gram."""

    block: Block
    lengths: list[int]
    documents: Hashes
    ngrams: Hashes
    document_of_ngram: NDArray[np.int64]


def _contents(store: Documents, vocabulary: Vocabulary, name: object, advance: Advance) -> Iterator[Content]:
    hashed, length = hashlib.blake2b(digest_size=8), 0  # of a document that is not yet at its end
    for block in blocks(store):
        text, starts = vocabulary.bytes.text(block, name)
        view, bounds = memoryview(text.data), [*starts.tolist(), len(text)]
        digests, lengths = [], []
        for number, size in enumerate(block.sizes.tolist()):
            hashed.update(view[bounds[number] : bounds[number + 1]])
            length += size
            if number + 1 < len(starts) or block.ends:
                digests.append(hashed.digest())
                lengths.append(length)
                hashed, length = hashlib.blake2b(digest_size=8), 0
        grams, document = ngrams(text, starts)
        yield Content(block, lengths, np.frombuffer(b"".join(digests), dtype="<u8"), grams, document)
        advance(len(block.tokens))
