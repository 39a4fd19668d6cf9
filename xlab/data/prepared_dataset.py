"""Prepared datasets: ROOT/NAME/1, 2, …, a new number for new content; made whole, or by many jobs in shards."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xlab.data.cache_directory import disk_errors, locked, scratch_directory
from xlab.data.chat import Chat, same_chat
from xlab.data.digest import digest
from xlab.data.encoding import Shard, refuse_empty
from xlab.data.meta import Meta, same_meta
from xlab.data.preparation import Preparation, Tell, Wanted
from xlab.data.prepared import PreparedData, open_prepared, read_description
from xlab.data.splits import SPLITS, Corpus
from xlab.data.store_writing import Lengths
from xlab.data.tokenizers import Tokenizer, TokenizerRecipe
from xlab.data.tokenizers.recipe import made_without_text
from xlab.errors import DataError

_NUMBER = re.compile(r"[1-9]\d*")
_SETTING = "--datasets-root"


def prepare_dataset(
    corpus: Corpus,
    tokenizer: Tokenizer | TokenizerRecipe,
    *,
    folder: str | Path,
    vocab_size: int | None = None,
    meta: Meta | None = None,
    chat: Chat | None = None,
    tell: Tell | None = None,
) -> tuple[PreparedData, bool]:
    """Prepare a corpus as a numbered dataset; or find it, by what it is made from, or else by its fingerprint.

    Several processes may call this at once: one works, the others wait for it. Nothing is left behind by an error.

    Args:
        corpus: The documents and their splits.
        tokenizer: A ready tokenizer, or how to make one from the training documents.
        folder: The dataset's own folder, in which there will be 1, 2, … .
        vocab_size: The size asked of a recipe.
        meta: How the documents' meta come before them; None leaves them out.
        chat: How conversations become tokens, settled; None refuses them.
        tell: Gives what else is to be in the description, such as the number of samples.

    Returns:
        The dataset, and whether it is new.

    Raises:
        ConfigError: when the recipe cannot give ``vocab_size``.
        DataError: when the corpus is missing, empty, broken or changing, or the disk is full.
    """
    folder = Path(folder)
    before = set(_numbers(folder))
    wanted = Wanted.of(corpus, tokenizer, vocab_size=vocab_size, meta=meta, chat=chat)
    prepared = _Numbered(wanted, folder / ".preparing", tell).find_or_run(folder, _SETTING)
    return prepared, int(prepared.directory.name) not in before


def prepare_shard(
    corpus: Corpus,
    tokenizer: Tokenizer | TokenizerRecipe,
    shard: Shard,
    *,
    folder: str | Path,
    vocab_size: int | None = None,
    meta: Meta | None = None,
    chat: Chat | None = None,
    tell: Tell | None = None,
) -> tuple[PreparedData | None, list[int]]:
    """Prepare a part of a numbered dataset; the job that finds all parts there makes them one, and rewrites nothing.

    Every job reads the whole corpus, and encodes its part. Jobs may run at the same time, and a job that is done
    again finds its part.

    Args:
        corpus: The documents and their splits, the same for every job.
        tokenizer: The same for every job, ready: nothing is trained here.
        shard: Which part.
        folder: The dataset's own folder, on a disk that all jobs share.
        vocab_size: The size asked of a recipe.
        meta: How the documents' meta come before them; None leaves them out.
        chat: How conversations become tokens, settled; None refuses them.
        tell: Gives what else is to be in the description, such as the number of samples.

    Returns:
        The dataset when it is complete, or None and the parts that are still missing.

    Raises:
        ConfigError: when the tokenizer is still to be trained.
        DataError: when the corpus is missing, empty, broken or changing, or the disk is full.
    """
    folder = Path(folder)
    if isinstance(tokenizer, TokenizerRecipe):
        tokenizer = made_without_text(tokenizer, vocab_size, "a shard")
    wanted = Wanted.of(corpus, tokenizer, vocab_size=None, meta=meta, chat=chat)
    preparation = _Sharded(wanted, folder / ".preparing", tell, shard=shard)
    found = preparation.find()
    if found is not None:
        return found, []
    with disk_errors(folder, _SETTING):
        return preparation.add()


@dataclass(frozen=True)
class _Numbered(Preparation):
    """A preparation whose directory is the next number that is free; ``root`` is where it is worked on."""

    def find(self) -> PreparedData | None:
        for directory, description in self._described():
            if "shards" not in description and self._is_wanted(description):
                return _opened(directory)
        return None

    def ready_tokenizer(self) -> Tokenizer | None:
        if isinstance(self.wanted.tokenizer, Tokenizer):
            return self.wanted.tokenizer
        for directory, description in self._described():
            if description.get("made_by") == self.wanted.recipe_identity and (found := _opened(directory)):
                return found.tokenizer
        return None

    def keep_tokenizer(self, tokenizer: Tokenizer, scratch: Path) -> None:
        """Keep it with the data alone: a dataset is made once."""

    def encode(self, tokenizer: Tokenizer, scratch: Path, shard: Shard | None = None) -> dict[str, Any]:
        made_by = self.wanted.recipe_identity
        return {**super().encode(tokenizer, scratch, shard), **({} if made_by is None else {"made_by": made_by})}

    def keep(self, scratch: Path, tokenizer: Tokenizer, description: dict[str, Any]) -> Path:
        with locked(self.root, digest("numbers")):  # another corpus may be done at this moment
            for directory, other in self._described():
                if other.get("fingerprint") == description["fingerprint"] and _opened(directory):
                    return directory  # the same content from other files
            directory = self.root.parent / str(max(_numbers(self.root.parent), default=0) + 1)
            scratch.rename(directory)
            return directory

    def _is_wanted(self, description: dict[str, Any]) -> bool:
        if description.get("corpus") != self.wanted.identity:
            return False
        if not same_meta(description, self.wanted.meta) or not same_chat(description, self.wanted.chat):
            return False
        if isinstance(self.wanted.tokenizer, Tokenizer):
            return bool(description.get("tokenizer") == self.wanted.tokenizer.fingerprint)
        return description.get("made_by") == self.wanted.recipe_identity

    def _described(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """List the datasets that are there with their descriptions, those that cannot be read left out."""
        for number in sorted(_numbers(self.root.parent)):
            directory = self.root.parent / str(number)
            try:
                yield directory, read_description(directory)
            except (OSError, ValueError):
                continue


@dataclass(frozen=True)
class _Sharded(_Numbered):
    """A part of a dataset; parts gather in a directory that becomes the dataset when none is missing."""

    shard: Shard = field(kw_only=True)

    def find(self) -> PreparedData | None:
        for directory, description in self._described():
            if description.get("shards") == self.shard.of and self._is_wanted(description):
                return _opened(directory)
        return None

    def add(self) -> tuple[PreparedData | None, list[int]]:
        """Make this part if it is missing, and the dataset if then no part is."""
        self._gathered.mkdir(parents=True, exist_ok=True)
        with locked(self.root, digest(self._identity, self.shard.index)):
            if not self._note(self.shard.index).exists() and (found := self.find()) is None:
                self._make()
        with locked(self.root, self._identity):
            found = self.find()
            if found is not None:  # another job was the last
                return found, []
            missing = [index for index in range(self.shard.of) if not self._note(index).exists()]
            return (None, missing) if missing else (self._join(), [])

    def _make(self) -> None:
        with scratch_directory(self.root, digest(self._identity, self.shard.index)) as scratch:
            tokenizer = self.tokenizer(scratch)
            description = self.encode(tokenizer, scratch, self.shard)
            self.wanted.refuse_changed()
            for file in sorted(scratch.iterdir()):
                os.replace(file, self._gathered / file.name)
            tokenizer.save(scratch / "tokenizer.json")
            os.replace(scratch / "tokenizer.json", self._gathered / "tokenizer.json")
            # the note comes last: it says that the part is whole
            (scratch / "note").write_text(json.dumps(description), encoding="utf-8")
            os.replace(scratch / "note", self._note(self.shard.index))

    def _join(self) -> PreparedData:
        notes = [self._note(index) for index in range(self.shard.of)]
        parts = [json.loads(note.read_text(encoding="utf-8")) for note in notes]
        description = _joined(parts)
        refuse_empty(description["splits"])
        self.describe(self._gathered, description)
        self._refuse_damaged()
        directory = self.keep(self._gathered, self._tokenizer, description)
        for note in notes:
            (directory / note.name).unlink(missing_ok=True)
        shutil.rmtree(self._gathered, ignore_errors=True)  # if the same content was there already
        return open_prepared(directory)

    def _refuse_damaged(self) -> None:
        """Let the parts be made again whose files are not what their notes say, before they get a number."""
        try:
            open_prepared(self._gathered)
        except DataError as error:
            for index in range(self.shard.of):
                self._note(index).unlink(missing_ok=True)
            raise DataError(
                f"{error} The parts were damaged after they had been made; make every part again."
            ) from error

    def _note(self, index: int) -> Path:
        return self._gathered / f"part{Shard(index, self.shard.of).suffix}.json"

    @property
    def _tokenizer(self) -> Tokenizer:
        assert isinstance(self.wanted.tokenizer, Tokenizer)
        return self.wanted.tokenizer

    @property
    def _identity(self) -> str:
        return digest(self.wanted.tokens_identity(self._tokenizer), self.shard.of)

    @property
    def _gathered(self) -> Path:
        return self.root / f"{self._identity}-of-{self.shard.of:05}"


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Describe all parts together; splits that no part has a document of are left out."""
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        hashed.update(part["fingerprint"].encode())
    splits: dict[str, Any] = {}
    for split in SPLITS:
        of_split = [part["splits"][split] for part in parts if split in part["splits"]]
        counts = {key: sum(sizes[key] for sizes in of_split) for key in ("documents", "tokens", "bytes")}
        if counts["documents"]:
            lengths = Lengths.joined([sizes["lengths"] for sizes in of_split])
            splits[split] = {**counts, "lengths": lengths.description()}
            if told := [sizes["conversations"] for sizes in of_split if "conversations" in sizes]:
                splits[split]["conversations"] = {key: sum(one[key] for one in told) for key in told[0]}
    return {**parts[0], "shards": len(parts), "splits": splits, "fingerprint": hashed.hexdigest()}


def _numbers(folder: Path) -> list[int]:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return [int(name) for name in names if _NUMBER.fullmatch(name)]


def _opened(directory: Path) -> PreparedData | None:
    """Open a dataset; None where it is damaged: then it is made again under another number."""
    try:
        return open_prepared(directory)
    except DataError:
        return None
