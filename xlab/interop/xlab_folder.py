"""XLab's own models as safetensors: a folder of weights, settings and tokenizer, with nothing to unpickle."""

import json
from pathlib import Path

import torch
from torch import Tensor

from xlab import checkpoints
from xlab.checkpoints import Checkpoint
from xlab.errors import CheckpointError
from xlab.interop.safetensors_folder import SafetensorsFolder
from xlab.interop.safetensors_writing import PendingTensor, write_shards
from xlab.trusted_classes import check_classes

SETTINGS, TOKENIZER = "xlab.json", "tokenizer.json"


def write(checkpoint: Checkpoint, folder: Path, *, dtype: torch.dtype | None, max_shard_bytes: int) -> None:
    """Write the folder, any model of XLab's.

    Args:
        checkpoint: the model.
        folder: to write into; it exists and is empty.
        dtype: of the weights that are no whole numbers; None for what they are in.
        max_shard_bytes: the most that a file of weights may hold.
    """

    tensors = [_pending(name, weight, dtype) for name, weight in checkpoint.weights.items()]
    write_shards(folder, tensors, max_shard_bytes)
    header = checkpoints.header(
        model=checkpoint.model, data=checkpoint.data, tokenizer=checkpoint.tokenizer, info=checkpoint.info
    )
    (folder / TOKENIZER).write_text(header.pop("tokenizer"), encoding="utf-8")
    (folder / SETTINGS).write_text(json.dumps(header, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _pending(name: str, weight: Tensor, dtype: torch.dtype | None) -> PendingTensor:
    written = dtype if dtype is not None and weight.is_floating_point() else weight.dtype
    return PendingTensor(name, tuple(weight.shape), written, lambda: weight)


def is_xlab_folder(path: str | Path) -> bool:
    """Tell whether a folder is one of those that ``write`` makes."""
    return (Path(path) / SETTINGS).is_file()


def read(path: str | Path) -> Checkpoint:
    """Read a folder that ``write`` made; its classes are checked before any is imported.

    Raises:
        CheckpointError: if it is damaged, or names a class outside the allow-list.
    """
    folder = Path(path)
    try:
        header = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        tokenizer = (folder / TOKENIZER).read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder / SETTINGS} is no whole JSON: {error}") from error
    sections = {"model": dict, "data": dict, "info": dict}
    if not isinstance(header, dict) or any(not isinstance(header.get(key), kind) for key, kind in sections.items()):
        raise CheckpointError(f"{folder / SETTINGS} is damaged: it needs {', '.join(sections)}")
    if header.get("format") != checkpoints.FORMAT:
        raise CheckpointError(
            f"{folder} has format {header.get('format')!r}, this XLab reads {checkpoints.FORMAT}; use its own version"
        )
    for key in ("model", "data"):
        check_classes(header[key], folder)
    tensors = SafetensorsFolder(folder)
    return Checkpoint(
        path=folder,
        **{key: header[key] for key in sections},
        tokenizer=tokenizer,
        weights={name: tensors[name] for name in tensors.shapes},
        resumable=False,
    )
