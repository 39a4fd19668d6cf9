"""Shares make the whole again, and every matrix has one owner."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xlab.training import layouts
from xlab.training.layouts import Layout
from xlab.training.tensor_parallel import Cut

RANKS = st.integers(1, 4)


@given(
    n_data=RANKS,
    n_tensor=RANKS,
    parts=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    other=st.integers(1, 7),
    dim=st.integers(0, 1),
)
def test_the_shares_of_a_mesh_s_ranks_make_the_whole(
    n_data: int, n_tensor: int, parts: list[int], other: int, dim: int
) -> None:
    cut = Cut(dim, tuple(part * n_tensor for part in parts))
    shape = torch.Size([sum(cut.parts), other] if dim == 0 else [other, sum(cut.parts)])
    whole = torch.arange(shape.numel()).view(shape)
    for own_cut, own_dim in ((cut, 1 - dim), (cut, None), (None, 0), (None, None)):
        layout = Layout(shape, n_data, n_tensor, own_cut, own_dim)
        shares = [layout.share(whole, rank) for rank in range(n_data * n_tensor)]
        assert [share.shape for share in shares] == layout.shapes
        assert torch.equal(layout.whole(shares), whole)


@given(
    shapes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12),
    n_ranks=RANKS,
    at_once=st.integers(1, 200),
)
def test_each_matrix_is_one_rank_s_and_none_holds_many(
    shapes: list[tuple[int, int]], n_ranks: int, at_once: int
) -> None:
    every = [Layout(torch.Size(shape)) for shape in shapes]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(layouts, "AT_ONCE", at_once)
        rounds = list(layouts._rounds(every, n_ranks))
    assert Counter(i for owned in rounds for own in owned for i in own) == Counter(range(len(shapes)))
    for owned in rounds:
        held = [every[i].shape.numel() for own in owned for i in own]
        assert len(held) == 1 or sum(held) <= at_once * n_ranks
        costs = [sum(every[i].cost for i in own) for own in owned]
        assert max(costs) - min(costs) <= max(every[i].cost for own in owned for i in own)
