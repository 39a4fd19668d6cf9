"""Tokenizers made elsewhere, from files: tokenizer.json, or GPT-2's vocab.json and merges.txt."""

import json
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from xlab.data.tokenizers import pre_tokenization
from xlab.data.tokenizers.byte_level import byte_level
from xlab.data.tokenizers.recipe import ReadyTokenizer
from xlab.data.tokenizers.tokenizer import read_json, read_text
from xlab.errors import ConfigError, DataError


class TokenizerFile(ReadyTokenizer):
    """A tokenizer.json made elsewhere; where it has no start, end or padding token, XLab's are added at its end.

    Args:
        path: The file.
        sos_token: Which of its tokens starts a document; None looks for one by the usual names, or adds ``<|sos|>``.
        eos_token: Which one ends a document; else ``<|eos|>`` is added.
        pad_token: Which one fills what is left of a batch; else ``<|pad|>`` is added.
    """

    def __init__(
        self, path: str, sos_token: str | None = None, eos_token: str | None = None, pad_token: str | None = None
    ) -> None:
        if not path:
            raise ConfigError("TokenizerFile's path is empty; name a tokenizer.json.")
        super().__init__(path, sos_token=sos_token, eos_token=eos_token, pad_token=pad_token)
        self._path = path

    def read(self) -> tuple[tokenizers.Tokenizer, dict[str, str | None]]:
        if Path(self._path).expanduser().is_dir():
            raise DataError(f"{self._path} is a folder, not a tokenizer.json; HubTokenizer reads folders.")
        backend, roles = read_json(self._path)
        return backend, dict(roles)


class VocabularyAndMerges(ReadyTokenizer):
    """Byte-level BPE as GPT-2 wrote it: the tokens and their ids in one file, the merges in another.

    Args:
        vocab: The vocab.json (or encoder.json).
        merges: The merges.txt (or vocab.bpe).
        pattern: Where text is cut before pairs are merged: gpt2, cl100k, o200k, or a regular expression of your own.
        sos_token: Which of its tokens starts a document; None looks for one by the usual names, or adds ``<|sos|>``.
        eos_token: Which one ends a document; else ``<|eos|>`` is added.
        pad_token: Which one fills what is left of a batch; else ``<|pad|>`` is added.
    """

    def __init__(
        self,
        vocab: str,
        merges: str,
        pattern: str = "gpt2",
        sos_token: str | None = None,
        eos_token: str | None = None,
        pad_token: str | None = None,
    ) -> None:
        for setting, value in {"vocab": vocab, "merges": merges}.items():
            if not value:
                raise ConfigError(f"VocabularyAndMerges' {setting} is empty; name the file.")
        pre_tokenization.check(pattern, None)
        super().__init__(vocab, sos_token=sos_token, eos_token=eos_token, pad_token=pad_token)
        self._vocab = vocab
        self._merges = merges
        self._pattern = pattern

    def read(self) -> tuple[tokenizers.Tokenizer, dict[str, str | None]]:
        vocabulary = _read_vocabulary(self._vocab)
        merges = _read_merges(self._merges, vocabulary)
        backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
        backend.pre_tokenizer = byte_level(self._pattern)
        backend.decoder = decoders.ByteLevel()
        return backend, {}


def _read_vocabulary(path: str) -> dict[str, int]:
    try:
        vocabulary = json.loads(read_text(path, "a vocabulary in JSON"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path} is no whole JSON file: {error}. Fetch it again.") from error
    if not isinstance(vocabulary, dict) or not all(type(token_id) is int for token_id in vocabulary.values()):
        raise DataError(f'{path} is no vocabulary: it must be one JSON object of tokens and ids, such as {{"!": 0}}.')
    if not vocabulary or min(vocabulary.values()) < 0 or len(set(vocabulary.values())) < len(vocabulary):
        raise DataError(f"{path} is no vocabulary: its ids must be numbers from 0 on, each of one token.")
    missing = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - vocabulary.keys())
    if missing:
        raise DataError(
            f"{path} lacks {len(missing)} of the 256 bytes ({missing[0]!r} is one), so text would be lost: it is no "
            "byte-level vocabulary. Read the tokenizer.json of its model."
        )
    return vocabulary


def _read_merges(path: str, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    merges = []
    for number, line in enumerate(
        read_text(path, "a list of merges").split("\n"), 1
    ):  # str.splitlines knows ends that are letters here
        line = line.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        left, _, right = line.partition(" ")
        if not left or not right or " " in right:
            raise DataError(f"{path}, line {number}: {line!r} is no merge; it must be two tokens with a space between.")
        unknown = next((token for token in (left, right, left + right) if token not in vocabulary), None)
        if unknown is not None:
            raise DataError(
                f"{path}, line {number}: {line!r} needs the token {unknown!r}, which is not in the vocabulary; "
                "the two files do not belong together."
            )
        merges.append((left, right))
    if not merges:
        raise DataError(f"{path} has no merges; every text would be single bytes. Fetch it again.")
    return merges
