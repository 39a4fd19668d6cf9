"""Stores give back what was written, in Megatron's layout, and refuse what is damaged."""

import pickle
import struct
import tracemalloc
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xlab.data.token_store import TokenStore, TokenStoreWriter, token_dtype
from xlab.errors import DataError


def write(prefix: Path, documents: list[list[int]], vocab_size: int = 300) -> TokenStore:
    with TokenStoreWriter(prefix, vocab_size) as writer:
        for document in documents:
            writer.write(document)
            writer.end_document()
    return TokenStore(prefix)


@given(
    documents=st.lists(st.lists(st.integers(0, 299), max_size=20), max_size=12),
    vocab_size=st.sampled_from([300, 1 << 16, (1 << 16) + 1]),
    at_once=st.integers(1, 5),
)
@settings(deadline=None, max_examples=60)
def test_documents_come_back(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], vocab_size: int, at_once: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xlab.data.token_store._SIZES_AT_ONCE", at_once)
        store = write(tmp_path_factory.mktemp("store") / "train", documents, vocab_size)
    assert [store.document(i).tolist() for i in range(len(store))] == documents
    assert store.tokens.tolist() == list(chain.from_iterable(documents)) == store.slice(0, store.n_tokens).tolist()
    assert store.dtype == token_dtype(vocab_size) == (np.int32 if vocab_size > 1 << 16 else np.uint16)
    again = pickle.loads(pickle.dumps(store))
    assert len(again) == len(documents)
    assert again.tokens.tolist() == store.tokens.tolist()


def test_the_layout_is_megatron_s(tmp_path: Path) -> None:
    write(tmp_path / "a", [[1, 7, 2], [1, 2]])
    assert (tmp_path / "a.bin").read_bytes() == struct.pack("<5H", 1, 7, 2, 1, 2)
    assert (tmp_path / "a.idx").read_bytes() == (
        b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, 2, 3) + struct.pack("<2i2q3q", 3, 2, 0, 6, 0, 1, 2)
    )


def test_documents_of_several_sequences(tmp_path: Path) -> None:
    """Megatron's own tools store a document sentence by sentence."""
    (tmp_path / "a.bin").write_bytes(struct.pack("<6i", 5, 6, 7, 8, 9, 10))
    index = struct.pack("<9sQBQQ3i3q3q", b"MMIDIDX\x00\x00", 1, 4, 3, 3, 1, 2, 3, 0, 4, 12, 0, 2, 3)
    (tmp_path / "a.idx").write_bytes(index)
    store = TokenStore(tmp_path / "a")
    assert [store.document(i).tolist() for i in range(len(store))] == [[5, 6, 7], [8, 9, 10]]
    with pytest.raises(IndexError, match="no document 2"):
        store.document(2)


def test_nothing_is_visible_before_the_end_or_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), TokenStoreWriter(tmp_path / "a", 300) as writer:  # noqa: PT012
        writer.write([1, 2])
        writer.end_document()
        assert not {"a.bin", "a.idx"} & {path.name for path in tmp_path.iterdir()}
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_tokens_outside_the_vocabulary_are_refused(tmp_path: Path) -> None:
    for wrong in (300, -1):
        with (
            pytest.raises(DataError, match=f"Token {wrong} is outside the vocabulary of 300"),
            TokenStoreWriter(tmp_path / "a", 300) as writer,
        ):
            writer.write([5, wrong])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda idx, bin_: (None, bin_), r"a\.idx is missing"),
        (lambda idx, bin_: (idx, None), r"a\.bin is missing"),
        (lambda idx, bin_: (idx, bin_[:-1]), r"a\.bin is 9 bytes, but a\.idx tells of 10"),
        (lambda idx, bin_: (idx, bin_ + b"\0\0"), r"a\.bin is 12 bytes, but a\.idx tells of 10"),
        (lambda idx, bin_: (idx[:-8], bin_), r"a\.idx is 74 bytes, but its header tells of 82"),
        (lambda idx, bin_: (idx[:20], bin_), r"a\.idx is cut off in its header, after 20 bytes"),
        (lambda idx, bin_: (b"", bin_), r"a\.idx is no index of Megatron's format"),
        (lambda idx, bin_: (b"something else" * 9, bin_), r"a\.idx is no index of Megatron's format"),
        (lambda idx, bin_: (idx[:9] + b"\2" + idx[10:], bin_), r"has version 2 of Megatron's format"),
        (
            lambda idx, bin_: (idx[:9] + idx[16:8:-1] + idx[17:], bin_),
            r"a\.idx is big-endian, and XLab reads little-end",
        ),
        (lambda idx, bin_: (idx[:17] + b"\7" + idx[18:], bin_), r"type code 7, which is no integer"),
        (lambda idx, bin_: (idx[:17] + b"\x63" + idx[18:], bin_), r"type code 99, which is no integer"),
        (lambda idx, bin_: (idx[:-8] + b"\1" + idx[-7:], bin_), r"ends its documents at 1 of 2"),
    ],
)
def test_damage_is_named_when_the_store_is_opened(tmp_path: Path, damage, says: str) -> None:
    write(tmp_path / "a", [[1, 7, 2], [1, 2]])
    paths = tmp_path / "a.idx", tmp_path / "a.bin"
    for path, content in zip(paths, damage(*(path.read_bytes() for path in paths)), strict=True):
        path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DataError, match=says):
        TokenStore(tmp_path / "a")


@given(documents=st.lists(st.lists(st.integers(0, 299), max_size=9), max_size=12), at_once=st.integers(1, 5))
def test_every_place_knows_its_document(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], at_once: int
) -> None:
    store = write(tmp_path_factory.mktemp("store") / "train", documents)
    owners = [number for number, document in enumerate(documents) for _ in document]
    assert store.document_of(np.arange(store.n_tokens)).tolist() == owners
    assert store.gather(np.arange(store.n_tokens)[::-1]).tolist() == list(chain.from_iterable(documents))[::-1]
    edges = store.starts(np.arange(len(documents) + 1)).tolist()
    assert edges == np.cumsum([0, *map(len, documents)]).tolist()
    blocks = list(store.blocks(at_once))
    assert [start for block in blocks for start in block.starts.tolist()] == edges[:-1]
    assert [length for block in blocks for length in block.lengths.tolist()] == list(map(len, documents))
    assert all(len(block.starts) <= at_once for block in blocks)
    store.verify(300)


def index(sizes: list[int], offsets: list[int], starts: list[int]) -> bytes:
    header = struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, 8, len(sizes), len(starts))
    return header + struct.pack(f"<{len(sizes)}i{len(offsets)}q{len(starts)}q", *sizes, *offsets, *starts)


@pytest.mark.parametrize(
    ("damaged", "says"),
    [
        (
            index([2, 2, 2], [0, 2, 8], [0, 1, 2, 3]),
            "puts sequence 1, of 2 tokens, at byte 2, where the one before .* 4",
        ),
        (index([2, 2, 2], [0, 6, 8], [0, 1, 2, 3]), "puts sequence 1, of 2 tokens, at byte 6"),
        (index([2, 2, 2], [0, 1 << 40, 8], [0, 1, 2, 3]), "puts sequence 1, of 2 tokens, at byte 1099511627776"),
        (index([2, -2, 2], [0, 4, 8], [0, 1, 2, 3]), "puts sequence 1, of -2 tokens"),
        (index([2, 2, 2], [2, 4, 8], [0, 1, 2, 3]), "puts sequence 0, of 2 tokens, at byte 2, where .* ends at 0"),
        (index([2, 2, 2], [0, 4, 8], [0, 2, 1, 3]), "lets document 2 begin with sequence 1, which is out of order"),
        (
            index([2, 2, 2], [0, 4, 8], [0, 9, 2, 3]),
            "lets document 1 begin with sequence 9, which is out of order or not",
        ),
        (index([2, 2, 2], [0, 4, 8], [1, 1, 2, 3]), "lets document 0 begin with sequence 1"),
        (index([2, 2, 2], [0, 4, 8], [-1, 1, 2, 3]), "lets document 0 begin with sequence -1"),
    ],
)
def test_damage_inside_the_index_is_found_by_verifying(tmp_path: Path, damaged: bytes, says: str) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(12))
    (tmp_path / "a.idx").write_bytes(damaged)
    store = TokenStore(tmp_path / "a")  # looks at the ends only
    with pytest.raises(DataError, match=says):
        store.verify()


@pytest.mark.parametrize(
    ("damaged", "says"),
    [
        (index([2, 2, 2], [0, 1 << 40, 8], [0, 1, 2, 3]), r"puts document 1 outside .*a\.bin; make the store again"),
        (index([2, 2, 2], [0, -4, 8], [0, 1, 2, 3]), r"puts document 1 outside .*a\.bin"),
        (index([2, 2, 2], [0, 4, 8], [0, 9, 2, 3]), r"puts document 1 outside .*a\.bin"),
        (index([2, 2, 2], [0, 4, 8], [0, 2, 1, 3]), r"lets document 1 end before it begins"),
    ],
)
def test_damage_inside_the_index_is_named_where_it_is_met(tmp_path: Path, damaged: bytes, says: str) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(12))
    (tmp_path / "a.idx").write_bytes(damaged)
    with pytest.raises(DataError, match=says):
        list(TokenStore(tmp_path / "a").blocks())


def test_tokens_of_another_vocabulary_are_found_by_verifying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlab.data.token_store._SIZES_AT_ONCE", 2)
    store = write(tmp_path / "a", [[1, 7, 2], [1, 299, 2]])
    store.verify(300)
    with pytest.raises(DataError, match="holds token 299 at place 4, in document 1, but the vocabulary has 299"):
        store.verify(299)


def test_a_trillion_tokens_open_as_fast_as_ten(tmp_path: Path) -> None:
    """Sparse files: nothing of them may be read but the ends, and what is looked up."""
    n_documents, per_document = 1_000_000, 1_000_000
    last = (n_documents - 1) * per_document
    with (tmp_path / "a.bin").open("wb") as file:
        file.truncate(2 * n_documents * per_document)
    with (tmp_path / "a.idx").open("wb") as file:
        file.write(struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, 8, n_documents, n_documents + 1))
        for at, value, form in (
            (34 + 4 * (n_documents - 1), per_document, "<i"),
            (34 + 12 * n_documents - 8, 2 * last, "<q"),
            (34 + 20 * n_documents, n_documents, "<q"),
        ):
            file.seek(at)
            file.write(struct.pack(form, value))
    tracemalloc.start()
    store = TokenStore(tmp_path / "a")
    assert (len(store), store.n_tokens) == (n_documents, n_documents * per_document)
    assert store.gather([last]).tolist() == [0]
    assert store.document_of(last + 5) == n_documents - 1
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
