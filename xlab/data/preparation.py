"""Make token stores from a corpus once, and find them again: each step is cached by what it was made from."""

import os
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlab.data.cache_directory import disk_errors, locked, scratch_directory
from xlab.data.chat import Chat
from xlab.data.digest import digest
from xlab.data.encoding import Shard, encode_corpus, refuse_empty
from xlab.data.meta import Meta, refuse_without_separator
from xlab.data.prepared import FORMAT_VERSION, PreparedData, open_prepared, write_description
from xlab.data.progress import progress_bar, with_progress
from xlab.data.sources.source import report_lines
from xlab.data.splits import Corpus
from xlab.data.text_pieces import pieces
from xlab.data.tokenizers import Tokenizer, TokenizerRecipe
from xlab.errors import DataError

Tell = Callable[[PreparedData], dict[str, Any]]  # more for a description, from stores that are complete

__all__ = ["Preparation", "PreparedData", "Tell", "Wanted", "open_prepared", "prepare", "train_tokenizer"]


def prepare(
    corpus: Corpus,
    tokenizer: Tokenizer | TokenizerRecipe,
    *,
    cache_dir: str | Path,
    vocab_size: int | None = None,
    meta: Meta | None = None,
    chat: Chat | None = None,
) -> PreparedData:
    """Read a corpus, make its tokenizer if there is none yet, and store its tokens; or find all that in the cache.

    Several processes may call this at once: one works, the others wait for it. Nothing is left behind by an error
    or Ctrl-C, and what a killed process left is removed by the next.

    Args:
        corpus: The documents and their splits.
        tokenizer: A ready tokenizer (a checkpoint's), or how to make one from the training documents.
        cache_dir: Where prepared data are kept; safe to delete whenever nothing runs.
        vocab_size: The size asked of a recipe.
        meta: How the documents' meta come before them; None leaves them out. It needs a tokenizer with a separator.
        chat: How conversations become tokens, settled; None refuses them.

    Raises:
        ConfigError: when the recipe cannot give ``vocab_size``.
        DataError: when the corpus is missing, empty, broken or changing, or the disk is full.
    """
    cache = Path(cache_dir)
    preparation = _InCache(Wanted.of(corpus, tokenizer, vocab_size=vocab_size, meta=meta, chat=chat), cache)
    return preparation.find_or_run(cache, "data.cache_dir")


def train_tokenizer(recipe: TokenizerRecipe, corpus: Corpus, vocab_size: int) -> Tokenizer:
    """Make a recipe's tokenizer from a corpus' training documents; recipes that read none make theirs at once.

    Raises:
        ConfigError: when the recipe cannot give ``vocab_size``.
        DataError: when the corpus is missing, empty or broken.
    """
    reading = corpus.for_training()
    with ExitStack() as until_made:

        def texts() -> Iterator[str]:
            seen: set[str] = set()
            for assigned in with_progress(reading.documents(), "Reading", reading.n_bytes()):
                seen.add(assigned.split)
                if assigned.split == "train":
                    yield from pieces(assigned.document.text)
            refuse_empty(seen)
            # from here on the library works alone; its own bars would draw over the one above
            title = f"Training a tokenizer of {vocab_size} tokens"
            until_made.enter_context(progress_bar(title, None, bar_format="{desc} …"))

        return recipe.make(texts(), vocab_size)


@dataclass(frozen=True)
class Wanted:
    """What is to be prepared, as it was when this process first looked."""

    corpus: Corpus
    tokenizer: Tokenizer | TokenizerRecipe
    vocab_size: int | None
    meta: Meta | None
    chat: Chat | None
    identity: str

    @classmethod
    def of(
        cls,
        corpus: Corpus,
        tokenizer: Tokenizer | TokenizerRecipe,
        *,
        vocab_size: int | None,
        meta: Meta | None,
        chat: Chat | None,
    ) -> "Wanted":
        """Check the settings, and look at the corpus without reading it.

        Raises:
            ConfigError: when the recipe cannot give ``vocab_size``.
            DataError: when the corpus is missing.
        """
        if isinstance(tokenizer, TokenizerRecipe):
            vocab_size = tokenizer.vocab_size_of(vocab_size)
        return cls(corpus, tokenizer, vocab_size, meta, chat, corpus.identity())

    @property
    def recipe_identity(self) -> str | None:
        """Digest what a tokenizer is made from; None where it is ready."""
        if isinstance(self.tokenizer, Tokenizer):
            return None
        return digest(FORMAT_VERSION, self.identity, self.tokenizer.identity(), self.vocab_size)

    def tokens_identity(self, tokenizer: Tokenizer) -> str:
        """Digest what the tokens are made from: by the tokenizer itself, so that a checkpoint's finds them too."""
        framing = [one.identity() for one in (self.meta, self.chat) if one is not None]
        return digest(FORMAT_VERSION, self.identity, tokenizer.fingerprint, *framing)

    def refuse_changed(self) -> None:
        """Check that the corpus is still what it was.

        Raises:
            DataError: when a file was changed, added or removed.
        """
        if self.corpus.identity() != self.identity:
            raise DataError("The corpus changed while it was read; nothing was kept. Start again when it is complete.")


@dataclass(frozen=True)
class Preparation(ABC):
    """The way from a corpus to a directory of prepared data, which gets its name when it is complete."""

    wanted: Wanted
    root: Path
    tell: Tell | None = None

    @abstractmethod
    def find(self) -> PreparedData | None:
        """Return the data if they were prepared before, without reading the corpus."""

    @abstractmethod
    def ready_tokenizer(self) -> Tokenizer | None:
        """Return the tokenizer if it was given, or made before by this recipe from this corpus."""

    @abstractmethod
    def keep_tokenizer(self, tokenizer: Tokenizer, scratch: Path) -> None:
        """Keep a tokenizer that was just made for later preparations."""

    @abstractmethod
    def keep(self, scratch: Path, tokenizer: Tokenizer, description: dict[str, Any]) -> Path:
        """Give a complete directory its name; call under the lock. Returns where the data are."""

    def find_or_run(self, place: Path, setting: str) -> PreparedData:
        """Return the data that are there, or make them; one process at a time.

        Args:
            place: What a message names when the disk fails.
            setting: What is to be changed then.
        """
        found = self.find()
        if found is not None:
            return found
        with disk_errors(place, setting):
            self.root.mkdir(parents=True, exist_ok=True)
            with locked(self.root, self.wanted.identity):
                # another process may have made it while this one waited
                return self.find() or self.run()

    def run(self) -> PreparedData:
        """Make everything; call under the lock."""
        with scratch_directory(self.root, self.wanted.identity) as scratch:
            tokenizer = self.tokenizer(scratch)
            tokenizer.save(scratch / "tokenizer.json")
            description = self.encode(tokenizer, scratch)
            self.wanted.refuse_changed()
            self.describe(scratch, description)
            directory = self.keep(scratch, tokenizer, description)
        return open_prepared(directory)

    def describe(self, scratch: Path, description: dict[str, Any]) -> None:
        """Write the description of stores that are complete, with what else is to be told of them."""
        if self.tell is not None:
            description.update(self.tell(PreparedData(scratch, description)))
        write_description(scratch, description)

    def tokenizer(self, scratch: Path) -> Tokenizer:
        """Return the tokenizer that is there, or make it and keep it."""
        tokenizer = self.ready_tokenizer()
        if tokenizer is None:
            assert isinstance(self.wanted.tokenizer, TokenizerRecipe)
            assert self.wanted.vocab_size is not None
            tokenizer = train_tokenizer(self.wanted.tokenizer, self.wanted.corpus, self.wanted.vocab_size)
            self.wanted.refuse_changed()
            self.keep_tokenizer(tokenizer, scratch)
        if self.wanted.meta is not None:
            refuse_without_separator(tokenizer)
        return tokenizer

    def encode(self, tokenizer: Tokenizer, scratch: Path, shard: Shard | None = None) -> dict[str, Any]:
        """Write the stores of the corpus, or of a shard of it, and return their description."""
        wanted = self.wanted
        written = encode_corpus(wanted.corpus, tokenizer, scratch, meta=wanted.meta, chat=wanted.chat, shard=shard)
        report = wanted.corpus.report()
        for line in (line for part in report.values() for line in report_lines(part)):
            print(line, file=sys.stderr)
        with_meta = {} if wanted.meta is None else {"meta": _settings_of(wanted.meta, tokenizer)}
        with_chat = {} if wanted.chat is None else {"chat": wanted.chat.description()}
        return {
            "format_version": FORMAT_VERSION,
            "corpus": wanted.identity,
            "tokenizer": tokenizer.fingerprint,
            "vocab_size": len(tokenizer),
            "separators": {"sos": tokenizer.sos_token, "eos": tokenizer.eos_token},
            **with_meta,
            **with_chat,
            **written,
            "sources": report,
        }


class _InCache(Preparation):
    """A preparation whose directory is named by what it was made from."""

    def find(self) -> PreparedData | None:
        tokenizer = self.ready_tokenizer()
        if tokenizer is None:
            return None
        try:
            return open_prepared(self._directory_of(tokenizer))
        except DataError:
            return None

    def ready_tokenizer(self) -> Tokenizer | None:
        if isinstance(self.wanted.tokenizer, Tokenizer):
            return self.wanted.tokenizer
        try:
            return Tokenizer.from_file(self._tokenizer_file)
        except DataError:
            return None

    def keep_tokenizer(self, tokenizer: Tokenizer, scratch: Path) -> None:
        tokenizer.save(scratch / "tokenizer.json")
        os.replace(scratch / "tokenizer.json", self._tokenizer_file)

    def keep(self, scratch: Path, tokenizer: Tokenizer, description: dict[str, Any]) -> Path:
        directory = self._directory_of(tokenizer)
        if directory.exists():
            shutil.rmtree(directory)  # it was there, and did not open
        scratch.rename(directory)
        return directory

    @property
    def _tokenizer_file(self) -> Path:
        return self.root / f"{self.wanted.recipe_identity}.tokenizer.json"

    def _directory_of(self, tokenizer: Tokenizer) -> Path:
        return self.root / self.wanted.tokens_identity(tokenizer)


def _settings_of(meta: Meta, tokenizer: Tokenizer) -> dict[str, Any]:
    return {"max_meta_len": meta.max_meta_len, "drop": meta.drop, "separator_id": tokenizer.sep_id}
