"""A compressed file gives what went in, and a damaged one gives nothing for whole."""

import bz2
import gzip
import json
import lzma
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xlab.data.sources import JsonLines, TextFiles
from xlab.data.sources.files import read_lines
from xlab.errors import DataError


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstd,
}
every_suffix = pytest.mark.parametrize("suffix", COMPRESS)


@given(texts=st.lists(st.text(min_size=1), max_size=5))
@settings(max_examples=25)
def test_documents_are_the_same_through_every_compression(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("compressed")
    content = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()
    (folder / "a.jsonl").write_bytes(content)
    (folder / "a.txt").write_bytes("\n<|end|>\n".join(texts).encode())
    plain = list(JsonLines(f"{folder}/a.jsonl").documents())
    sections = list(TextFiles(f"{folder}/a.txt", "<|end|>").documents())
    assert [document.text for document in plain] == texts
    for suffix, compress in COMPRESS.items():
        for name in ("a.jsonl", "a.txt"):
            (folder / f"{name}{suffix}").write_bytes(compress((folder / name).read_bytes()))
        assert list(JsonLines(f"{folder}/a.jsonl{suffix}").documents()) == plain
        assert list(TextFiles(f"{folder}/a.txt{suffix}", "<|end|>").documents()) == sections


@every_suffix
def test_a_file_of_many_streams_is_read_to_its_end(tmp_path: Path, suffix: str) -> None:
    lines = [f"line {i} of all\n".encode() for i in range(5000)]
    parts = [b"".join(lines[start : start + 500]) for start in range(0, 5000, 500)]
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(b"".join(COMPRESS[suffix](part) for part in [*parts, b""]))
    assert list(read_lines(path)) == lines


@every_suffix
def test_what_compresses_well_is_read_by_lines(tmp_path: Path, suffix: str) -> None:
    line = b"a" * 999_999 + b"\n"
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(COMPRESS[suffix](line * 20))
    assert all(read == line for read in read_lines(path))
    assert TextFiles(str(path)).n_bytes() is None


@every_suffix
def test_a_damaged_file_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.txt{suffix}"
    content = "".join(f"čau {i * i}\n" for i in range(20_000)).encode()
    first, second = COMPRESS[suffix](content), COMPRESS[suffix](content[::-1])
    damaged = {
        "cut": first[: len(first) // 2],
        "cut at its last byte": first[:-1],
        "cut in its second stream": first + second[: len(second) // 2],
        "of another kind": b"not compressed",
        "spoilt": first[:12] + b"\x00\xff" * 4 + first[20:],
        "spoilt where its second stream begins": first + b"\x01\x02\x03\x04" + second[4:],
        "empty": b"",
    }
    said = {}
    for how, raw in damaged.items():
        path.write_bytes(raw)
        try:
            said[how] = f"{len(list(read_lines(path)))} lines"
        except DataError as error:
            said[how] = str(error)
    assert all(
        re.fullmatch(f"{re.escape(str(path))} is not a whole {suffix} file: .*", says) for says in said.values()
    ), said


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2"])
def test_zeros_between_streams_are_no_damage(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.txt{suffix}"
    streams = [COMPRESS[suffix](part) for part in (b"one\n", b"two\n")]
    path.write_bytes(streams[0] + bytes(8) + streams[1] + bytes(4))
    assert list(read_lines(path)) == [b"one\n", b"two\n"]


@every_suffix
def test_a_file_that_is_not_there(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(DataError, match=rf"a{suffix} cannot be read: No such file"):
        list(read_lines(tmp_path / f"a{suffix}"))
