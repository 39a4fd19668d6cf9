"""Sums of a step are those of its micro-batches, on all ranks, each token once."""

from types import SimpleNamespace
from typing import Any

import torch

from xlab.training.step_sums import StepSums
from xlab.transformer.mixture_of_experts import Routing


def trainer(world_size: int, n_data: int) -> Any:
    """Of a rank among others that all have the same sums."""
    strategy = SimpleNamespace(reduce=lambda sums, reduce_op: sums * world_size, data_ranks=(0, n_data))
    return SimpleNamespace(world_size=world_size, global_rank=0, strategy=strategy)


def test_what_is_taken_is_gone() -> None:
    sums = StepSums()
    for n_tokens in (3, 5):
        sums.add(torch.tensor(2.0, requires_grad=True), torch.tensor(n_tokens), None)
    assert sums.take(trainer(1, 1)) == [4.0, 8.0]
    assert sums == StepSums()


def test_experts_count_by_tokens() -> None:
    sums = StepSums()
    for n_tokens, dropped in ((1, 0.5), (3, 0.25)):
        routing = Routing(loss=torch.tensor(1.0), balance=torch.tensor(2.0), dropped=torch.tensor(dropped))
        sums.add(torch.tensor(0.0), torch.tensor(n_tokens), routing)
    assert sums.take(trainer(1, 1)) == [0.0, 4.0, 8.0, 1.25]


def test_ranks_that_read_alike_count_once() -> None:
    sums = StepSums()
    sums.add(torch.tensor(2.0), torch.tensor(3), None)
    assert sums.take(trainer(4, 2)) == [4.0, 6.0]  # two shares of the data, each on two ranks
