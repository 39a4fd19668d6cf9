"""The safetensors files of a folder, one or many, read tensor by tensor; no header is believed before it is checked.

A file is the length of its header (8 bytes, little-endian), the header (JSON: each tensor's type, shape and place), and
the tensors' bytes: https://huggingface.co/docs/safetensors.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from xlab.errors import CheckpointError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_LENGTH_BYTES = 8
_LONGEST_HEADER = 100_000_000  # bytes, the format's own bound
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model.pt", "model.pt", "consolidated.00.pth")
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


class SafetensorsFolder:
    """A folder's tensors: known by name and shape at once, read one by one.

    Args:
        folder: with model.safetensors, or model.safetensors.index.json and the files that it names.

    Raises:
        CheckpointError: if there are none, one of them is damaged or lies about itself, or a tensor is in two files.
    """

    def __init__(self, folder: str | Path) -> None:
        self._files: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for path in weight_files(Path(folder)):
            for name, shape in read_header(path).items():
                if name in self._files:
                    raise CheckpointError(f"the tensor {name} is in {self._files[name]} and in {path}; remove one file")
                self._files[name], self._shapes[name] = path, shape

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Each tensor's shape by its name."""
        return self._shapes

    def __getitem__(self, name: str) -> Tensor:
        """Read a tensor; its memory is the file's, until it is written to."""
        import safetensors

        path = self._files[name]
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
        except Exception as error:  # the library's error is of no public class
            raise CheckpointError(f"{path} is damaged: {error}") from error
        return tensor


def weight_files(folder: Path) -> list[Path]:
    """Give a folder's safetensors files.

    Raises:
        CheckpointError: if there are none, or one that the index names is missing.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        return [_shard(folder, name) for name in _shard_names(folder / INDEX)]
    if pickles := [name for name in _PICKLES if (folder / name).exists()]:
        raise CheckpointError(
            f"{folder} has its weights as {pickles[0]} only, which would have to be unpickled and can run code hidden "
            "in it; convert it to safetensors where you trust it (transformers: model.save_pretrained)"
        )
    raise CheckpointError(f"{folder} has no weights: neither {SINGLE} nor {INDEX}")


def read_header(path: Path) -> dict[str, tuple[int, ...]]:
    """Give the shapes of a file's tensors, after checking that the header is whole and true.

    Raises:
        CheckpointError: if it is longer than the file, no JSON, or claims bytes that are not there.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if size < _LENGTH_BYTES or length > min(size - _LENGTH_BYTES, _LONGEST_HEADER):
                raise CheckpointError(
                    f"{path} is damaged: it says that its header is {length:,} bytes long, and the file has {size:,}"
                )
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: its header is no JSON ({error})") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is damaged: its header is no JSON object")
    header.pop("__metadata__", None)
    return _checked(header, size - _LENGTH_BYTES - length, path)


def _checked(header: Mapping[str, Any], n_bytes: int, path: Path) -> dict[str, tuple[int, ...]]:
    """Check each tensor's type, shape and place, and that they cover the file's bytes without a gap or an overlap."""
    places, shapes = [], {}
    for name, entry in header.items():
        match entry:
            case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
                pass
            case _:
                raise CheckpointError(f"{path} is damaged: its header says nothing whole of {name!r}")
        if not all(type(extent) is int and extent >= 0 for extent in shape):
            raise CheckpointError(f"{path} is damaged: {name!r} has the shape {shape}")
        if kind not in _BYTES:
            raise CheckpointError(
                f"{path} holds {name!r} as {kind}, which XLab does not read; it reads {', '.join(_BYTES)}"
            )
        if end - begin != math.prod(shape) * _BYTES[kind]:
            raise CheckpointError(f"{path} is damaged: {name!r}, {kind} of {shape}, cannot take {end - begin} bytes")
        places.append((begin, end, name))
        shapes[name] = tuple(shape)
    expected = 0
    for begin, end, name in sorted(places):
        if begin != expected:
            raise CheckpointError(f"{path} is damaged: {name!r} begins at byte {begin}, not {expected}")
        expected = end
    if expected != n_bytes:
        raise CheckpointError(
            f"{path} is damaged: its tensors take {expected:,} bytes, and it has {n_bytes:,} for them"
        )
    return shapes


def _shard_names(index: Path) -> list[str]:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(places.values()))
    except OSError as error:
        raise CheckpointError(f"cannot read {index}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is damaged: it has no weight_map of tensors and files") from error
    if not names or not all(isinstance(name, str) and name and Path(name).name == name for name in names):
        raise CheckpointError(f"{index} is damaged: its weight_map names no files of its own folder")
    return names


def _shard(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise CheckpointError(f"{folder / INDEX} names {name}, which is not there; fetch the model again")
    return folder / name


def read_tensors(folder: str | Path) -> dict[str, Tensor]:
    """Read all of a folder's tensors.

    Raises:
        CheckpointError: as ``SafetensorsFolder``.
    """
    tensors = SafetensorsFolder(folder)
    return {name: tensors[name] for name in tensors.shapes}
