"""The order of windows: a bijection that seed and epoch decide, whoever asks and wherever it is resumed."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xlab.data.sampler import EvalBatchSampler, TrainBatchSampler, order_key, permute
from xlab.errors import ConfigError, DataError


@given(n=st.integers(1, 3000), seed=st.integers(), epoch=st.integers(0, 100))
@settings(deadline=None, max_examples=50)
def test_the_order_is_a_bijection(n: int, seed: int, epoch: int) -> None:
    order = permute(np.arange(n), n, order_key(seed, epoch))
    assert sorted(order.tolist()) == list(range(n))


@given(n=st.integers(1, 1 << 62), index=st.integers(0, (1 << 62) - 1))
@settings(deadline=None, max_examples=100)
def test_places_are_mapped_one_by_one_however_many_there_are(n: int, index: int) -> None:
    indices = np.unique([index % n, 0, n - 1])
    places = permute(indices, n, order_key(1, 2))
    assert len(set(places.tolist())) == len(indices)
    assert (places >= 0).all()
    assert (places < n).all()
    assert permute(indices[-1:], n, order_key(1, 2)).tolist() == places[-1:].tolist()


def test_every_place_is_as_likely() -> None:
    n, seeds = 10, 4000
    seen = np.zeros((n, n))
    for seed in range(seeds):
        seen[np.arange(n), permute(np.arange(n), n, order_key(seed, 0))] += 1
    # chi-square of each row, 9 degrees of freedom: 33.7 is exceeded once in ten thousand; the seeds are fixed
    assert ((seen - seeds / n) ** 2 / (seeds / n)).sum(axis=1).max() < 33.7


def test_neighbours_part() -> None:
    order = permute(np.arange(10_000), 10_000, order_key(0, 0))
    assert abs(np.corrcoef(np.arange(10_000), order)[0, 1]) < 0.05
    assert (np.diff(order) == 1).sum() < 10


def test_wrong_places_are_refused() -> None:
    with pytest.raises(ValueError, match=r"indices must be in \[0, 3\)"):
        permute([3], 3, order_key(0, 0))
    with pytest.raises(ValueError, match="n must be in"):
        permute([], 0, order_key(0, 0))


def test_seeds_and_epochs_differ() -> None:
    first = list(TrainBatchSampler(100, 10, seed=1))
    assert list(TrainBatchSampler(100, 10, seed=1)) == first
    assert list(TrainBatchSampler(100, 10, seed=2)) != first
    sampler = TrainBatchSampler(100, 10, seed=1)
    sampler.set_epoch(1)
    assert list(sampler) != first


@given(n=st.integers(24, 200), world_size=st.sampled_from([1, 2, 3, 4, 6]), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_any_world_size_sees_the_same_micro_batches(n: int, world_size: int, seed: int) -> None:
    whole = list(TrainBatchSampler(n, 12, seed=seed))
    ranks = [
        TrainBatchSampler(n, 12 // world_size, rank=rank, world_size=world_size, seed=seed)
        for rank in range(world_size)
    ]
    assert [list(chain.from_iterable(batches)) for batches in zip(*ranks, strict=True)] == whole
    assert {len(rank) for rank in ranks} == {len(whole)} == {n // 12}
    used = list(chain.from_iterable(whole))
    assert len(set(used)) == len(used)


@given(
    n=st.integers(12, 200),
    shape=st.sampled_from([(1, 12, 1), (2, 6, 1), (2, 2, 3), (3, 4, 1), (1, 3, 4), (1, 4, 3), (6, 1, 2), (12, 1, 1)]),
    epoch=st.integers(0, 3),
)
@settings(deadline=None, max_examples=60)
def test_any_ranks_batches_and_accumulation_make_the_same_steps(
    n: int, shape: tuple[int, int, int], epoch: int
) -> None:
    world_size, batch_size, accumulated = shape
    whole = TrainBatchSampler(n, 12)
    ranks = [
        TrainBatchSampler(n, batch_size, rank=rank, world_size=world_size, accumulated=accumulated)
        for rank in range(world_size)
    ]
    for sampler in (whole, *ranks):
        sampler.set_epoch(epoch)
    micro_batches = [list(chain.from_iterable(batches)) for batches in zip(*ranks, strict=True)]
    assert len(micro_batches) == len(ranks[0]) == n // 12 * accumulated
    steps = [list(chain.from_iterable(micro_batches[at : at + accumulated])) for at in range(0, n, accumulated)]
    assert [step for step in steps if step] == list(whole)


def test_an_epoch_shorter_than_a_step_has_the_micro_batches_that_there_are() -> None:
    assert len(TrainBatchSampler(11, 2, world_size=2, accumulated=3)) == 2


@given(at=st.integers(0, 10))
@settings(deadline=None)
def test_resuming_goes_on_exactly(at: int) -> None:
    unbroken = TrainBatchSampler(103, 10, seed=3)
    unbroken.set_epoch(4)
    rest = list(unbroken)[at:]
    resumed = TrainBatchSampler(103, 10, seed=3)
    resumed.resume(epoch=4, batch=at)
    assert list(resumed) == rest
    assert len(resumed) == 10
    for sampler in (resumed, unbroken):
        sampler.set_epoch(5)
    assert list(resumed) == list(unbroken)
    assert len(list(resumed)) == 10


def test_too_few_windows_and_senseless_settings_are_refused() -> None:
    with pytest.raises(DataError, match=r"7 windows, too few for one batch of 4 on each of 2 ranks.*at most 3"):
        TrainBatchSampler(7, 4, world_size=2)
    with pytest.raises(DataError, match="cannot be resumed at batch 3: it has 2"):
        TrainBatchSampler(8, 4).resume(0, 3)
    with pytest.raises(ConfigError, match=r"batch_size must be at least 1, got 0"):
        EvalBatchSampler(7, 0)
    with pytest.raises(ConfigError, match="Rank 2 is not one of 2"):
        EvalBatchSampler(7, 1, rank=2, world_size=2)


@given(n=st.integers(1, 60), batch_size=st.integers(1, 7), world_size=st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_evaluation_sees_every_window_once(n: int, batch_size: int, world_size: int) -> None:
    ranks = [EvalBatchSampler(n, batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    batches = [list(rank) for rank in ranks]
    assert {len(each) for each in batches} == {len(ranks[0])}
    in_order = [index for step in zip(*batches, strict=True) for batch in step for index in batch]
    assert in_order == [*range(n), *[-1] * (len(in_order) - n)]
