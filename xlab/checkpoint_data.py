"""The data of a checkpoint's run: its tokenizer, and the objects that its settings stand for."""

from collections.abc import Iterator
from typing import Any

from xlab import checkpoints, factories
from xlab.checkpoints import Checkpoint
from xlab.data.chat import Chat
from xlab.data.meta import Meta
from xlab.data.packing import Packing
from xlab.data.sources import Source
from xlab.data.splits import Splits
from xlab.data.tokenizers import Tokenizer, TokenizerRecipe
from xlab.errors import CheckpointError, ConfigError


class CheckpointTokenizer(TokenizerRecipe):
    """The tokenizer that a checkpoint carries.

    Args:
        path: a ``.ckpt``, a ``.pt``, or a run folder.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def tokenizer(self) -> Tokenizer:
        """Read it."""
        return Tokenizer.from_json(checkpoints.read(self.path).tokenizer)

    def vocab_size_of(self, asked: int | None) -> int:
        size = len(self.tokenizer())
        if asked is not None and asked != size:
            raise ConfigError(f"data.vocab_size is {asked}, but the tokenizer of {self.path} has {size} tokens")
        return size

    def make(self, texts: Iterator[str], vocab_size: int) -> Tokenizer:
        return self.tokenizer()

    def identity(self) -> str:
        return self.tokenizer().fingerprint

    def has_separator(self) -> bool:
        return self.tokenizer().sep_id is not None


def data_arguments(checkpoint: Checkpoint) -> dict[str, Any]:
    """Make the datamodule's arguments, its tokenizer aside, of a checkpoint's settings; no corpus is read.

    Raises:
        CheckpointError: for a part that cannot be built, or is of the wrong kind.
        TypeError: for settings that fit no splits, meta or chat.
    """
    return {name: _argument(name, value) for name, value in checkpoint.data.items()}


def _argument(name: str, settings: Any) -> Any:
    """Make the object that one of the datamodule's plain settings stands for."""
    if name == "splits":
        return Splits(**settings)
    if name in ("meta", "chat"):
        kind = Meta if name == "meta" else Chat
        return None if settings is None else kind(**settings)
    try:
        made = factories.build(settings) if isinstance(settings, dict) and "class_path" in settings else settings
    except (TypeError, ConfigError) as error:
        raise CheckpointError(f"the checkpoint's data.{name} cannot be built: {error}") from error
    if name == "packing" and not isinstance(made, Packing):
        raise CheckpointError(f"data.packing is {settings!r}, which is no packing of documents")
    if name.endswith("source") and not isinstance(made, Source | None):
        raise CheckpointError(f"data.{name} is {settings!r}, which is no source of documents")
    return made
