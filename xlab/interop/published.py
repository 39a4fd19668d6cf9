"""A published model's folder, local or fetched from the hub: its configuration, its settings here, its weights."""

import json
import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from xlab.errors import CheckpointError
from xlab.interop.errors import ConversionError
from xlab.interop.families import Family, family_of
from xlab.interop.safetensors_folder import INDEX, SINGLE, SafetensorsFolder
from xlab.interop.xlab_folder import is_xlab_folder

CONFIG = "config.json"
_GENERATION, _TOKENIZER = "generation_config.json", "tokenizer_config.json"
_TEMPLATE = "chat_template.jinja"
# what is fetched for the settings, and for the weights beside them: no pickles, and no second copy in another layout
_SETTINGS = [CONFIG, _GENERATION, _TOKENIZER, _TEMPLATE]
_WEIGHTS = [SINGLE, INDEX, "model-*-of-*.safetensors"]


class PublishedModel:
    """A model as Hugging Face's libraries lay it out; nothing is read before it is asked for.

    Args:
        source: a local folder, the config.json of one, or a model's name on the hub, such as openai-community/gpt2.
    """

    def __init__(self, source: str | Path) -> None:
        self.source = str(source)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config.json.

        Raises:
            CheckpointError: if there is none, or it is no JSON object.
        """
        if not self.source:
            raise CheckpointError("the name of a published model is empty; give a folder, or a name on the hub")
        local = Path(self.source).expanduser()
        if is_xlab_folder(local):
            raise CheckpointError(
                f"{self.source} is a folder of XLab's own, not a published one; make a checkpoint of it: ./manage.py "
                f"import-checkpoint {self.source}, then --model.init_from"
            )
        if local.is_file() and local.suffix == ".json":
            return _json(local)
        if local.is_file():
            raise CheckpointError(
                f"{self.source} is a file, and no config.json; name its folder, or make a checkpoint of a "
                f"GGUF file: ./manage.py import-checkpoint {self.source}, then --model.init_from"
            )
        folder = self._folder(_SETTINGS)
        if not (folder / CONFIG).is_file():
            raise CheckpointError(f"{self.source} has no {CONFIG}, which says what the model is made of")
        return _json(folder / CONFIG)

    @cached_property
    def family(self) -> Family:
        """The family that the config.json names.

        Raises:
            ConversionError: if XLab does not know it.
        """
        try:
            return family_of(self.config.get("model_type"))
        except ConversionError as error:
            raise ConversionError(f"{self.source}: {error}") from error

    @cached_property
    def settings(self) -> dict[str, Any]:
        """``XLabModel``'s settings, as plain data.

        Raises:
            ConversionError: naming everything that XLab has no equal for.
        """
        family = self.family
        try:
            return family.settings(self.config)
        except ConversionError as error:
            raise ConversionError(f"{self.source}: {error}") from error

    def weights(self) -> SafetensorsFolder:
        """Open the safetensors files.

        Raises:
            CheckpointError: if there are none, or one is damaged.
        """
        return SafetensorsFolder(self.folder())

    def folder(self) -> Path:
        """Give the local folder, or the one into which the hub's files are fetched.

        Raises:
            CheckpointError: if there is none.
        """
        return self._folder(_SETTINGS + _WEIGHTS)

    def token_id(self, role: str) -> int | None:
        """Give the id of the ``bos``, ``eos`` or ``pad`` token that the configuration names; of several the first."""
        for content in (self.config, self._generation):
            told = content.get(f"{role}_token_id")
            told = told[0] if isinstance(told, list) and told else told
            if type(told) is int and 0 <= told < self.settings["vocab_size"]:
                return told
        return None

    @cached_property
    def chat_template(self) -> str | None:
        """How the model was shown chats, as Jinja text; None where it was not.

        Raises:
            CheckpointError: if the file that would say so is damaged.
        """
        folder = self._folder(_SETTINGS)
        if (folder / _TEMPLATE).is_file():
            return _text(folder / _TEMPLATE)
        told = _json(folder / _TOKENIZER).get("chat_template") if (folder / _TOKENIZER).is_file() else None
        if isinstance(told, list):  # several, by names
            told = {entry.get("name"): entry.get("template") for entry in told if isinstance(entry, dict)}.get(
                "default"
            )
        return told if isinstance(told, str) else None

    @cached_property
    def _generation(self) -> Mapping[str, Any]:
        path = self._folder(_SETTINGS) / _GENERATION
        return _json(path) if path.is_file() else {}

    def _folder(self, patterns: list[str]) -> Path:
        """Give the local folder that is meant, or one into which the hub's files were fetched."""
        folder = Path(self.source).expanduser()
        if folder.is_dir():
            return folder
        if folder.exists():
            return folder.parent
        if self.source.startswith(("/", ".", "~")) or self.source.count("/") > 1 or "://" in self.source:
            raise CheckpointError(f"there is no folder {self.source} (looked from {Path.cwd()})")
        import huggingface_hub

        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # what goes wrong is raised, and reported once
        try:
            return Path(huggingface_hub.snapshot_download(self.source, allow_patterns=patterns))
        except Exception as error:  # the library's errors have no common root; all of them are about this name
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CheckpointError(
                f"{self.source} is no folder here, and could not be fetched from the hub: {first} If the hub is out of "
                "reach, name a local copy of the model's folder"
            ) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is no text: it is not UTF-8 at byte {error.start}") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no whole JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no JSON object")
    return content
