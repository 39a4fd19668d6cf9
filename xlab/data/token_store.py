"""Tokens on disk in Megatron's indexed format: PREFIX.bin holds them, PREFIX.idx says where documents lie.

The index: magic, version (u64), dtype code (u8), sequences S (u64), document indices D (u64), then the sequences'
sizes (S, int32), byte offsets (S, int64) and the documents' first sequences (D, int64; D = S + 1, one sequence a
document). https://github.com/NVIDIA/Megatron-LM, megatron/core/datasets/indexed_dataset.py
"""

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xlab.data.digest import digest
from xlab.data.token_reader import TokenReader, Tokens
from xlab.errors import DataError

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_VERSION = 1
_DTYPES: dict[int, type[np.generic]] = {
    1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 6: np.float64, 7: np.float32, 8: np.uint16,
}  # fmt: skip
_SIZES_AT_ONCE = 1 << 20
_BIG_ENDIAN_VERSION = int.from_bytes(_VERSION.to_bytes(8, "big"), "little")
_AGAIN = "make the store again."


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the type that Megatron stores a vocabulary of this size in."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.int32)


class TokenStoreWriter:
    """Write documents one after the other; PREFIX.bin and PREFIX.idx appear when all is well, and not before.

    Memory does not grow with the tokens or the documents::

        with TokenStoreWriter(prefix, vocab_size=8192) as store:
            store.write([1, 17, 5])
            store.write([9, 2])
            store.end_document()

    Args:
        prefix: of the files.
        vocab_size: tokens are below it.
        dtype: one of the format's; left out, what Megatron stores such a vocabulary in.
    """

    def __init__(self, prefix: str | Path, vocab_size: int, *, dtype: type[np.generic] | None = None) -> None:
        self._prefix = Path(prefix)
        self._dtype = token_dtype(vocab_size) if dtype is None else np.dtype(dtype)
        self._vocab_size = vocab_size
        self.n_documents = 0
        self.n_tokens = 0
        self._written = 0

    def __enter__(self) -> "TokenStoreWriter":
        self._bin = self._part("bin").open("wb")
        self._sizes = self._part("sizes").open("w+b")
        return self

    def write(self, tokens: ArrayLike) -> None:
        """Append tokens to the document that is being written."""
        ids = np.asarray(tokens, dtype=np.int64)
        if ids.size == 0:
            return
        if ids.min() < 0 or ids.max() >= self._vocab_size:
            wrong = ids[(ids < 0) | (ids >= self._vocab_size)][0]
            raise DataError(f"Token {wrong} is outside the vocabulary of {self._vocab_size}; it cannot be stored.")
        self._bin.write(ids.astype(self._dtype).tobytes())
        self._written += len(ids)

    @property
    def in_document(self) -> bool:
        """Whether the next token continues a document."""
        return self._written > 0

    def end_document(self) -> None:
        """Close the document; the next token begins another."""
        if self._written > np.iinfo(np.int32).max:
            raise DataError(
                f"A document of {self._written} tokens is too long to index; set data.source.section_chars."
            )
        self._sizes.write(struct.pack("<i", self._written))
        self.n_documents += 1
        self.n_tokens += self._written
        self._written = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            for file in (self._bin, self._sizes):
                with suppress(OSError):  # what a full disk left in the buffer; the file goes anyway
                    file.close()
            for suffix in ("bin", "idx", "sizes"):
                self._part(suffix).unlink(missing_ok=True)

    def _finish(self) -> None:
        if self._written:
            self.end_document()
        self._bin.close()
        with self._part("idx").open("wb") as index:
            self._write_index(index)
        os.replace(self._part("bin"), f"{self._prefix}.bin")
        os.replace(self._part("idx"), f"{self._prefix}.idx")

    def _write_index(self, index: BinaryIO) -> None:
        code = next(code for code, dtype in _DTYPES.items() if dtype == self._dtype)
        index.write(_HEADER.pack(_MAGIC, _VERSION, code, self.n_documents, self.n_documents + 1))
        for sizes in self._read_sizes():
            index.write(sizes.tobytes())
        offset = 0
        for sizes in self._read_sizes():
            ends = offset + np.cumsum(sizes.astype("<i8") * self._dtype.itemsize)
            index.write(np.concatenate([[offset], ends[:-1]]).astype("<i8").tobytes())
            offset = int(ends[-1])
        for start in range(0, self.n_documents + 1, _SIZES_AT_ONCE):
            stop = min(start + _SIZES_AT_ONCE, self.n_documents + 1)
            index.write(np.arange(start, stop, dtype="<i8").tobytes())

    def _read_sizes(self) -> Iterator[Tokens]:
        self._sizes.seek(0)
        while chunk := self._sizes.read(4 * _SIZES_AT_ONCE):
            yield np.frombuffer(chunk, dtype="<i4")

    def _part(self, suffix: str) -> Path:
        return Path(f"{self._prefix}.{suffix}.part")


class TokenStore(TokenReader):
    """Documents of tokens, memory-mapped: opening costs the same for a kilobyte and a terabyte.

    It pickles as its path, so every loader worker maps the files for itself. Opening looks at both ends of the index
    only; ``verify`` looks at all of it.

    Args:
        prefix: What PREFIX.bin and PREFIX.idx are called, without the endings.

    Raises:
        DataError: when a file is missing, truncated, or of another kind.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = Path(prefix)
        index, data = Path(f"{self.prefix}.idx"), Path(f"{self.prefix}.bin")
        for path in (index, data):
            if not path.is_file():
                raise DataError(f"{path} is missing; a token store is the two files {self.prefix}.bin and .idx.")
        self.dtype, self._n_sequences, self._n_documents = _read_header(index)
        bytes_of_index = _HEADER.size + 12 * self._n_sequences + 8 * (self._n_documents + 1)
        if (size := index.stat().st_size) != bytes_of_index:
            raise DataError(f"{index} is {size} bytes, but its header tells of {bytes_of_index}; make it again.")
        stored = data.stat().st_size
        expected = int(self._offsets[-1]) + int(self._sizes[-1]) * self.dtype.itemsize if self._n_sequences else 0
        if stored != expected:
            raise DataError(f"{data} is {stored} bytes, but {index.name} tells of {expected}; make it again.")
        if int(self._starts[-1]) != self._n_sequences:
            raise DataError(f"{index} ends its documents at {self._starts[-1]} of {self._n_sequences}; make it again.")
        self.n_tokens = stored // self.dtype.itemsize

    def __len__(self) -> int:
        """Return the number of documents."""
        return self._n_documents

    def document(self, i: int) -> Tokens:
        """Return document ``i``: (tokens,) mapped from the file, nothing copied."""
        if not 0 <= i < len(self):
            raise IndexError(f"{self.prefix} has {len(self)} documents, and no document {i}")
        first, last = int(self._starts[i]), int(self._starts[i + 1])
        start = self._offset_in_tokens(first)
        return self.tokens[start : self._offset_in_tokens(last)]

    def slice(self, start: int, stop: int) -> Tokens:
        return self.tokens[start:stop]

    def gather(self, positions: ArrayLike) -> NDArray[np.int64]:
        found: NDArray[np.int64] = np.asarray(self.tokens)[np.asarray(positions)].astype(np.int64)
        return found

    def starts(self, documents: ArrayLike) -> NDArray[np.int64]:
        sequences = np.asarray(self._starts[np.asarray(documents, dtype=np.int64)])
        is_inside = sequences < self._n_sequences
        if not self._n_sequences:
            return np.zeros_like(sequences)
        # clipped: a number that points nowhere is found below, where all are looked at
        offsets = np.asarray(self._offsets[sequences.clip(0, self._n_sequences - 1)])
        found: NDArray[np.int64] = np.where(is_inside, offsets // self.dtype.itemsize, self.n_tokens)
        wrong = (sequences < 0) | (sequences > self._n_sequences) | (found < 0) | (found > self.n_tokens)
        if wrong.any():
            document = np.broadcast_to(documents, wrong.shape)[wrong].flat[0]
            raise DataError(f"{self.prefix}.idx puts document {document} outside {self.prefix}.bin; {_AGAIN}")
        return found

    def identity(self) -> str:
        files = [Path(f"{self.prefix}.{suffix}").resolve() for suffix in ("idx", "bin")]
        return digest(*((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files))

    def verify(self, vocab_size: int | None = None) -> None:
        expected = 0
        for first in range(0, self._n_sequences, _SIZES_AT_ONCE):
            sizes = np.asarray(self._sizes[first : first + _SIZES_AT_ONCE]).astype(np.int64)
            offsets = np.asarray(self._offsets[first : first + _SIZES_AT_ONCE])
            ends = expected + np.cumsum(sizes) * self.dtype.itemsize
            wrong = (sizes < 0) | (offsets != np.concatenate([[expected], ends[:-1]]))
            if wrong.any():
                i = int(np.flatnonzero(wrong)[0])
                raise DataError(
                    f"{self.prefix}.idx puts sequence {first + i}, of {sizes[i]} tokens, at byte {offsets[i]}, where "
                    f"the one before ends at {ends[i - 1] if i else expected}; {_AGAIN}"
                )
            expected = int(ends[-1])
        self._verify_documents()
        if vocab_size is not None:
            self._verify_tokens(vocab_size)

    def _verify_documents(self) -> None:
        previous = 0
        for first in range(0, self._n_documents + 1, _SIZES_AT_ONCE):
            starts = np.asarray(self._starts[first : first + _SIZES_AT_ONCE])
            wrong = (np.diff(starts, prepend=previous) < 0) | (starts > self._n_sequences)
            if first == 0:
                wrong[0] |= starts[0] != 0
            if wrong.any():
                i = int(np.flatnonzero(wrong)[0])
                raise DataError(
                    f"{self.prefix}.idx lets document {first + i} begin with sequence {starts[i]}, which is out of "
                    f"order or not there; {_AGAIN}"
                )
            previous = int(starts[-1])

    def _verify_tokens(self, vocab_size: int) -> None:
        for first in range(0, self.n_tokens, _SIZES_AT_ONCE):
            tokens = np.asarray(self.tokens[first : first + _SIZES_AT_ONCE]).astype(np.int64)
            wrong = (tokens < 0) | (tokens >= vocab_size)
            if wrong.any():
                place = first + int(np.flatnonzero(wrong)[0])
                raise DataError(
                    f"{self.prefix}.bin holds token {tokens[place - first]} at place {place}, in document "
                    f"{int(self.document_of(place))}, but the vocabulary has {vocab_size}; the store was made with "
                    "another tokenizer."
                )

    @cached_property
    def tokens(self) -> Tokens:
        """All documents as one stream, (n_tokens,), memory-mapped."""
        if self.n_tokens == 0:  # an empty file cannot be mapped
            return np.empty(0, dtype=self.dtype)
        return np.memmap(f"{self.prefix}.bin", dtype=self.dtype, mode="r", shape=(self.n_tokens,))

    def __reduce__(self) -> tuple[object, ...]:
        return TokenStore, (self.prefix,)

    @cached_property
    def _sizes(self) -> Tokens:
        return self._map_index("<i4", _HEADER.size, self._n_sequences)

    @cached_property
    def _offsets(self) -> Tokens:
        return self._map_index("<i8", _HEADER.size + 4 * self._n_sequences, self._n_sequences)

    @cached_property
    def _starts(self) -> Tokens:
        return self._map_index("<i8", _HEADER.size + 12 * self._n_sequences, self._n_documents + 1)

    def _map_index(self, dtype: str, offset: int, length: int) -> Tokens:
        return np.memmap(f"{self.prefix}.idx", dtype=dtype, mode="r", offset=offset, shape=(length,))

    def _offset_in_tokens(self, sequence: int) -> int:
        if sequence == self._n_sequences:
            return self.n_tokens
        return int(self._offsets[sequence]) // self.dtype.itemsize


def _read_header(index: Path) -> tuple[np.dtype[Any], int, int]:
    with index.open("rb") as file:
        header = file.read(_HEADER.size)
    if not header.startswith(_MAGIC):
        raise DataError(f"{index} is no index of Megatron's format; it begins with {header[:9]!r}.")
    if len(header) < _HEADER.size:
        raise DataError(f"{index} is cut off in its header, after {len(header)} bytes; make it again.")
    _, version, code, n_sequences, n_indices = _HEADER.unpack(header)
    if version == _BIG_ENDIAN_VERSION:
        raise DataError(
            f"{index} is big-endian, and XLab reads little-endian stores; make it again on a machine such as this one."
        )
    if version != _VERSION:
        raise DataError(f"{index} has version {version} of Megatron's format; version {_VERSION} can be read.")
    dtype = np.dtype(_DTYPES.get(code, np.void))
    if dtype.kind not in "iu":
        raise DataError(f"{index} says that its tokens have type code {code}, which is no integer.")
    if n_indices < 1:
        raise DataError(f"{index} has no document index; make it again.")
    return dtype, n_sequences, n_indices - 1
