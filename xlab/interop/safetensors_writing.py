"""Write safetensors files tensor by tensor, in one file or in shards, so that memory holds one tensor at a time.

The format: github.com/huggingface/safetensors. Eight bytes of length, a header in JSON, then the tensors' bytes.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from xlab.errors import ConfigError
from xlab.interop.errors import ConversionError

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 8
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class PendingTensor:
    """A tensor that is to be written: its name and form are known, its numbers are made when their turn comes.

    Attributes:
        name: under which it is written.
        shape: of what ``make`` gives.
        dtype: what it is written in.
        make: gives it, in any dtype.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]

    @property
    def n_bytes(self) -> int:
        """What it takes in a file."""
        return math.prod(self.shape) * self.dtype.itemsize

    def made(self) -> Tensor:
        """Give it, contiguous, on the CPU and in its dtype.

        Raises:
            ConversionError: for a number that is too large for the dtype.
        """
        tensor = self.make().detach()
        rounded = tensor.to("cpu", self.dtype).contiguous()
        if tuple(rounded.shape) != self.shape:
            raise AssertionError(f"{self.name} was planned as {self.shape} and is {tuple(rounded.shape)}")
        if self.dtype != tensor.dtype and self.dtype.is_floating_point and rounded.isinf().sum() > tensor.isinf().sum():
            raise ConversionError(
                f"{self.name} has numbers beyond {torch.finfo(self.dtype).max:g}, the largest in --dtype "
                f"{str(self.dtype).removeprefix('torch.')}; export with bf16 or fp32"
            )
        return rounded


def size_of(text: str) -> int:
    """Read a size such as 5GB, 200MB or 1000000, in bytes.

    Raises:
        ConfigError: for what is no size above zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip().upper())
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if size < 1:
        raise ConfigError(f"{text!r} is no size; write it as 5GB, 200MB or a number of bytes")
    return size


def write_shards(folder: Path, tensors: Sequence[PendingTensor], max_shard_bytes: int) -> list[Path]:
    """Write ``model.safetensors``, or shards of at most so many bytes of tensors each, with their index.

    A tensor that is larger alone gets a shard of its own.

    Returns:
        The files with tensors.
    """
    shards: list[list[PendingTensor]] = [[]]
    room = max_shard_bytes
    for tensor in tensors:
        if tensor.n_bytes > room and shards[-1]:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(tensor)
        room -= tensor.n_bytes
    if len(shards) == 1:
        write_file(folder / "model.safetensors", shards[0])
        return [folder / "model.safetensors"]
    paths = [folder / f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    for path, shard in zip(paths, shards, strict=True):
        write_file(path, shard)
    index = {
        "metadata": {"total_size": sum(tensor.n_bytes for tensor in tensors)},
        "weight_map": {tensor.name: path.name for path, shard in zip(paths, shards, strict=True) for tensor in shard},
    }
    text = json.dumps(index, indent=2, ensure_ascii=False) + "\n"
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    return paths


def write_file(path: Path, tensors: Iterable[PendingTensor]) -> None:
    """Write one safetensors file."""
    # as the library does: the widest numbers first, so that each begins where its width divides the place
    ordered = sorted(tensors, key=lambda tensor: (-tensor.dtype.itemsize, tensor.name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers reads no file that does not say so
    end = 0
    for tensor in ordered:
        begin, end = end, end + tensor.n_bytes
        header[tensor.name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with open(path, "xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in ordered:
            _write_bytes(tensor.made(), file)


def _write_bytes(tensor: Tensor, file: BinaryIO) -> None:
    """Write a contiguous tensor's numbers as they lie in memory."""
    file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
