"""Published models as XLab's: a checkpoint of a folder, a decoder filled from it, and what a run takes over from it."""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from xlab import __version__, checkpoints, factories
from xlab.checkpoints import Checkpoint
from xlab.errors import CheckpointError, ConfigError
from xlab.interop import xlab_folder
from xlab.interop.errors import ConversionError
from xlab.interop.families import differences, normal
from xlab.interop.families.conversion import to_ours
from xlab.interop.families.normal_form import NUMBERS, PARTS
from xlab.interop.published import PublishedModel
from xlab.interop.vocabulary import EMBEDDING, PretrainedTokenizer, new_start, with_rows
from xlab.transformer.decoder import Decoder

_TABLE = "position.table.weight"
# how many arguments the model gives each part; those after them are its options
_MADE_WITH = {
    **{"attention": 3, "norm": 1, "feed_forward": 2, "position": 3, "block": 4, "qk_norm": 3},
    **{"value_mix": 5, "embedding_norm": 1},
}


def import_checkpoint(source: str | Path, max_len: int | None = None) -> Checkpoint:
    """Read a published model as a checkpoint; a tensor that XLab lays out as its family does stays where it lies.

    Args:
        source: a local folder, a model's name on the hub, a GGUF file, or a folder of XLab's own safetensors.
        max_len: the context of the model, in tokens; its own if not given.

    Raises:
        CheckpointError: if files are missing or damaged.
        ConversionError: naming every setting that XLab has no equal for, or every tensor that does not fit.
        DataError: if the tokenizer is missing, damaged, or larger than the model's vocabulary.
    """
    if xlab_folder.is_xlab_folder(source):
        return _with_context(xlab_folder.read(source), max_len)
    made = _of_gguf(source) if is_gguf(source) else _of_folder(source)
    settings = spelled_out({**made.model, "vocab_size": len(made.weights[EMBEDDING])})
    data, info = {"seq_len": settings["max_len"]}, {**made.info, "xlab_version": __version__}
    return _with_context(replace(made, model=settings, data=data, info=info), max_len)


def _of_gguf(source: str | Path) -> Checkpoint:
    from xlab.interop import gguf_reading

    read = gguf_reading.read(source)
    n_tokens = max(len(checkpoints.restore_tokenizer(read)), len(read.weights[EMBEDDING]))
    return replace(read, weights=with_rows(read.weights, n_tokens))


def _of_folder(source: str | Path) -> Checkpoint:
    model, recipe = PublishedModel(source), PretrainedTokenizer(str(source))
    settings, tokenizer, n_own = model.settings, recipe.load(), recipe.n_own()
    roles = {tokenizer.pad_id, tokenizer.sos_id, tokenizer.eos_id}
    added = sorted(number for number in roles if number >= n_own)
    start = new_start(tokenizer, n_own, model)
    return Checkpoint(
        path=Path(source),
        model=settings,
        data={},
        tokenizer=tokenizer.to_json(),
        weights=with_rows(_weights(model), len(tokenizer), new_start=start),
        info={
            "imported_from": str(source),
            "model_type": model.family.model_type,
            "added_tokens": added,
            **({} if model.chat_template is None else {"chat_template": model.chat_template}),
        },
        resumable=False,
    )


def fill(decoder: Decoder, source: str | Path) -> None:
    """Copy a published model's weights into a decoder made of its settings.

    Args:
        decoder: it may have a shorter context, and more tokens: XLab's own, behind the model's.
        source: a local folder or a name on the hub.

    Raises:
        CheckpointError: if files are missing or damaged, or the decoder is another model.
        ConversionError: naming every tensor that does not fit the configuration.
    """
    made = import_checkpoint(source)
    weights = with_rows(made.weights, decoder.vocab_size)
    checkpoints.fill(decoder, _with_context(replace(made, weights=weights), decoder.max_len))


def refuse_others(settings: Mapping[str, Any], source: str | Path, option: str) -> None:
    """Refuse settings of a model that are not those of a published configuration; size of vocabulary and context aside.

    Raises:
        ConfigError: naming each that differs.
    """
    own = {key: settings[key] for key in ("vocab_size", "max_len")}
    theirs = {**PublishedModel(source).settings, **own}
    if apart := differences(normal(settings), normal(theirs)):
        raise ConfigError(
            f"model.{option} is {source}, and these settings are not its own: {'; '.join(apart)}. In Python, give "
            f"XLabModel the settings of xlab.interop.huggingface.model_settings({str(source)!r})"
        )


def model_settings(source: str | Path) -> dict[str, Any]:
    """Give ``XLabModel``'s settings of a published configuration, every option of every part spelled out.

    Args:
        source: a local folder, a config.json, or a model's name on the hub.

    Raises:
        CheckpointError: if there is no configuration.
        ConversionError: naming everything that XLab has no equal for.
    """
    return spelled_out(PublishedModel(source).settings)


def is_gguf(source: str | Path) -> bool:
    """Tell whether a file is, or at least is named as, one of llama.cpp's kind."""
    path = Path(source)
    if not path.is_file():
        return path.suffix == ".gguf"
    with path.open("rb") as file:
        return path.suffix == ".gguf" or file.read(4) == b"GGUF"


def local(source: str | Path) -> str:
    """Give the folder, or the GGUF file, where a published model lies on this machine.

    Raises:
        CheckpointError: if it is on the hub, and cannot be fetched.
    """
    is_here = is_gguf(source) or xlab_folder.is_xlab_folder(source)
    return str(source) if is_here else str(PublishedModel(source).folder())


def tokenizer_settings(source: str | Path) -> dict[str, Any]:
    """Give ``data.tokenizer``'s settings of a published model."""
    return {"class_path": factories.class_path(PretrainedTokenizer), "init_args": {"path": str(source)}}


def spelled_out(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Give settings with each option of each part: what they leave open, a user's YAML below them must not fill."""
    defaults = inspect.signature(Decoder).parameters
    found = {**settings}
    for key in NUMBERS:
        found.setdefault(key, defaults[key].default)
    for key in PARTS:
        found[key] = _spelled_out(key, settings.get(key, defaults[key].default))
    return found


def _spelled_out(name: str, part: Any) -> Any:
    plain = factories.plain(part)
    if not isinstance(plain, dict) or "class_path" not in plain:
        return plain
    parameters = list(inspect.signature(factories.find_class(plain["class_path"])).parameters.values())
    own = parameters[_MADE_WITH.get(name, 0) :]
    arguments = {option.name: option.default for option in own if option.default is not option.empty}
    arguments |= plain.get("init_args") or {}
    made = {option: _spelled_out(option, value) for option, value in arguments.items()}
    return {"class_path": plain["class_path"], "init_args": made}


def _weights(model: PublishedModel) -> dict[str, Tensor]:
    try:
        return to_ours(model.family, model.settings, model.weights())
    except (ConversionError, ConfigError) as error:  # of sizes that no model of XLab's can have
        raise ConversionError(f"{model.source}: {error}") from error


def _with_context(checkpoint: Checkpoint, max_len: int | None) -> Checkpoint:
    """Give a checkpoint another context; a table of learned positions is cut, and cannot be made longer."""
    if max_len is None or max_len == checkpoint.model["max_len"]:
        return checkpoint
    weights = dict(checkpoint.weights)
    if _TABLE in weights:
        if max_len > len(weights[_TABLE]):
            raise CheckpointError(
                f"{checkpoint.path} has learned places for {len(weights[_TABLE])} tokens; it cannot read {max_len}"
            )
        weights[_TABLE] = weights[_TABLE][:max_len].clone()
    return replace(
        checkpoint,
        weights=weights,
        model={**checkpoint.model, "max_len": max_len},
        data={**checkpoint.data, "seq_len": max_len},
    )
