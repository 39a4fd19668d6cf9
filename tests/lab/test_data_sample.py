"""Samples of hashes are exact while they fit, estimate well when they do not, and never grow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlab.lab.data_sample import HashSample, Share, Sought


def hashes(numbers: object) -> np.ndarray:
    """Something as good as random for each number, the same for the same."""
    mixed = np.asarray(numbers, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(27))


@given(st.lists(st.lists(st.integers(0, 30)), max_size=8), st.integers(31, 100))
def test_what_fits_is_counted_exactly(parts: list[list[int]], capacity: int) -> None:
    sample = HashSample(capacity)
    for part in parts:
        sample.add(hashes(part))
    everything = [number for part in parts for number in part]
    n_different = len(set(everything))
    assert sample.repeated() == Share(len(everything) - n_different, len(everything))
    assert sample.hashes.tolist() == sorted(set(hashes(everything).tolist()))


@given(st.lists(st.integers(0, 500), max_size=600), st.integers(1, 40), st.integers(1, 50))
def test_a_full_sample_has_some_hashes_with_all_their_occurrences(
    numbers: list[int], capacity: int, at_once: int
) -> None:
    sample = HashSample(capacity)
    for start in range(0, len(numbers), at_once):
        sample.add(hashes(numbers[start : start + at_once]))
    kept = sample.hashes
    assert len(kept) <= capacity
    everything = hashes(numbers)
    of_sample = everything[everything & np.uint64(sample.one_in - 1) == 0]
    assert set(kept.tolist()) == set(of_sample.tolist())
    assert sample.repeated() == Share(len(of_sample) - len(kept), len(of_sample), sample.one_in)


def test_an_estimate_is_near() -> None:
    sample = HashSample(capacity=2000)
    sample.add(hashes(np.arange(50_000)))
    sample.add(hashes(np.arange(25_000)))
    assert sample.one_in in (32, 64)
    assert not sample.repeated().is_exact
    assert sample.repeated().value == pytest.approx(1 / 3, abs=0.03)


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)), st.sampled_from([5, 100]))
def test_what_is_sought_is_found(ours: set[int], theirs: set[int], capacity: int) -> None:
    sample = HashSample(capacity)
    sample.add(hashes(sorted(ours)))
    sought = Sought(sample)
    sought.see(hashes(sorted(theirs)))
    asked = [number for number in sorted(ours) if sought.askable(hashes([number]))[0]]
    assert sought.was_seen(hashes(asked)).tolist() == [number in theirs for number in asked]
    if capacity == 100:
        assert len(asked) == len(ours)


def test_a_share_of_nothing_is_nothing() -> None:
    assert Share(0, 0).value == 0
    assert HashSample().repeated() == Share(0, 0)
