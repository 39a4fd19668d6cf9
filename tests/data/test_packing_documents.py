"""Packings of documents: nothing is cut that fits, every token is a target once or counted as dropped."""

import pickle
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.packed import EOS, PAD, SOS, documents, layout, pairs, targets_by_input, write
from xlab.data.packing import IGNORED, BestFit, OneDocument, Packing, TokenBudget, Windows
from xlab.data.packing.best_fit import best_fit
from xlab.data.sharded_store import ShardedTokenStore
from xlab.data.token_store import TokenStore, TokenStoreWriter
from xlab.errors import ConfigError, DataError


def rows_of(windows: Windows) -> list[tuple[list[int], list[int], list[int]]]:
    """Inputs, targets and documents of every row of every item."""
    batches = [windows.__getitems__([index]) for index in range(len(windows))]
    names = ("inputs", "targets", "documents")
    return [row for batch in batches for row in zip(*(batch[name].tolist() for name in names), strict=True)]


def pieces_of(windows: Windows) -> list[list[int]]:
    """The inputs and the last target of every stretch of a document."""
    found: list[list[int]] = []
    for inputs, targets, numbers in rows_of(windows):
        kept = [(i, t, n) for i, t, n in zip(inputs, targets, numbers, strict=True) if t != IGNORED]
        for number in dict.fromkeys(n for *_, n in kept):
            own = [(i, t) for i, t, n in kept if n == number]
            assert all(t == after for (_, t), (after, _) in pairwise(own))
            found.append([own[0][0], *(t for _, t in own)])
    return found


def packings(seq_len: int, least: int = 2) -> list[Packing]:
    return [BestFit(), OneDocument(least), TokenBudget(max_tokens=2 * seq_len + 1, min_sample_length=least)]


@given(texts=documents, seq_len=st.integers(1, 9), least=st.integers(2, 5), n_shards=st.integers(1, 3))
@settings(deadline=None, max_examples=60)
def test_every_token_is_a_target_once_or_counted_as_dropped(
    tmp_path_factory: pytest.TempPathFactory, texts: list[list[int]], seq_len: int, least: int, n_shards: int
) -> None:
    folder = tmp_path_factory.mktemp("windows")
    parts = [texts[number::n_shards] for number in range(n_shards)]
    store = ShardedTokenStore([write(folder / f"{number}", part).prefix for number, part in enumerate(parts)])
    for packing in packings(seq_len, least):
        kept_from = 2 if isinstance(packing, BestFit) else least
        whole = [[SOS, *text, EOS] for text in texts]
        expected = [text[at : at + seq_len + 1] for text in whole for at in range(0, len(text) - 1, seq_len)]
        kept = [piece for piece in expected if len(piece) >= kept_from]
        arranged = layout(folder, seq_len, with_documents=True)
        if not kept:
            with pytest.raises(DataError, match="gives no sample"):
                packing.windows(store, arranged)
            continue
        windows = packing.windows(store, arranged)
        assert sorted(pieces_of(windows)) == sorted(kept)
        report = windows.report()
        assert report["targets"] == sum(len(piece) - 1 for piece in kept)
        assert report["targets"] + report["dropped_tokens"] + len(texts) == store.n_tokens
        assert report["cut_documents"] == sum(len(text) > seq_len + 1 for text in whole)
        assert report["dropped_documents"] == sum(
            all(len(text[at : at + seq_len + 1]) < kept_from for at in range(0, len(text) - 1, seq_len))
            for text in whole
        )
        rows = rows_of(windows)
        assert report["samples"] == len(rows)
        assert report["positions"] == sum(len(inputs) for inputs, *_ in rows)
        assert report["padding"] == sum(inputs.count(PAD) for inputs, *_ in rows)
        assert report["waste"] == report["padding"] / report["positions"]
        if kept_from == 2:
            assert Counter(targets_by_input(windows)) == Counter(pairs(texts))


@given(texts=documents, seq_len=st.integers(1, 9))
@settings(deadline=None, max_examples=40)
def test_rows_and_batches_are_of_their_kind(
    tmp_path_factory: pytest.TempPathFactory, texts: list[list[int]], seq_len: int
) -> None:
    folder = tmp_path_factory.mktemp("windows")
    store, arranged = write(folder / "a", texts), layout(folder, seq_len, with_documents=True)
    best, one, budget = (packing.windows(store, arranged) for packing in packings(seq_len))
    for windows in (best, one):
        batch = windows.__getitems__([0, -1, len(windows) - 1])
        assert batch["inputs"].shape == (3, seq_len)
        assert batch["inputs"][1].tolist() == [PAD] * seq_len
        assert batch["targets"][1].tolist() == [IGNORED] * seq_len
        assert batch["n_bytes"][1] == 0
        assert torch.equal(batch["inputs"][0], windows[0]["inputs"])
    assert all(set(numbers) == {0} for *_, numbers in rows_of(one))
    for index in range(len(budget)):
        batch = budget[index]
        filled = (batch["targets"] != IGNORED).sum(dim=1)
        assert batch["inputs"].numel() <= 2 * seq_len + 1
        assert batch["inputs"].size(1) == filled.max()
        assert batch["n_bytes"].shape == (len(filled),)
    empty = budget[-1]
    assert empty["inputs"].tolist() == [[PAD]]
    assert empty["targets"].tolist() == [[IGNORED]]
    for windows in (best, one, budget):
        with pytest.raises(IndexError, match=f"no (window|batch) {len(windows)}"):
            windows[len(windows)]


@given(lengths=st.lists(st.integers(1, 12), max_size=60), more=st.integers(0, 5))
def test_best_fit_is_that_of_the_textbook(lengths: list[int], more: int) -> None:
    capacity = 12 + more
    rows = best_fit(np.array(lengths, dtype=np.int64), capacity)
    filled = np.bincount(rows, weights=lengths).astype(int).tolist() if lengths else []
    assert max(filled, default=0) <= capacity
    assert set(rows.tolist()) == set(range(len(filled)))
    left: list[int] = []  # of each row; the row with the least room that fits takes the next longest piece
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in left if room >= length]
        if fitting:
            left.remove(min(fitting))
        left.append((min(fitting) if fitting else capacity) - length)
    assert sorted(capacity - total for total in filled) == sorted(left)


@pytest.mark.parametrize("packing", packings(5), ids=lambda packing: type(packing).__name__)
def test_blocks_of_documents_change_the_fit_and_nothing_else(
    tmp_path: Path, packing: Packing, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [[3 + (i + j) % 4 for j in range(i % 11)] for i in range(40)]
    store = write(tmp_path / "a", texts)
    monkeypatch.setattr("xlab.data.packing.plan._PIECES_AT_ONCE", 7)
    windows = packing.windows(store, layout(tmp_path, 5, with_documents=True))
    assert Counter(targets_by_input(windows)) == Counter(pairs(texts))


@pytest.mark.parametrize("packing", packings(5), ids=lambda packing: type(packing).__name__)
def test_windows_travel_to_a_worker_as_paths(tmp_path: Path, packing: Packing) -> None:
    texts = [[3] * n for n in (2, 5, 9, 200)]
    windows = packing.windows(write(tmp_path / "a", texts), layout(tmp_path, 5))
    sent = pickle.dumps(windows)
    assert len(sent) < 2000
    assert list(targets_by_input(pickle.loads(sent))) == list(targets_by_input(windows))


def test_documents_without_a_token_or_a_target_are_dropped_and_counted(tmp_path: Path) -> None:
    with TokenStoreWriter(tmp_path / "a", 7) as writer:
        for document in ([], [SOS], [SOS, EOS], [], [SOS, 3, EOS]):
            writer.write(document)
            writer.end_document()
    for packing in packings(4):
        report = packing.windows(TokenStore(tmp_path / "a"), layout(tmp_path, 4)).report()
        assert (report["targets"], report["dropped_documents"], report["dropped_tokens"]) == (3, 3, 0)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: OneDocument(1), "min_sample_length must be at least 2, an input and its target; got 1"),
        (lambda: TokenBudget(8, min_sample_length=0), "min_sample_length must be at least 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(make: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


@pytest.mark.parametrize("packing", packings(6))
def test_a_document_may_not_begin_with_a_token_outside_the_vocabulary(tmp_path: Path, packing: Packing) -> None:
    with TokenStoreWriter(tmp_path / "t", 100) as writer:
        for first in (3, 3, 99, 3):
            writer.write([first, 4, 5, 2])
            writer.end_document()
    windows = packing.windows(TokenStore(tmp_path / "t"), layout(tmp_path, 6))
    with pytest.raises(DataError, match="holds token 99, but the vocabulary has 7"):
        list(targets_by_input(windows))


def test_a_budget_below_a_window_and_a_store_without_samples_are_refused(tmp_path: Path) -> None:
    store = write(tmp_path / "a", [[3, 4]])
    with pytest.raises(ConfigError, match=r"max_tokens is 8, less than one sample of 9 tokens; .*data\.seq_len"):
        TokenBudget(8).windows(store, layout(tmp_path, 9))
    with pytest.raises(DataError, match="The val split gives no sample: all of its 1 documents are shorter"):
        OneDocument(9).windows(store, layout(tmp_path, 9, split="val"))
