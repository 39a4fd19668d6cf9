"""Make token stores from a corpus once, and find them again: each step is cached by what it was made from."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm import tqdm

from xlab.data.cache_directory import disk_errors, locked, scratch_directory
from xlab.data.digest import digest
from xlab.data.sources.source import report_lines
from xlab.data.splits import SPLITS, Assigned, Corpus
from xlab.data.text_pieces import pieces
from xlab.data.token_store import TokenStore, TokenStoreWriter
from xlab.data.tokenizers import Tokenizer, TokenizerRecipe
from xlab.errors import DataError

_FORMAT_VERSION = 1
_CHARACTERS_AT_ONCE = 1 << 20  # tokens are some 100 bytes each while they are being made


@dataclass(frozen=True)
class PreparedData:
    """A directory of token stores, the tokenizer they were made with, and their description."""

    directory: Path
    description: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """A digest of the documents as they were read, their splits and their tokenizer, wherever they came from."""
        return str(self.description["fingerprint"])

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(self.directory / "tokenizer.json")

    def n_documents(self, split: str) -> int:
        return int(self.description["splits"].get(split, {}).get("documents", 0))

    def store(self, split: str) -> TokenStore:
        """Open the tokens of a split.

        Raises:
            DataError: when the split has no documents.
        """
        if not self.n_documents(split):
            raise DataError(
                f"The {split} split has no documents; give it a larger share, a source of its own, "
                "or the corpus more (or shorter) documents: TextFiles has section_chars for that."
            )
        return TokenStore(self.directory / split)


def open_prepared(directory: str | Path) -> PreparedData:
    """Open what ``prepare`` made.

    Raises:
        DataError: when it is missing, damaged, or of another version.
    """
    directory = Path(directory)
    try:
        description = json.loads((directory / "description.json").read_text(encoding="utf-8"))
        prepared = PreparedData(directory, description)
        made_by = description["format_version"], description["tokenizer"]
        if made_by != (_FORMAT_VERSION, prepared.tokenizer.fingerprint):
            raise DataError(f"{directory} was prepared by another version of XLab, or its tokenizer was exchanged.")
        for split, expected in description["splits"].items():
            store = TokenStore(directory / split)
            if (len(store), store.n_tokens) != (expected["documents"], expected["tokens"]):
                raise DataError(f"{directory / split} does not hold what description.json tells.")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{directory} holds no prepared data: {error}.") from error
    return prepared


def prepare(
    corpus: Corpus, tokenizer: Tokenizer | TokenizerRecipe, *, cache_dir: str | Path, vocab_size: int | None = None
) -> PreparedData:
    """Read a corpus, make its tokenizer if there is none yet, and store its tokens; or find all that in the cache.

    Several processes may call this at once: one works, the others wait for it. Nothing is left behind by an error
    or Ctrl-C, and what a killed process left is removed by the next.

    Args:
        corpus: The documents and their splits.
        tokenizer: A ready tokenizer (a checkpoint's), or how to make one from the training documents.
        cache_dir: Where prepared data are kept; safe to delete whenever nothing runs.
        vocab_size: The size asked of a recipe.

    Raises:
        ConfigError: when the recipe cannot give ``vocab_size``.
        DataError: when the corpus is missing, empty, broken or changing, or the disk is full.
    """
    if isinstance(tokenizer, TokenizerRecipe):
        vocab_size = tokenizer.vocab_size_of(vocab_size)
    preparation = _Preparation(corpus, tokenizer, vocab_size, Path(cache_dir), corpus.identity())
    found = preparation.find()
    if found is not None:
        return found
    with disk_errors(preparation.cache):
        preparation.cache.mkdir(parents=True, exist_ok=True)
        with locked(preparation.cache, preparation.identity):
            # another process may have made it while this one waited
            return preparation.find() or preparation.run()


@dataclass(frozen=True)
class _Preparation:
    """What is to be prepared, as it was when this process first looked."""

    corpus: Corpus
    tokenizer: Tokenizer | TokenizerRecipe
    vocab_size: int | None
    cache: Path
    identity: str

    def find(self) -> PreparedData | None:
        tokenizer = self._ready_tokenizer()
        if tokenizer is None:
            return None
        try:
            return open_prepared(self._directory_of(tokenizer))
        except DataError:
            return None

    def run(self) -> PreparedData:
        """Make everything in a directory that gets its name when it is complete; call under the lock."""
        with scratch_directory(self.cache, self.identity) as scratch:
            tokenizer = self._ready_tokenizer() or self._make_tokenizer(scratch)
            tokenizer.save(scratch / "tokenizer.json")
            description = {
                "format_version": _FORMAT_VERSION,
                "corpus": self.identity,
                "tokenizer": tokenizer.fingerprint,
                "vocab_size": len(tokenizer),
                **_encode(self.corpus, tokenizer, scratch),
                "sources": self.corpus.report(),
            }
            for line in (line for report in description["sources"].values() for line in report_lines(report)):
                print(line, file=sys.stderr)
            self._refuse_changed()
            (scratch / "description.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
            directory = self._directory_of(tokenizer)
            if directory.exists():
                shutil.rmtree(directory)  # it was there, and did not open
            scratch.rename(directory)
        return open_prepared(directory)

    def _ready_tokenizer(self) -> Tokenizer | None:
        """Return the tokenizer if it was given, or made before by this recipe from this corpus."""
        if isinstance(self.tokenizer, Tokenizer):
            return self.tokenizer
        try:
            return Tokenizer.from_file(self._file_of(self.tokenizer))
        except DataError:
            return None

    def _make_tokenizer(self, scratch: Path) -> Tokenizer:
        assert isinstance(self.tokenizer, TokenizerRecipe)
        assert self.vocab_size is not None
        tokenizer = _train(self.tokenizer, self.corpus, self.vocab_size)
        self._refuse_changed()
        tokenizer.save(scratch / "tokenizer.json")
        os.replace(scratch / "tokenizer.json", self._file_of(self.tokenizer))
        return tokenizer

    def _file_of(self, recipe: TokenizerRecipe) -> Path:
        made_from = digest(_FORMAT_VERSION, self.identity, recipe.identity(), self.vocab_size)
        return self.cache / f"{made_from}.tokenizer.json"

    def _directory_of(self, tokenizer: Tokenizer) -> Path:
        # keyed by the tokenizer itself: a checkpoint's finds what its training prepared
        return self.cache / digest(_FORMAT_VERSION, self.identity, tokenizer.fingerprint)

    def _refuse_changed(self) -> None:
        if self.corpus.identity() != self.identity:
            raise DataError("The corpus changed while it was read; nothing was kept. Start again when it is complete.")


def _train(recipe: TokenizerRecipe, corpus: Corpus, vocab_size: int) -> Tokenizer:
    reading = corpus.for_training()
    with ExitStack() as until_made:

        def texts() -> Iterator[str]:
            seen: set[str] = set()
            for assigned in _with_progress(reading.documents(), "Reading", reading.n_bytes()):
                seen.add(assigned.split)
                if assigned.split == "train":
                    yield from pieces(assigned.document.text)
            _refuse_empty(seen)
            # from here on the library works alone; its own bars would draw over the one above
            until_made.enter_context(_bar(f"Training a tokenizer of {vocab_size} tokens", None, bar_format="{desc} …"))

        return recipe.make(texts(), vocab_size)


def _encode(corpus: Corpus, tokenizer: Tokenizer, scratch: Path) -> dict[str, Any]:
    """Write each split's store; return their sizes and the fingerprint of what went in."""
    hashed = hashlib.blake2b(tokenizer.fingerprint.encode(), digest_size=16)
    n_bytes: dict[str, int] = {}
    with ExitStack() as stack:
        writers: dict[str, TokenStoreWriter] = {}
        for assigned in _encoded(corpus, tokenizer, writers, scratch, stack):
            hashed.update(assigned.split.encode() + assigned.digest)
            n_bytes[assigned.split] = n_bytes.get(assigned.split, 0) + assigned.n_bytes
    _refuse_empty(writers.keys())
    sizes = {
        split: {"documents": writer.n_documents, "tokens": writer.n_tokens, "bytes": n_bytes[split]}
        for split, writer in sorted(writers.items(), key=lambda item: SPLITS.index(item[0]))
    }
    return {"splits": sizes, "fingerprint": hashed.hexdigest()}


def _encoded(
    corpus: Corpus, tokenizer: Tokenizer, writers: dict[str, TokenStoreWriter], scratch: Path, stack: ExitStack
) -> Iterator[Assigned]:
    """Store documents as sos, tokens, eos, and pass them on; texts are encoded side by side, some MB at once."""
    waiting: list[tuple[TokenStoreWriter, str, bool]] = []  # piece of a document, and whether it is the last
    n_waiting = 0
    for assigned in _with_progress(corpus.documents(), "Encoding", corpus.n_bytes()):
        writer = writers.get(assigned.split)
        if writer is None:
            new = TokenStoreWriter(scratch / assigned.split, len(tokenizer))
            writer = writers[assigned.split] = stack.enter_context(new)
        previous: str | None = None
        for piece in tokenizer.pieces(assigned.document.text):
            if previous is not None:
                waiting.append((writer, previous, False))
            previous = piece
            n_waiting += len(piece)
            if n_waiting >= _CHARACTERS_AT_ONCE:
                _write(waiting, tokenizer)
                n_waiting = 0
        waiting.append((writer, previous or "", True))
        yield assigned
    _write(waiting, tokenizer)


def _write(waiting: list[tuple[TokenStoreWriter, str, bool]], tokenizer: Tokenizer) -> None:
    encoded = tokenizer.encode_batch([text for _, text, _ in waiting])
    for (writer, _, is_last), ids in zip(waiting, encoded, strict=True):
        if not writer.in_document:
            writer.write([tokenizer.sos_id])
        writer.write(ids)
        if is_last:
            writer.write([tokenizer.eos_id])
            writer.end_document()
    waiting.clear()


def _refuse_empty(splits: Collection[str]) -> None:
    if not splits:
        raise DataError("The corpus is empty: its source gives no document with text. Check data.source.")
    if "train" not in splits:
        raise DataError("The train split is empty: no document fell into it. Add documents, or enlarge its share.")


def _with_progress(documents: Iterator[Assigned], title: str, n_bytes: int | None) -> Iterator[Assigned]:
    with _bar(title, n_bytes) as bar:
        for assigned in documents:
            yield assigned
            bar.update(assigned.n_bytes)


def _bar(title: str, n_bytes: int | None, bar_format: str | None = None) -> Any:
    forced = os.environ.get("XLAB_PROGRESS")
    # disable=None: bars are drawn on a terminal, and keep out of logs
    disable = None if forced is None else forced == "0"
    return tqdm(
        total=n_bytes, desc=title, unit="B", unit_scale=True, leave=False, disable=disable, bar_format=bar_format
    )
