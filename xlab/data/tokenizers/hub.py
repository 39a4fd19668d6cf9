"""The tokenizer of a model on the Hugging Face hub, or of a local folder laid out like one."""

import json
import logging
from pathlib import Path

import tokenizers

from xlab.data.tokenizers.files import TokenizerFile, VocabularyAndMerges
from xlab.data.tokenizers.recipe import ReadyTokenizer
from xlab.data.tokenizers.sentencepiece_model import SentencePieceModel
from xlab.data.tokenizers.tokenizer import read_text
from xlab.errors import ConfigError, DataError

_CONFIG = "tokenizer_config.json"
_FILES = ["tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model", _CONFIG]
_ROLES = {"eos_token": "eos_token", "sos_token": "bos_token", "pad_token": "pad_token"}  # ours, and the hub's


class HubTokenizer(ReadyTokenizer):
    """A model's tokenizer: its tokenizer.json, else its vocab.json with merges.txt, else its tokenizer.model.

    Start, end and padding token are those of its tokenizer_config.json, each in one role only: GPT-2's
    ``<|endoftext|>`` is its end, and gets a start beside it. No code that a repository brings along is run.

    Args:
        path: A model's name on the hub, such as openai-community/gpt2, or a local folder.
        revision: A branch, tag or commit on the hub; a commit makes a run repeatable.
        sos_token: Which of its tokens starts a document, over what the model's own settings say.
        eos_token: Which one ends a document.
        pad_token: Which one fills what is left of a batch.
    """

    def __init__(
        self,
        path: str,
        revision: str | None = None,
        sos_token: str | None = None,
        eos_token: str | None = None,
        pad_token: str | None = None,
    ) -> None:
        if not path:
            raise ConfigError("HubTokenizer's path is empty; name a model on the hub, or a folder.")
        super().__init__(path, sos_token=sos_token, eos_token=eos_token, pad_token=pad_token)
        self._path = path
        self._revision = revision

    def read(self) -> tuple[tokenizers.Tokenizer, dict[str, str | None]]:
        folder = self._folder()
        has = {name for name in _FILES if (folder / name).is_file()}
        if "tokenizer.json" in has:
            found: ReadyTokenizer = TokenizerFile(str(folder / "tokenizer.json"))
        elif {"vocab.json", "merges.txt"} <= has:
            found = VocabularyAndMerges(str(folder / "vocab.json"), str(folder / "merges.txt"))
        elif "tokenizer.model" in has:
            found = SentencePieceModel(str(folder / "tokenizer.model"))
        else:
            half = "a vocab.json without its merges.txt" if "vocab.json" in has else "no tokenizer"
            raise DataError(
                f"{self._path} has {half}; it needs tokenizer.json, vocab.json with merges.txt, or tokenizer.model."
            )
        backend, proposed = found.read()
        return backend, _told_roles(folder / _CONFIG) | proposed if _CONFIG in has else proposed

    def _folder(self) -> Path:
        """Return the local folder that is meant, or one into which the hub's files were fetched."""
        folder = Path(self._path).expanduser()
        if folder.is_dir():
            return folder
        if folder.exists():
            raise DataError(f"{self._path} is a file; HubTokenizer reads a folder. Use TokenizerFile for it.")
        if self._path.startswith(("/", ".", "~")) or self._path.count("/") > 1:
            raise DataError(f"{self._path} is no folder (looked from {Path.cwd()}). Set data.tokenizer.path.")
        return self._fetched()

    def _fetched(self) -> Path:
        import huggingface_hub

        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # what goes wrong is raised, and reported once
        try:
            return Path(huggingface_hub.snapshot_download(self._path, revision=self._revision, allow_patterns=_FILES))
        except Exception as error:  # the library's errors have no common root; all of them are about this name
            raise DataError(
                f"The tokenizer of {self._path} could not be fetched: {str(error).strip().splitlines()[0]} If the hub "
                "is out of reach, set data.tokenizer.path to a local copy of the model's folder."
            ) from error


def _told_roles(path: Path) -> dict[str, str | None]:
    """Read which special tokens a tokenizer_config.json names; the end comes first, since a model has one."""
    try:
        settings = json.loads(read_text(path, "a model's settings in JSON"))
        named = {ours: settings.get(theirs) for ours, theirs in _ROLES.items()}
    except (json.JSONDecodeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is no whole JSON object: {error}. Fetch it again.") from error
    # written as the token, or as an object of its settings
    contents = {role: token.get("content") if isinstance(token, dict) else token for role, token in named.items()}
    return {role: token for role, token in contents.items() if isinstance(token, str)}
