"""The search for the largest batch ends at it, whatever the measurements do on the way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlab.errors import ConfigError
from xlab.lab.batch_size import MOST_PROOFS, Finding, find
from xlab.lab.plan_time import MemoryShortageError


def searched(
    base: int, each: int, limit: int, *, windows_per_step: int = 64, there_is: float = float("inf")
) -> Finding:
    """Search where memory is a straight line, of which there is an end."""

    def try_out(windows: int) -> int:
        n_bytes = base + each * windows
        if n_bytes > there_is:
            raise MemoryShortageError("a step was killed")
        return n_bytes

    return find(try_out, limit=limit, windows_per_step=windows_per_step)


@given(st.integers(0, 10**6), st.integers(1, 10**4), st.integers(1, 10**4))
def test_on_a_line_it_finds_the_largest(base: int, each: int, fitting: int) -> None:
    found = searched(base, each, limit=base + each * fitting + each // 2)
    assert found.largest == max(one.windows for one in found.attempts if (one.n_bytes or 0) <= found.limit)
    assert fitting - found.largest <= max(1, 0.02 * found.largest)
    assert len(found.attempts) <= 3 + MOST_PROOFS
    assert all(
        one.n_bytes is not None and one.n_bytes <= found.limit for one in found.attempts if one.windows <= found.largest
    )


def test_no_process_that_is_killed_ends_the_search() -> None:
    found = searched(0, 100, limit=100_000, there_is=7_000)  # the system has less than it said
    assert found.largest <= 70
    assert any(one.n_bytes is None for one in found.attempts)
    assert found.largest >= 60


@pytest.mark.parametrize(
    ("fitting", "per_step", "size", "accumulate"),
    [(100, 64, 64, 1), (63, 64, 32, 2), (10, 24, 8, 3), (10, 13, 1, 13), (1, 8, 1, 8)],
)
def test_a_step_keeps_its_tokens(fitting: int, per_step: int, size: int, accumulate: int) -> None:
    found = searched(10, 10, limit=10 + 10 * fitting, windows_per_step=per_step)
    assert (found.batch_size, found.accumulate) == (size, accumulate)


def test_memory_that_does_not_grow_yet_is_no_reason_to_stop() -> None:
    found = find(lambda windows: max(1000, 20 * windows), limit=4000, windows_per_step=1)
    assert found.largest > 190


def test_where_one_window_is_too_much_the_remedy_is_told() -> None:
    with pytest.raises(
        ConfigError, match=r"one window at a time takes .* lower data\.seq_len .*activation_checkpointing"
    ):
        searched(2**30, 2**20, limit=2**20)
