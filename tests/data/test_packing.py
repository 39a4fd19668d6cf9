"""Every token of every document comes out of packing exactly once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from xlab.data.packing import IGNORED, ContiguousWindows, as_is
from xlab.data.sampler import EvalBatchSampler
from xlab.data.token_store import TokenStore, TokenStoreWriter
from xlab.errors import ConfigError, DataError

PAD, SOS, EOS = 0, 1, 2
BYTES = np.array([0, 0, 0, 1, 2, 3, 4])  # of each token in a vocabulary of 7


def pack(folder: Path, documents: list[list[int]], seq_len: int, split: str = "train") -> ContiguousWindows:
    with TokenStoreWriter(folder / "a", 7) as writer:
        for document in documents:
            writer.write([SOS, *document, EOS])
            writer.end_document()
    return ContiguousWindows(TokenStore(folder / "a"), seq_len, pad_id=PAD, sos_id=SOS, byte_lengths=BYTES, split=split)


documents = st.lists(st.lists(st.integers(3, 6), max_size=9), min_size=4, max_size=8)


@given(documents=documents, seq_len=st.integers(1, 7))
@settings(deadline=None, max_examples=60)
def test_every_token_is_a_target_once(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], seq_len: int
) -> None:
    windows = pack(tmp_path_factory.mktemp("windows"), documents, seq_len)
    batch = windows.__getitems__(range(len(windows)))
    assert batch["inputs"].shape == batch["targets"].shape == (len(windows), seq_len)
    targets = batch["targets"].flatten()
    assert targets[targets != IGNORED].tolist() == [token for document in documents for token in [*document, EOS]]
    assert batch["n_bytes"].sum() == sum(BYTES[document].sum() for document in documents if document)
    stream = [token for document in documents for token in [SOS, *document, EOS]]
    inputs = batch["inputs"].flatten().tolist()
    # the last token is only a target, unless the padding makes room for it
    assert inputs[: len(stream) - 1] == stream[:-1]
    assert set(inputs[len(stream) :]) <= {PAD}


def test_a_target_is_what_follows(tmp_path: Path) -> None:
    windows = pack(tmp_path, [[3, 4], [5, 6, 3]], seq_len=4)
    assert [windows[i]["inputs"].tolist() for i in range(len(windows))] == [[1, 3, 4, 2], [1, 5, 6, 3]]
    assert [windows[i]["targets"].tolist() for i in range(2)] == [[3, 4, 2, IGNORED], [5, 6, 3, 2]]
    assert [windows[i]["n_bytes"].item() for i in range(2)] == [3, 8]


def test_the_last_window_is_padded(tmp_path: Path) -> None:
    windows = pack(tmp_path, [[3, 4, 5]], seq_len=3)
    assert windows[1]["inputs"].tolist() == [5, EOS, PAD]
    assert windows[1]["targets"].tolist() == [EOS, IGNORED, IGNORED]


def test_an_item_is_a_row_of_its_batch(tmp_path: Path) -> None:
    windows = pack(tmp_path, [[3, 4, 5], [6, 6], [3] * 7], seq_len=3)
    order = [2, 0, -1, 3]
    batch = windows.__getitems__(order)
    for row, index in enumerate(order):
        for name, value in windows[index].items():
            assert value.dtype == torch.int64
            assert torch.equal(value, batch[name][row])
    assert batch["n_bytes"].shape == (4,)
    for wrong in (-2, len(windows)):
        with pytest.raises(IndexError, match=f"no window {wrong}"):
            windows[wrong]


def test_the_empty_window_counts_nothing(tmp_path: Path) -> None:
    empty = pack(tmp_path, [[3, 4, 5]], seq_len=4)[-1]
    assert empty["inputs"].tolist() == [PAD] * 4
    assert empty["targets"].tolist() == [IGNORED] * 4
    assert empty["n_bytes"] == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_gives_whole_batches(tmp_path: Path, workers: int) -> None:
    windows = pack(tmp_path, [[3, 4, 5], [6, 6], [3] * 7], seq_len=3)
    sampler = EvalBatchSampler(len(windows), 4)
    batches = list(DataLoader(windows, batch_sampler=sampler, collate_fn=as_is, num_workers=workers))
    assert len(batches) == len(sampler)
    assert torch.equal(batches[0]["inputs"], windows.__getitems__([0, 1, 2, 3])["inputs"])


def test_a_split_smaller_than_a_window_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"The val split has 5 tokens, too few for one window of 5 \+ 1.*at most 4"):
        pack(tmp_path, [[3, 4, 5]], seq_len=5, split="val")
    with pytest.raises(ConfigError, match="seq_len must be at least 1, got 0"):
        pack(tmp_path, [[3, 4, 5]], seq_len=0)


def test_tokens_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    pack(tmp_path, [[3, 6]], seq_len=2)
    windows = ContiguousWindows(TokenStore(tmp_path / "a"), 2, pad_id=PAD, sos_id=SOS, byte_lengths=BYTES[:6])
    with pytest.raises(DataError, match="holds token 6, but the vocabulary has 6; the store was made with another"):
        windows[0]
