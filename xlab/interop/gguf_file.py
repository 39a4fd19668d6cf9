"""What a GGUF file holds: its metadata, and its tensors one by one, with every claim of its header checked first.

The format: github.com/ggml-org/ggml, docs/gguf.md. Numbers are little-endian; a tensor's shape is written from the
last dimension to the first.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xlab.errors import CheckpointError, ConfigError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
INSTALL = "pip install 'xlab[interop]'"

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_PLAIN = {0: torch.float32, 1: torch.float16, 28: torch.float64, 30: torch.bfloat16}
# what the least of a thing takes in the file: a header cannot claim more things than there is room for
_LEAST_PAIR, _LEAST_TENSOR = 8 + 4 + 1, 8 + 4 + 4 + 8
_MOST_DIMENSIONS = 4


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies, and how its numbers are written.

    Attributes:
        shape: as PyTorch has it, the rows first.
        kind: the number of its type in ggml's list.
        start: its first byte in the file.
        n_bytes: what it takes there.
    """

    shape: tuple[int, ...]
    kind: int
    start: int
    n_bytes: int


class GGUFFile:
    """A GGUF file, of which nothing but the header is read until a tensor is asked for.

    Args:
        path: the file.

    Raises:
        CheckpointError: if it cannot be read, is no GGUF file, was cut short, or claims what cannot be.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with open(self.path, "rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # an empty file cannot be mapped
            raise CheckpointError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
        if self._bytes[:4] != MAGIC:
            raise CheckpointError(f"{path} is no GGUF file: it does not begin with GGUF")
        self._at = 4
        version = self._scalar("I")
        if version not in VERSIONS:
            raise CheckpointError(f"{path} is GGUF of version {version}; XLab reads 2 and 3, little-endian")
        n_tensors, n_pairs = self._scalar("Q"), self._scalar("Q")
        self._check_count(n_tensors, _LEAST_TENSOR, "tensors")
        self._check_count(n_pairs, _LEAST_PAIR, "metadata entries")
        self.metadata: Mapping[str, Any] = self._read_metadata(n_pairs)
        self.tensors: Mapping[str, StoredTensor] = self._read_tensors(n_tensors)

    def tensor(self, name: str) -> Tensor:
        """Read one tensor: as it is written where its numbers are plain, else dequantised to float32.

        Raises:
            CheckpointError: for a type that XLab cannot dequantise.
            ConfigError: where the gguf package that can is not installed.
        """
        stored = self.tensors[name]
        raw = bytearray(self.raw(name))  # a copy that torch may own
        dtype = _PLAIN.get(stored.kind)
        if dtype is not None:
            flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
            return flat.reshape(stored.shape)
        return self._dequantised(name, stored, raw)

    def raw(self, name: str) -> memoryview:
        """Give a tensor's bytes as they lie in the file, none of them read yet."""
        stored = self.tensors[name]
        return memoryview(self._bytes)[stored.start : stored.start + stored.n_bytes]

    def _dequantised(self, name: str, stored: StoredTensor, raw: bytearray) -> Tensor:
        import numpy as np

        gguf = import_gguf()
        kind = gguf.GGMLQuantizationType(stored.kind)
        rows = np.frombuffer(raw, dtype=np.uint8).reshape(*stored.shape[:-1], -1)
        try:
            return torch.from_numpy(gguf.dequantize(rows, kind)).reshape(stored.shape)
        except NotImplementedError as error:
            raise CheckpointError(
                f"{self.path}: {name} is written as {kind.name}, which the gguf package cannot dequantise; "
                "take a file in Q8_0, a K type, or F16"
            ) from error

    def _read_metadata(self, n_pairs: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        for _ in range(n_pairs):
            key = self._string()
            if key in metadata:
                raise self._damaged(f"its metadata has {key!r} twice")
            metadata[key] = self._value(self._scalar("I"), key)
        return metadata

    def _read_tensors(self, n_tensors: int) -> dict[str, StoredTensor]:
        claims: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in range(n_tensors):
            name, n_dimensions = self._string(), self._scalar("I")
            if not 0 < n_dimensions <= _MOST_DIMENSIONS:
                raise self._damaged(f"the tensor {name!r} has {n_dimensions} dimensions")
            shape = tuple(self._scalar("Q") for _ in range(n_dimensions))[::-1]
            if name in claims:
                raise self._damaged(f"it has the tensor {name!r} twice")
            claims[name] = shape, self._scalar("I"), self._scalar("Q")
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
            raise self._damaged(f"its alignment is {alignment!r}")
        first = -(-self._at // alignment) * alignment
        tensors = {}
        for name, (shape, kind, offset) in claims.items():
            n_bytes = self._n_bytes(name, shape, kind)
            if first + offset + n_bytes > len(self._bytes):
                raise CheckpointError(
                    f"{self.path} was cut short, or its header lies: {name} {list(shape)} needs {n_bytes} bytes from "
                    f"{first + offset} on, and the file ends at {len(self._bytes)}"
                )
            tensors[name] = StoredTensor(shape, kind, first + offset, n_bytes)
        return tensors

    def _n_bytes(self, name: str, shape: tuple[int, ...], kind: int) -> int:
        if kind in _PLAIN:
            return math.prod(shape) * _PLAIN[kind].itemsize
        gguf = import_gguf()
        try:
            block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
        except (ValueError, KeyError) as error:
            raise CheckpointError(
                f"{self.path}: {name} is written in the type {kind}, which the gguf package does not know; "
                "update it, or take a file in Q8_0 or F16"
            ) from error
        if shape[-1] % block:
            raise self._damaged(f"{name} has rows of {shape[-1]} numbers in blocks of {block}")
        return int(math.prod(shape) // block * block_bytes)

    def _value(self, kind: int, key: str) -> Any:
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            raise self._damaged(f"{key!r} has a value of the type {kind}")
        inner, count = self._scalar("I"), self._scalar("Q")
        if inner in _SCALARS:
            return list(
                struct.unpack(f"<{count}{_SCALARS[inner]}", self._take(count * struct.calcsize(_SCALARS[inner])))
            )
        if inner != _STRING:
            raise self._damaged(f"{key!r} is a list of the type {inner}")
        self._check_count(count, 8, f"texts in {key!r}")
        return [self._string() for _ in range(count)]

    def _string(self) -> str:
        try:
            return self._take(self._scalar("Q")).decode()
        except UnicodeDecodeError as error:
            raise self._damaged("its header has a text that is no UTF-8") from error

    def _scalar(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self._take(struct.calcsize(form)))[0]

    def _take(self, n_bytes: int) -> bytes:
        if n_bytes > len(self._bytes) - self._at:
            raise CheckpointError(
                f"{self.path} was cut short, or its header lies: at byte {self._at} it claims {n_bytes} bytes, and "
                f"{len(self._bytes) - self._at} are left"
            )
        self._at += n_bytes
        return self._bytes[self._at - n_bytes : self._at]

    def _check_count(self, count: int, least: int, what: str) -> None:
        room = (len(self._bytes) - self._at) // least
        if count > room:
            raise CheckpointError(
                f"{self.path} was cut short, or its header lies: it claims {count} {what}, and there is room for {room}"
            )

    def _damaged(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path} is damaged: {what}")


def import_gguf() -> Any:
    """Import the gguf package.

    Raises:
        ConfigError: if it is not installed, saying how to.
    """
    try:
        import gguf
    except ImportError as error:
        raise ConfigError(f"GGUF needs the gguf package, which is not installed: {INSTALL}") from error
    return gguf
