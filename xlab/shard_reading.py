"""Read the shards of ``torch.distributed.checkpoint``, and unpickle nothing but the index of plain tensors."""

import math
import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from xlab.errors import CheckpointError

# the classes that the index of torch's format is made of
_INDEX = {
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "TensorStorageMetadata", "ChunkStorageMetadata", "TensorProperties"),
        *("StorageMeta", "_MEM_FORMAT_ENCODING"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch": {"Size", "device"},
}


class PlainReader(FileSystemReader):
    """Read torch's format without unpickling anything but its own index of plain tensors."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with open(Path(self.path) / ".metadata", "rb") as file:
            index = _IndexUnpickler(file).load()
        if not isinstance(index, Metadata):
            raise CheckpointError(f"{self.path} is damaged: its .metadata is no index")
        for name, kept in index.state_dict_metadata.items():
            if not isinstance(kept, TensorStorageMetadata):  # what torch would unpickle without a look at it
                raise CheckpointError(f"{self.path} holds {name!r}, which is no plain tensor")
        for info in index.storage_data.values():
            if Path(info.relative_path).name != info.relative_path:
                raise CheckpointError(f"{self.path} is damaged: it names the file {info.relative_path!r}")
        return index


class _IndexUnpickler(pickle.Unpickler):
    """Knows the index's own classes, and stand-ins for the rest: Path could write files, getattr reach anything."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _INDEX.get(module, ()):
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (stand_in := _STAND_INS.get((module, name))) is not None:
            return stand_in
        raise pickle.UnpicklingError(f"its index names {module}.{name}, which is none of its parts")


def _layout(name: str) -> torch.layout:
    layout = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(layout, torch.layout):
        raise pickle.UnpicklingError(f"its index names the layout {name!r}, which there is not")
    return layout


def _member(kind: Any, name: str) -> Any:
    if kind is not _MEM_FORMAT_ENCODING or name not in kind.__members__:
        raise pickle.UnpicklingError(f"its index asks for {name!r}, which is none of its parts")
    return kind[name]


def _path(*parts: str) -> str:
    return "/".join(parts)  # where it was written; nobody goes there


_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch.serialization", "_get_layout"): _layout,
    ("builtins", "getattr"): _member,  # as some Pythons pickle what is of an Enum
    **{(module, name): _path for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "PurePosixPath")},
}


def read_shards(folder: Path, cut: Mapping[str, Any], is_wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """Read the tensors whose names are wanted, and put together those that are stored in parts.

    Args:
        folder: of the shards.
        cut: how many parts a tensor is stored in, by name, and the dimension along which they follow each other.
        is_wanted: tells it of a tensor's name.
    """
    reader = PlainReader(folder)
    index: dict[str, Any] = {
        name: kept for name, kept in reader.read_metadata().state_dict_metadata.items() if is_wanted(name)
    }
    claimed = sum(math.prod(kept.size) * kept.properties.dtype.itemsize for kept in index.values())
    if claimed > sum(path.stat().st_size for path in folder.iterdir()):
        raise CheckpointError(f"{folder} is damaged: its index claims {claimed:,} bytes, more than there are")
    found: dict[str, Any] = {name: torch.empty(kept.size, dtype=kept.properties.dtype) for name, kept in index.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # that is what is wanted
        load(found, storage_reader=reader, no_dist=True)
    for name, (n_parts, dim) in cut.items():
        if is_wanted(name):
            found[name] = torch.cat([found.pop(f"{name}/{part}") for part in range(n_parts)], dim)
    return found
