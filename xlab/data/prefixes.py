"""Train from tokens that are stored already: prepared datasets, or files of Megatron's format made elsewhere."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from xlab.data.chat import ANSWERS, Chat, same_chat
from xlab.data.digest import digest
from xlab.data.meta import Meta, refuse_without_separator, same_meta
from xlab.data.prepared import StoredSplits, check_answers, read_description
from xlab.data.sharded_store import open_store
from xlab.data.token_reader import TokenReader
from xlab.data.tokenizers import Tokenizer, TokenizerFile, TokenizerRecipe
from xlab.data.tokenizers.recipe import made_without_text
from xlab.errors import ConfigError, DataError

_SAMPLES, _SAMPLE = 64, 1024  # places that are looked at, and tokens at each


def tokenizer_beside(prefix: str | Path, recipe: TokenizerRecipe) -> TokenizerRecipe:
    """Return how to come by the tokenizer of stored tokens: the tokenizer.json beside them instead of training one.

    A recipe that trains none stays, and is compared with the tokens when they are opened.

    Raises:
        ConfigError: when a tokenizer would be trained, and there is none beside the tokens.
        DataError: when then the tokens are not there either.
    """
    path = Path(prefix).expanduser()
    beside = path.parent / "tokenizer.json"
    if not recipe.is_trained or beside.is_file():
        return TokenizerFile(str(beside)) if recipe.is_trained else recipe
    _opened("train", path)
    raise ConfigError(
        f"There is no tokenizer.json beside {path}, and none can be trained on tokens: set data.tokenizer to what they "
        "were made with, such as TokenizerFile, HubTokenizer or TiktokenEncoding."
    )


class PrefixedData(StoredSplits):
    """The tokens of splits that were stored by ``prepare-data``, or by others in Megatron's format.

    What has a description.json is compared with it; of other tokens some thousands are looked at, from the beginning
    to the end.

    Args:
        prefixes: For each split what its PREFIX.bin and PREFIX.idx, or its set of shards, are called.
        tokenizer: What the tokens were made with, ready, or a recipe that needs no text.
        vocab_size: The size asked of a recipe.
        meta: How meta stand before the documents; None where they have none.
        chat: How conversations were made tokens, settled; None where there are none.

    Raises:
        ConfigError: when the tokenizer is still to be trained.
        DataError: when a file is missing or damaged, or was made with another tokenizer or other meta.
    """

    def __init__(
        self,
        prefixes: Mapping[str, str | Path],
        tokenizer: Tokenizer | TokenizerRecipe,
        *,
        vocab_size: int | None = None,
        meta: Meta | None = None,
        chat: Chat | None = None,
    ) -> None:
        self._prefixes = {split: Path(prefix).expanduser() for split, prefix in prefixes.items()}
        self._stores = {split: _opened(split, prefix) for split, prefix in self._prefixes.items()}
        if isinstance(tokenizer, TokenizerRecipe):
            tokenizer = made_without_text(tokenizer, vocab_size, "training from a prefix")
        self._tokenizer = tokenizer
        if meta is not None:
            refuse_without_separator(tokenizer)
        self._descriptions = {split: _description_of(prefix) for split, prefix in self._prefixes.items()}
        for split, description in self._descriptions.items():
            if description is None:
                self._check_foreign(split)
            else:
                self._check_prepared(split, description, meta, chat)
            if chat is not None:
                check_answers(self._stores[split], self.answers(split))

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @cached_property
    def fingerprint(self) -> str:
        """Of a prepared dataset its own, of others a digest of their sizes and of what was looked at."""
        of_splits = {
            split: self._looked_at(split) if description is None else str(description["fingerprint"])
            for split, description in self._descriptions.items()
        }
        own_place = all(self._is_own(split, prefix) for split, prefix in self._prefixes.items())
        distinct = set(of_splits.values())
        return distinct.pop() if own_place and len(distinct) == 1 else digest(sorted(of_splits.items()))

    @cached_property
    def description(self) -> dict[str, Any]:  # type: ignore[override]
        splits = {}
        for split, store in self._stores.items():
            n_bytes = self.n_bytes(split)
            counted = {} if n_bytes is None else {"bytes": n_bytes}
            splits[split] = {"documents": len(store), "tokens": store.n_tokens, **counted}
        return {"tokenizer": self._tokenizer.fingerprint, "splits": splits, "fingerprint": self.fingerprint}

    def n_documents(self, split: str) -> int:
        return len(self._stores[split]) if split in self._stores else 0

    def n_bytes(self, split: str) -> int | None:
        description = self._descriptions.get(split)
        return None if description is None else int(description["splits"][self._prefixes[split].name]["bytes"])

    def store(self, split: str) -> TokenReader:
        if not self.n_documents(split):
            raise DataError(f"There are no {split} documents: data.{split}_data_prefix names none.")
        return self._stores[split]

    def answers(self, split: str) -> TokenReader:
        prefix = self._prefixes[split]
        try:
            return open_store(prefix.with_name(f"{prefix.name}.{ANSWERS}"))
        except DataError as error:
            raise DataError(
                f"data.chat is set, but nothing tells which tokens of {prefix} are answers: {error} Prepare the "
                "conversations with prepare-data and data.chat, or leave data.chat out."
            ) from error

    def _check_prepared(self, split: str, description: dict[str, Any], meta: Meta | None, chat: Chat | None) -> None:
        prefix, store = self._prefixes[split], self._stores[split]
        if not same_chat(description, chat):
            stored = description.get("chat")
            told = (
                "plain texts: set data.chat to null"
                if stored is None
                else (
                    f"conversations, of up to {stored.get('max_tokens')} tokens and with a template: set data.chat, "
                    "such as --data.chat.prompt_in_loss false, and leave its max_tokens and template out"
                )
            )
            raise DataError(f"{prefix} holds {told}.")
        if not same_meta(description, meta):
            stored = description.get("meta")
            settings = "null" if stored is None else f"max_meta_len {stored['max_meta_len']} and drop {stored['drop']}"
            raise DataError(f"{prefix} was prepared with other settings of data.meta; set it to {settings}.")
        if description.get("tokenizer") != self._tokenizer.fingerprint:
            raise DataError(
                f"{prefix} was prepared with another tokenizer than this run's ({len(self._tokenizer)} tokens): use "
                f"{prefix.parent / 'tokenizer.json'}, or prepare the corpus anew with this one."
            )
        told = description["splits"][prefix.name]
        if (len(store), store.n_tokens) != (told["documents"], told["tokens"]):
            raise DataError(f"{prefix} does not hold what {prefix.parent / 'description.json'} tells; make it again.")

    def _check_foreign(self, split: str) -> None:
        tokens = _looked_at(self._stores[split])
        largest = int(tokens.max(initial=0))
        if largest >= len(self._tokenizer) or tokens.min(initial=0) < 0:
            wrong = largest if largest >= len(self._tokenizer) else int(tokens.min())
            raise DataError(
                f"{self._prefixes[split]} holds token {wrong}, but the vocabulary has {len(self._tokenizer)}: "
                "set data.tokenizer to what the tokens were made with."
            )

    def _looked_at(self, split: str) -> str:
        store = self._stores[split]
        return digest(len(store), store.n_tokens, _looked_at(store).tolist(), self._tokenizer.fingerprint)

    def _is_own(self, split: str, prefix: Path) -> bool:
        return self._descriptions[split] is not None and prefix.name == split


def chat_beside(prefix: str | Path, chat: Chat) -> Chat:
    """Fill in of these settings what was left out, as ``prepare-data`` had it for the tokens of a prefix."""
    description = _description_of(Path(prefix).expanduser()) or {}
    stored = description.get("chat") or {}
    template, max_tokens = stored.get("template"), stored.get("max_tokens")
    return replace(
        chat,
        template=template if chat.template is None else chat.template,
        max_tokens=max_tokens if chat.max_tokens is None else chat.max_tokens,
    )


def _opened(split: str, prefix: Path) -> TokenReader:
    try:
        return open_store(prefix)
    except DataError as error:
        raise DataError(f"data.{split}_data_prefix: {error}") from error


def _description_of(prefix: Path) -> dict[str, Any] | None:
    """Read what ``prepare-data`` wrote of a prefix; None for tokens made elsewhere."""
    try:
        description = read_description(prefix.parent)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(
            f"{prefix.parent / 'description.json'} cannot be read: {error}; prepare the data again."
        ) from error
    # a folder may hold others' files beside, and others' descriptions
    splits = description.get("splits")
    if not isinstance(splits, dict) or prefix.name not in splits or "fingerprint" not in description:
        return None
    sizes, meta = splits[prefix.name], description.get("meta")
    counts = [sizes.get(name) for name in ("documents", "tokens", "bytes")] if isinstance(sizes, dict) else [None]
    is_meta = meta is None or (isinstance(meta, dict) and {"max_meta_len", "drop"} <= meta.keys())
    if not all(isinstance(count, int) for count in counts) or not is_meta:
        raise DataError(
            f"{prefix.parent / 'description.json'} is not as prepare-data writes it; prepare the data again."
        )
    return description


def _looked_at(store: TokenReader) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return tokens from places all over a store, its ends included."""
    n_tokens = store.n_tokens
    if n_tokens <= _SAMPLES * _SAMPLE:
        return store.gather(np.arange(n_tokens))
    firsts = np.linspace(0, n_tokens - _SAMPLE, _SAMPLES).astype(np.int64)
    return store.gather(firsts[:, None] + np.arange(_SAMPLE)).reshape(-1)
