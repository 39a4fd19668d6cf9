"""A GGUF file as a checkpoint of XLab's: settings, tokenizer, and weights tensor by tensor."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from xlab.checkpoints import Checkpoint
from xlab.errors import CheckpointError
from xlab.interop.errors import ConversionError
from xlab.interop.families import family_of
from xlab.interop.families.conversion import claims_too_much, expected_weights
from xlab.interop.families.normal_form import normal
from xlab.interop.families.tensors import TensorRule
from xlab.interop.gguf_file import GGUFFile
from xlab.interop.gguf_names import ARCHITECTURES, Architecture, rules
from xlab.interop.gguf_settings import ROPE_FACTORS, config_of
from xlab.interop.gguf_tokenizer import CHAT_TEMPLATE, tokenizer_of

_OUTPUT, _EMBEDDING = "output.weight", "token_embd.weight"


def read(path: str | Path) -> Checkpoint:
    """Read a GGUF file of llama.cpp's family: F32, F16, BF16, Q8_0, and what else the gguf package dequantises.

    Raises:
        CheckpointError: for a file that is damaged, or whose tensors are not those of its settings: all are named.
        ConversionError: for an architecture, or a setting, that XLab has no equal for.
        ConfigError: where the gguf package is needed and not installed.
    """
    file = GGUFFile(path)
    settings, config = read_settings(file)
    tokenizer = tokenizer_of(file.metadata, path)
    weights = _weights(file, settings)
    info = {"imported_from": str(path), "model_type": config["model_type"]}
    if isinstance(template := file.metadata.get(CHAT_TEMPLATE), str):
        info["chat_template"] = template
    return Checkpoint(
        path=Path(path),
        model=settings,
        data={},
        tokenizer=tokenizer.to_json(),
        weights=weights,
        info=info,
        resumable=False,
    )


def read_settings(file: GGUFFile) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give ``XLabModel``'s settings of a GGUF file, and the config.json that its family would have.

    Raises:
        CheckpointError: if the file does not say what a model is made of.
        ConversionError: for an architecture, or a setting, that XLab has no equal for.
    """
    architecture = _architecture(file)
    factors = file.tensor(ROPE_FACTORS) if ROPE_FACTORS in file.tensors else None
    names = set(file.tensors) - ({_OUTPUT} if _is_copy(file) else set())
    config = config_of(architecture, file.metadata, names, factors)
    embedding = file.tensors.get(_EMBEDDING)
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(f"{file.path} has no {_EMBEDDING}")
    config["vocab_size"] = embedding.shape[0]
    try:
        settings = family_of(architecture.model_type).settings(config)
    except ConversionError as error:
        raise ConversionError(f"{file.path}: {error}") from error
    if too_large := claims_too_much(settings, {name: tensor.shape for name, tensor in file.tensors.items()}):
        raise CheckpointError(f"{file.path} claims {too_large}")
    return settings, config


def _architecture(file: GGUFFile) -> Architecture:
    name = file.metadata.get("general.architecture")
    if file.metadata.get("split.count", 0) not in (0, 1):
        raise CheckpointError(
            f"{file.path} is one of several parts; join them with llama.cpp's llama-gguf-split --merge"
        )
    if name not in ARCHITECTURES:
        raise ConversionError(
            f"{file.path} is a GGUF file of the architecture {name!r}; XLab reads {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]


def _is_copy(file: GGUFFile) -> bool:
    """Whether the vocabulary projection is written, but is the embedding's."""
    output, embedding = file.tensors.get(_OUTPUT), file.tensors.get(_EMBEDDING)
    if output is None or embedding is None or (output.shape, output.kind) != (embedding.shape, embedding.kind):
        return False
    return file.raw(_OUTPUT) == file.raw(_EMBEDDING)


def _weights(file: GGUFFile, settings: Mapping[str, Any]) -> dict[str, Tensor]:
    expected = expected_weights(settings, has_table="position_embd.weight" in file.tensors)
    architecture = _architecture(file)
    table = rules(architecture, expected, normal(settings))
    _check_tensors(file, table, expected)
    return {rule.ours: rule.join([file.tensor(name) for name in rule.theirs]) for rule in table}


def _check_tensors(file: GGUFFile, table: list[TensorRule], expected: Mapping[str, Tensor]) -> None:
    """Refuse a file whose tensors are not the model's, naming all that are missing, surplus or of another shape."""
    wrong, known = [], {ROPE_FACTORS}
    if "output.weight" not in expected:
        known.add(_OUTPUT)  # the embedding's copy
    for rule in table:
        known |= set(rule.theirs)
        for name, piece in zip(rule.theirs, rule.split(expected[rule.ours]), strict=True):
            stored = file.tensors.get(name)
            if stored is None:
                wrong.append(f"{name} is missing")
            elif stored.shape != tuple(piece.shape):
                wrong.append(f"{name} is {list(stored.shape)}, the model has {list(piece.shape)}")
    wrong += [f"{name} is not in the model" for name in file.tensors if name not in known]
    if wrong:
        raise CheckpointError(f"the tensors of {file.path} do not fit its settings: {'; '.join(sorted(wrong))}")
