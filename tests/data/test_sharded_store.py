"""Shards read like the one store that they could be."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlab.data.sharded_store import ShardedTokenStore, open_store, shard_prefixes
from xlab.data.token_reader import TokenReader
from xlab.data.token_store import TokenStore, TokenStoreWriter
from xlab.errors import DataError


def write(prefix: Path, documents: list[list[int]], vocab_size: int = 300) -> Path:
    with TokenStoreWriter(prefix, vocab_size) as writer:
        for document in documents:
            writer.write(document)
            writer.end_document()
    return prefix


def write_set(prefix: Path, shards: list[list[list[int]]]) -> Path:
    for number, documents in enumerate(shards):
        write(Path(f"{prefix}-{number:05}-of-{len(shards):05}"), documents, 300 if number % 2 else 1 << 17)
    return prefix


def content(store: TokenReader) -> dict[str, list[int]]:
    places, numbers = np.arange(store.n_tokens), np.arange(len(store) + 1)
    return {
        "tokens": store.gather(places).tolist(),
        "backwards": store.gather(places[::-1].reshape(1, -1)).flatten().tolist(),
        "slice": store.slice(1, store.n_tokens - 1).tolist(),
        "starts": store.starts(numbers).tolist(),
        "owners": store.document_of(places).tolist(),
        "documents": [store.document(number).tolist() for number in range(len(store))],
        "lengths": [length for block in store.blocks(2) for length in block.lengths.tolist()],
    }


document = st.lists(st.integers(0, 299), max_size=5)


@given(shards=st.lists(st.lists(document, max_size=4), min_size=1, max_size=4))
def test_shards_are_one_dataset(tmp_path_factory: pytest.TempPathFactory, shards: list[list[list[int]]]) -> None:
    folder = tmp_path_factory.mktemp("shards")
    together = open_store(write_set(folder / "train", shards))
    assert isinstance(together, ShardedTokenStore)
    whole = open_store(write(folder / "whole", [text for shard in shards for text in shard]))
    assert isinstance(whole, TokenStore)
    assert content(together) == content(whole)
    assert content(pickle.loads(pickle.dumps(together))) == content(whole)
    together.verify(300)
    with pytest.raises(IndexError, match=f"no document {len(whole)}"):
        together.document(len(whole))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    prefix = write_set(tmp_path / "train", [[[1]], [[2]], [[3]], [[4]]])
    for number in (1, 2):
        for suffix in ("bin", "idx"):
            Path(f"{prefix}-{number:05}-of-00004.{suffix}").unlink()
    with pytest.raises(DataError, match=r"train-00001-of-00004, and 1 more is missing from a set of 4 shards"):
        open_store(prefix)
    Path(f"{prefix}-00003-of-00004.idx").unlink()
    write(Path(f"{prefix}-00001-of-00004"), [])
    write(Path(f"{prefix}-00002-of-00004"), [])
    with pytest.raises(DataError, match=r"train-00003-of-00004\.idx is missing"):
        open_store(prefix)


def test_two_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "train", [[[1]], [[2]]])
    write_set(tmp_path / "train", [[[1]], [[2]], [[3]]])
    with pytest.raises(DataError, match="is the name of two sets, of 2 and of 3 shards"):
        open_store(tmp_path / "train")


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    assert shard_prefixes(tmp_path / "train") == shard_prefixes(tmp_path / "no folder" / "train") == []
    with pytest.raises(DataError, match=r"There is no token store .*train: neither .*train\.idx nor .*-00000-of-"):
        open_store(tmp_path / "train")
    with pytest.raises(DataError, match="needs at least one"):
        ShardedTokenStore([])


def test_other_names_are_no_shards(tmp_path: Path) -> None:
    write_set(tmp_path / "train", [[[1]], [[2]]])
    write_set(tmp_path / "train-more", [[[1]], [[2]], [[3]]])
    (tmp_path / "train-00000-of-00003.txt").touch()
    assert len(open_store(tmp_path / "train")) == 2


def test_damage_in_a_shard_is_found_by_verifying(tmp_path: Path) -> None:
    prefix = write_set(tmp_path / "train", [[[1]], [[2, 250]]])
    store = open_store(prefix)
    with pytest.raises(DataError, match=r"train-00001-of-00002\.bin holds token 250 at place 1, in document 0"):
        store.verify(250)


def test_another_content_has_another_identity(tmp_path: Path) -> None:
    first = open_store(write_set(tmp_path / "a", [[[1]], [[2, 3]]]))
    second = open_store(write_set(tmp_path / "b", [[[1]], [[2, 3]]]))
    assert first.identity() == open_store(tmp_path / "a").identity() != second.identity()
