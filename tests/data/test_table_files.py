"""Rows of Parquet and Arrow files come out as documents, a few at once."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather, ipc

from xlab.data.sources import ArrowFiles, Document, JsonLines, ParquetFiles, Source
from xlab.errors import ConfigError, DataError

Table = pa.Table


def write_stream(table: Table, path: Path) -> None:
    with ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


def write_file(table: Table, path: Path) -> None:
    with ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


WRITERS: dict[str, tuple[type[Source], Callable[[Table, Path], None]]] = {
    "parquet": (ParquetFiles, lambda table, path: pq.write_table(table, path, row_group_size=7)),
    "arrow stream": (ArrowFiles, write_stream),
    "arrow file": (ArrowFiles, write_file),
    "feather, compressed": (ArrowFiles, lambda table, path: feather.write_feather(table, str(path), "zstd")),
}
every_kind = pytest.mark.parametrize("kind", WRITERS)


@given(st.lists(st.tuples(st.text(), st.one_of(st.none(), st.text())), max_size=30))
@settings(max_examples=20)
def test_rows_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str | None]]) -> None:
    path = tmp_path_factory.mktemp("rows") / "table"
    bodies, titles = [text for text, _ in rows], [meta for _, meta in rows]
    table = pa.table(
        {
            "n": pa.array(range(len(rows)), pa.int32()),
            "title": pa.array(titles, pa.string()),
            "body": pa.array(bodies, pa.large_string()),
        }
    )
    for source, write in WRITERS.values():
        write(table, path)
        documents = source(str(path), text_column="body", meta_column="title").documents()
        assert list(documents) == [Document(text, meta or "") for text, meta in rows if text]


@every_kind
@pytest.mark.parametrize("type_", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_every_kind_of_text(tmp_path: Path, kind: str, type_: pa.DataType) -> None:
    source, write = WRITERS[kind]
    texts = ["one", "two", "one", "ž"] * 100
    write(pa.table({"text": pa.array(texts).cast(type_)}), tmp_path / "t")
    assert [document.text for document in source(f"{tmp_path}/t").documents()] == texts


@every_kind
def test_files_are_read_in_the_order_of_their_names(tmp_path: Path, kind: str) -> None:
    source, write = WRITERS[kind]
    for name in ("b", "a", "deep/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(pa.table({"text": [name]}), tmp_path / name)
    read = source([f"{tmp_path}/deep/*", f"{tmp_path}/[ab]", f"{tmp_path}/a"])
    assert [document.text for document in read.documents()] == ["a", "b", "deep/c"]
    with pytest.raises(DataError, match="No file matches"):
        list(source([f"{tmp_path}/a", f"{tmp_path}/*.nothing"]).documents())


@every_kind
def test_structured_meta(tmp_path: Path, kind: str) -> None:
    source, write = WRITERS[kind]
    write(pa.table({"text": ["a", "b"], "meta": [{"page": 3}, None]}), tmp_path / "t")
    assert [d.meta for d in source(f"{tmp_path}/t", meta_column="meta").documents()] == ['{"page": 3}', ""]


@every_kind
@pytest.mark.parametrize(
    ("columns", "settings", "says"),
    [
        ({"body": ["x"], "id": [3]}, {}, "has no column 'text'; it has body, id. Set data.source.text_column."),
        ({"text": ["x"]}, {"meta_column": "title"}, "has no column 'title'; it has text. Set data.source.meta_column."),
        ({"text": [3]}, {}, "column 'text' holds int64, not text. Set data.source.text_column."),
        ({"text": [["x"]]}, {}, "column 'text' holds list<"),
        ({"text": ["x"] * 200 + [None]}, {}, "row 200 of column 'text' is null"),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, kind: str, columns: dict[str, list[object]], settings: dict[str, str], says: str
) -> None:
    source, write = WRITERS[kind]
    write(pa.table(columns), tmp_path / "t")
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}/t") + ".*" + re.escape(says)):
        list(source(f"{tmp_path}/t", **settings).documents())


@every_kind
def test_bytes_that_are_no_text(tmp_path: Path, kind: str) -> None:
    source, write = WRITERS[kind]
    raw = pa.array([b"fine"] * 130 + [b"caf\xe9"])
    text = pa.StringArray.from_buffers(len(raw), *raw.buffers()[1:])
    write(pa.table({"text": text}), tmp_path / "t")
    with pytest.raises(DataError, match=r"t: row 130 of column 'text' is not UTF-8: "):
        list(source(f"{tmp_path}/t").documents())


@every_kind
def test_a_damaged_file_is_named(tmp_path: Path, kind: str) -> None:
    source, write = WRITERS[kind]
    path = tmp_path / "t"
    write(pa.table({"text": [f"text {i}" for i in range(1000)]}), path)
    whole = path.read_bytes()
    for raw in (whole[: len(whole) // 2], b"no table at all", b""):
        path.write_bytes(raw)
        with pytest.raises(DataError, match=r"t is not a whole (Parquet|Arrow) file: ") as caught:
            list(source(str(path)).documents())
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(DataError, match="No file matches"):
        list(source(str(path)).documents())


@every_kind
def test_identity_follows_files_and_settings(tmp_path: Path, kind: str) -> None:
    source, write = WRITERS[kind]
    write(pa.table({"text": ["x"]}), tmp_path / "t")
    first = source(f"{tmp_path}/t").identity()
    assert source([f"{tmp_path}/t"]).identity() == first
    assert source(f"{tmp_path}/t", text_column="body").identity() != first
    os.utime(tmp_path / "t", ns=(1, 1))
    assert source(f"{tmp_path}/t").identity() != first
    with pytest.raises(ConfigError, match="text_column is empty"):
        source("t", text_column="")


def test_a_large_row_group_is_read_in_parts(tmp_path: Path) -> None:
    """Of a row group of 64 MB of text no more than its pages and some rows are in memory."""
    text = "x" * 63_999
    table = pa.table({"text": pa.array([f"{i % 10}{text}" for i in range(1000)])})
    pq.write_table(table, tmp_path / "t", row_group_size=1000, use_dictionary=False, write_batch_size=16)
    del table
    before = pa.total_allocated_bytes()
    most, n = 0, 0
    for _ in ParquetFiles(f"{tmp_path}/t").documents():
        most = max(most, pa.total_allocated_bytes() - before)
        n += 1
    assert n == 1000
    assert most < 24 << 20


def test_bytes_of_parquet_are_those_of_the_text_column(tmp_path: Path) -> None:
    texts = [f"text number {i}" for i in range(1000)]
    pq.write_table(pa.table({"text": texts, "other": ["y" * 1000] * 1000}), tmp_path / "t")
    estimate = ParquetFiles(f"{tmp_path}/t").n_bytes()
    assert estimate is not None
    assert 1 <= estimate / sum(map(len, texts)) < 1.5


def test_a_real_corpus_is_the_same_from_every_kind(tmp_path: Path, shared_data: Path) -> None:
    lines = JsonLines(f"{shared_data}/nietzsche.valid.jsonl.xz", text_column="body", meta_column="meta")
    documents = list(lines.documents())
    table = pa.table({"body": [d.text for d in documents], "meta": [d.meta for d in documents]})
    for source, write in WRITERS.values():
        write(table, tmp_path / "t")
        assert list(source(f"{tmp_path}/t", text_column="body", meta_column="meta").documents()) == documents
