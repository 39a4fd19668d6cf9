"""The figures of a data set against formulas in float64."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from xlab.data.packing import IGNORED
from xlab.errors import TrainingError
from xlab.training.metrics import TokenMetrics

VOCABULARY, PLACES = 9, 6
Rows = tuple[Tensor, Tensor, Tensor]


def rows(n: int, seed: int = 0) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, PLACES, VOCABULARY, generator=generator)
    targets = torch.randint(VOCABULARY, (n, PLACES), generator=generator)
    targets[torch.rand(n, PLACES, generator=generator) < 0.3] = IGNORED
    return logits, targets, torch.randint(1, 20, (n,), generator=generator)


def figures(*batches: Rows) -> dict[str, float]:
    metrics = TokenMetrics()
    for batch in batches:
        metrics.update(*batch)
    return metrics.compute()


def test_the_figures_are_those_of_the_formulas() -> None:
    logits, targets, n_bytes = rows(20)
    counted = targets != IGNORED
    log_p = logits.double().log_softmax(-1)
    nats = -log_p[counted].gather(-1, targets[counted][:, None]).sum().item()
    tokens = int(counted.sum())
    hits = int((logits.argmax(-1) == targets).sum())
    assert figures((logits, targets, n_bytes)) == pytest.approx(
        {
            "loss": nats / tokens,
            "perplexity": math.exp(nats / tokens),
            "bits_per_byte": nats / math.log(2) / int(n_bytes.sum()),
            "accuracy": hits / tokens,
        },
        rel=1e-6,
    )


@given(n=st.integers(1, 40), vocabulary=st.sampled_from([2, 300, 50_257]), n_bytes=st.integers(1, 10**9))
def test_a_uniform_model_scores_tokens_times_log2_of_the_vocabulary_over_bytes(
    n: int, vocabulary: int, n_bytes: int
) -> None:
    targets = torch.zeros(1, n, dtype=torch.long)
    targets[0, n // 2 + 1 :] = IGNORED
    tokens = n // 2 + 1 if n > 1 else 1
    scored = figures((torch.zeros(1, n, vocabulary), targets, torch.tensor([n_bytes])))
    # fp32 keeps 7 digits of log V
    assert scored["bits_per_byte"] == pytest.approx(tokens * math.log2(vocabulary) / n_bytes, rel=1e-6)
    assert scored["perplexity"] == pytest.approx(vocabulary, rel=1e-5)


@given(seed=st.integers(0, 2**32), cuts=st.sets(st.integers(1, 11)), order=st.randoms())
def test_the_figures_do_not_depend_on_how_rows_are_batched(seed: int, cuts: set[int], order: object) -> None:
    everything = rows(12, seed)
    edges = [0, *sorted(cuts), 12]
    parts = [tuple(column[a:b] for column in everything) for a, b in itertools.pairwise(edges)]
    order.shuffle(parts)  # type: ignore[attr-defined]
    # each batch is rounded to a millionth of a nat
    assert figures(*parts) == pytest.approx(figures(everything), rel=1e-6)  # type: ignore[arg-type]


def test_the_order_of_batches_changes_nothing_at_all() -> None:
    batches = [rows(3, seed) for seed in range(6)]
    assert figures(*batches) == figures(*reversed(batches))


def test_ranks_add_their_sums() -> None:
    one, two = TokenMetrics(), TokenMetrics()
    one.update(*rows(4, 1))
    two.update(*rows(7, 2))
    one.merge_state(two)  # what torchmetrics does to the states of all ranks
    assert one.compute() == figures(rows(4, 1), rows(7, 2))


def test_half_precision_logits_are_summed_in_single() -> None:
    logits, targets, n_bytes = rows(20)
    half = logits.bfloat16()
    assert figures((half, targets, n_bytes)) == figures((half.float(), targets, n_bytes))


def test_a_million_tokens_do_not_drift() -> None:
    metrics = TokenMetrics()
    batch = rows(20)
    one = figures(batch)
    for _ in range(500):
        metrics.update(*batch)
    assert metrics.compute() == pytest.approx(one, rel=1e-9)


def test_reset_forgets() -> None:
    metrics = TokenMetrics()
    metrics.update(*rows(5, 1))
    metrics.compute()
    metrics.reset()
    metrics.update(*rows(5, 2))
    assert metrics.compute() == figures(rows(5, 2))


def test_nothing_counted_is_no_figure() -> None:
    logits, targets, n_bytes = rows(2)
    empty = figures((logits, torch.full_like(targets, IGNORED), 0 * n_bytes))
    assert all(math.isnan(empty[name]) for name in ("loss", "bits_per_byte", "accuracy"))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_run(bad: float) -> None:
    logits, targets, n_bytes = rows(2)
    logits[0, 0, 0], targets[0, 0] = bad, 1
    with pytest.raises(TrainingError, match="not a finite number; lower the learning rate"):
        TokenMetrics().update(logits, targets, n_bytes)
