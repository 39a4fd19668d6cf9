"""Find documents that should not be learnt as they are: lost in encoding, empty, or there twice."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from xlab.data.digest import digest
from xlab.data.prefixes import PrefixedData
from xlab.data.prepared import StoredSplits
from xlab.data.sources.source import Document, Source
from xlab.data.splits import SPLITS, Assigned, Corpus
from xlab.data.token_reader import TokenReader
from xlab.data.tokenizers import Tokenizer
from xlab.datamodules import XLabDataModule
from xlab.lab.data_places import FirstPlaces, Place

LOSSY, EMPTY, DUPLICATE, OVERLAP = "lossy", "empty", "duplicate", "overlap"
PROBLEMS = {
    LOSSY: "do not survive encode–decode",
    EMPTY: "have no visible character",
    DUPLICATE: "repeat an earlier document of their split",
    OVERLAP: "stand in another split too",
}

_CHARACTERS_AT_ONCE = 1 << 20
_EXCERPT = 80  # characters


class StoredTexts(Source):
    """The texts that stored tokens stand for, where nobody has the documents that they were made from.

    Args:
        store: A split's tokens.
        tokenizer: What they were made with.
    """

    def __init__(self, store: TokenReader, tokenizer: Tokenizer) -> None:
        self._store = store
        self._tokenizer = tokenizer

    def documents(self) -> Iterator[Document]:
        for number in range(len(self._store)):
            yield Document(self._tokenizer.decode(self._store.document(number)))

    def identity(self) -> str:
        return digest("StoredTexts", self._store.identity(), self._tokenizer.fingerprint)

    def title(self) -> str:
        return str(self._store.prefix)


def corpus_of(datamodule: XLabDataModule) -> Corpus:
    """Return the documents of a datamodule whose data are prepared: those of its sources, or else of its tokens."""
    prepared = datamodule.prepared
    if not isinstance(prepared, PrefixedData):
        return datamodule.corpus
    stored = [split for split in SPLITS if prepared.n_documents(split)]
    return Corpus(
        None, split_sources={split: StoredTexts(prepared.store(split), prepared.tokenizer) for split in stored}
    )


def verify(prepared: StoredSplits) -> None:
    """Read every token of prepared data, and check what opening them leaves unread.

    Raises:
        DataError: for an index that points anywhere else than at its tokens, or tokens outside the vocabulary.
    """
    for split in SPLITS:
        if prepared.n_documents(split):
            prepared.store(split).verify(len(prepared.tokenizer))


@dataclass(frozen=True)
class Finding:
    """A document and what is wrong with it.

    Args:
        split: Where it is.
        document: Its number in that split, from 0, in the order in which the corpus is read and stored.
        source: The title of the source that it comes from.
        problem: One of ``PROBLEMS``.
        detail: What exactly: where the text changes and into what, or which document was there before.
        excerpt: Some of its text, from where it matters.
        digest: Of its text: 32 hexadecimal digits of BLAKE2b.
    """

    split: str
    document: int
    source: str
    problem: str
    detail: str
    excerpt: str
    digest: str


@dataclass(frozen=True)
class Checked:
    """A document that was looked at, and what was found."""

    split: str
    n_bytes: int
    findings: tuple[Finding, ...]


def validate(corpus: Corpus, tokenizer: Tokenizer) -> Iterator[Checked]:
    """Read a corpus once and check every document that is in a split.

    Memory is 36 to 72 bytes for each different document; texts are encoded some MB at once.

    Args:
        corpus: The documents and their splits.
        tokenizer: The one that they are to be encoded with.

    Raises:
        DataError: when the corpus is missing or broken.
    """
    first_places = FirstPlaces()
    n_in: dict[str, int] = {}
    for group in _groups(corpus.documents()):
        for assigned, lossy in zip(group, _differences([one.document for one in group], tokenizer), strict=True):
            number = n_in[assigned.split] = n_in.get(assigned.split, -1) + 1
            hashed = hashlib.blake2b(assigned.document.text.encode(), digest_size=16).digest()
            place = Place(assigned.split, number)
            problems = _problems(assigned.document.text, lossy, place, first_places.first(hashed, place))
            source = corpus.split_sources.get(assigned.split, corpus.source)
            findings = tuple(
                Finding(assigned.split, number, "" if source is None else source.title(), *problem, digest=hashed.hex())
                for problem in problems
            )
            yield Checked(assigned.split, assigned.n_bytes, findings)


@dataclass(frozen=True)
class _Difference:
    """The first place where a decoded text is another: a character's number in the document, and both texts there."""

    at: int
    before: str
    after: str


def _groups(documents: Iterator[Assigned]) -> Iterator[list[Assigned]]:
    """Take documents together, a MB or a single one."""
    group: list[Assigned] = []
    n_characters = 0
    for assigned in documents:
        group.append(assigned)
        n_characters += len(assigned.document.text)
        if n_characters >= _CHARACTERS_AT_ONCE:
            yield group
            group, n_characters = [], 0
    if group:
        yield group


def _differences(documents: list[Document], tokenizer: Tokenizer) -> list[_Difference | None]:
    """Encode and decode documents side by side, and say where each is no longer itself."""
    pieces = [(number, piece) for number, document in enumerate(documents) for piece in tokenizer.pieces(document.text)]
    found: list[_Difference | None] = [None] * len(documents)
    read = [0] * len(documents)  # characters of each document
    for (number, piece), ids in zip(pieces, tokenizer.encode_batch([piece for _, piece in pieces]), strict=True):
        decoded = tokenizer.decode(ids)
        if decoded != piece and found[number] is None:
            at = _first_difference(piece, decoded)
            found[number] = _Difference(read[number] + at, piece[at : at + _EXCERPT], decoded[at : at + _EXCERPT])
        read[number] += len(piece)
    return found


def _first_difference(one: str, other: str) -> int:
    """The number of characters that two texts begin with in common."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # halving compares whole stretches at once
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _problems(text: str, lossy: _Difference | None, place: Place, first: Place) -> Iterator[tuple[str, str, str]]:
    """What is wrong with a document: problem, detail, excerpt."""
    if lossy is not None:
        detail = f"from character {lossy.at}: {lossy.before[:16]!r} comes back as {lossy.after[:16]!r}"
        yield LOSSY, detail, lossy.before
    if not text or text.isspace():
        yield EMPTY, f"{len(text)} characters, all white space", text[:_EXCERPT]
    elif first != place:  # white space repeats itself all the time
        yield DUPLICATE if first.split == place.split else OVERLAP, f"first as {first}", text[:_EXCERPT]
