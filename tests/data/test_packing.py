"""Contiguous windows: every token of every document comes out of them exactly once, or as often as they overlap."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tests.data.packed import BYTES, EOS, PAD, SOS, documents, layout, pairs, targets_by_input, write
from xlab.data.packing import IGNORED, ContiguousWindows, Windows, as_is
from xlab.data.sampler import EvalBatchSampler
from xlab.errors import ConfigError, DataError


def pack(
    folder: Path, texts: list[list[int]], seq_len: int, step_size: int | None = None, split: str = "train"
) -> Windows:
    arranged = layout(folder, seq_len, split=split, is_evaluation=split != "train", with_documents=True)
    return ContiguousWindows(step_size).windows(write(folder / "a", texts), arranged)


@given(texts=documents, seq_len=st.integers(1, 7))
@settings(deadline=None, max_examples=60)
def test_every_token_is_a_target_once(
    tmp_path_factory: pytest.TempPathFactory, texts: list[list[int]], seq_len: int
) -> None:
    windows = pack(tmp_path_factory.mktemp("windows"), texts, seq_len)
    batch = windows.__getitems__(range(len(windows)))
    assert batch["inputs"].shape == batch["targets"].shape == (len(windows), seq_len)
    targets = batch["targets"].flatten()
    assert targets[targets != IGNORED].tolist() == [token for document in texts for token in [*document, EOS]]
    assert batch["n_bytes"].sum() == sum(BYTES[document].sum() for document in texts if document)
    stream = [token for document in texts for token in [SOS, *document, EOS]]
    inputs = batch["inputs"].flatten().tolist()
    # the last token is only a target, unless the padding makes room for it
    assert inputs[: len(stream) - 1] == stream[:-1]
    assert set(inputs[len(stream) :]) <= {PAD}


@given(texts=documents, seq_len=st.integers(1, 7), data=st.data())
@settings(deadline=None, max_examples=60)
def test_overlapping_windows_are_told_exactly(
    tmp_path_factory: pytest.TempPathFactory, texts: list[list[int]], seq_len: int, data: st.DataObject
) -> None:
    step_size = data.draw(st.integers(1, seq_len))
    folder = tmp_path_factory.mktemp("windows")
    stream = [token for document in texts for token in [SOS, *document, EOS]]
    train = pack(folder, texts, seq_len, step_size)
    begins = [index * step_size for index in range(len(train))]
    assert begins[-1] + seq_len >= len(stream) - 1
    assert len(begins) == 1 or begins[-2] + seq_len < len(stream) - 1  # not one window more than it takes
    for index, begin in enumerate(begins):
        expected = [IGNORED if token == SOS else token for token in stream[begin + 1 : begin + seq_len + 1]]
        assert train[index]["targets"].tolist()[: len(expected)] == expected
    evaluation = pack(folder, texts, seq_len, step_size, split="val")
    assert Counter(targets_by_input(evaluation)) == Counter(pairs(texts))
    for windows in (train, evaluation):
        report = windows.report()
        rows = windows.__getitems__(range(len(windows)))
        assert report["targets"] == (rows["targets"] != IGNORED).sum()
        assert report["padding"] == (rows["inputs"] == PAD).sum()
        assert report["samples"] == len(windows)
        assert report["waste"] == report["padding"] / report["positions"] == report["padding"] / rows["inputs"].numel()
        edges = np.cumsum([0, *(len(text) + 2 for text in texts)])
        cut = [not any(b <= s and e - 2 < b + seq_len for b in begins) for s, e in pairwise(edges)]
        assert report["cut_documents"] == sum(cut)


@given(texts=documents, seq_len=st.integers(1, 7), data=st.data())
@settings(deadline=None, max_examples=60)
def test_documents_are_numbered_where_they_begin(
    tmp_path_factory: pytest.TempPathFactory, texts: list[list[int]], seq_len: int, data: st.DataObject
) -> None:
    step_size = data.draw(st.integers(1, seq_len))
    windows = pack(tmp_path_factory.mktemp("windows"), texts, seq_len, step_size)
    batch = windows.__getitems__([*range(len(windows)), -1])
    begins = batch["inputs"] == SOS
    begins[:, 0] = False
    assert torch.equal(batch["documents"], begins.cumsum(dim=1))


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


def test_documents_are_numbered_only_where_they_are_asked_for(tmp_path: Path) -> None:
    store = write(tmp_path / "a", [[3, 4, 5]])
    assert "documents" not in ContiguousWindows().windows(store, layout(tmp_path, 2))[0]


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


def test_steps_that_leave_something_out_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="step_size must be at least 1, got 0"):
        ContiguousWindows(0)
    with pytest.raises(ConfigError, match=r"step_size is 4, and would leave out .* of 3 tokens; .*data\.seq_len"):
        pack(tmp_path, [[3, 4, 5]], seq_len=3, step_size=4)


@pytest.mark.parametrize("wrong", [6, -2])
def test_tokens_of_another_vocabulary_are_refused(tmp_path: Path, wrong: int) -> None:
    store = write(tmp_path / "a", [[3, 6]])
    (tmp_path / "a.bin").write_bytes(np.array([SOS, 3, wrong, EOS], dtype=np.int16).tobytes())
    index = (tmp_path / "a.idx").read_bytes()
    (tmp_path / "a.idx").write_bytes(index[:17] + b"\3" + index[18:])  # as signed numbers
    windows = ContiguousWindows().windows(type(store)(tmp_path / "a"), layout(tmp_path, 2, byte_lengths=BYTES[:6]))
    with pytest.raises(DataError, match=f"holds token {wrong}, but the vocabulary has 6; the store was made with anot"):
        windows[0]
