"""The benchmark runs, counts its arithmetic as PyTorch does, and never shows a figure that was not measured."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.train_models import contender, xlab_decoder
from benchmarks.train_plain import PlainLlama
from benchmarks.train_report import NOT_MEASURED, as_markdown, as_text, figures
from benchmarks.train_shape import TINY, Shape
from benchmarks.train_speed import main


def weights(shape: Shape) -> int:
    """Llama's parameters, counted by hand."""
    matrices = shape.n_layers * (4 * shape.d_model**2 + 3 * shape.d_model * shape.d_ff)
    norms = (2 * shape.n_layers + 1) * shape.d_model
    return matrices + norms + 2 * shape.vocab_size * shape.d_model


def test_a_quick_run_measures_xlab_and_says_what_it_could_not_measure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "figures" / "train_speed.json"
    run = ["--quick", "--threads=1", "--rounds=3", "--only", "xlab-eager", "litgpt", "--peers-python=/no/such/python"]
    assert main([*run, "--json", str(written)]) == 0
    report = json.loads(written.read_text())
    ours = report["contenders"]["xlab-eager"]
    assert ours["parameters"] == weights(TINY)
    assert ours["first_loss"] == pytest.approx(math.log(TINY.vocab_size), rel=0.2)
    assert len(ours["seconds"]) == len(report["peak_seconds"]) == 3
    assert 0 < ours["lowest"] <= ours["tokens_per_second"] <= ours["highest"]
    assert 0 < ours["share_of_peak"] < 1
    table = capsys.readouterr().out
    for peer in ("litgpt-eager", "litgpt-compiled"):
        assert set(report["contenders"][peer]) == {NOT_MEASURED}
        assert f"{peer}: not measured (there is no /no/such/python; `make bench-env` makes it)." in table
    assert main(["--markdown", str(written)]) == 0
    assert f"| xlab-eager | {ours['tokens_per_second']:.0f} |" in capsys.readouterr().out


@pytest.mark.parametrize("shape", [TINY, Shape(n_layers=1, d_model=48, n_heads=3, d_ff=40, vocab_size=72, seq_len=16)])
def test_the_arithmetic_of_a_step_is_what_pytorch_counts(shape: Shape) -> None:
    model = xlab_decoder(shape)
    ids = torch.randint(shape.vocab_size, (shape.batch_size, shape.seq_len))
    # in single products PyTorch multiplies, and counts, the half of the scores that the causal mask throws away
    masked = 3 * shape.n_layers * 2 * shape.d_model * shape.seq_len * shape.tokens
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(ids).sum().backward()
    assert counter.get_total_flops() == shape.flops + masked
    assert sum(parameter.numel() for parameter in model.parameters()) == weights(shape)


def test_xlab_s_way_to_the_loss_is_cross_entropy() -> None:
    model, loss_of = contender("xlab", TINY, compiled=False)
    ids = torch.randint(TINY.vocab_size, (2, TINY.seq_len + 1))
    expected = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(loss_of(ids[:, :-1], ids[:, 1:]), expected)


def test_the_plain_model_is_the_same_model() -> None:
    torch.manual_seed(0)
    composed, plain = xlab_decoder(TINY), PlainLlama(TINY)
    names = {"attention_norm": "norms.0", "feed_forward_norm": "norms.1", "attention.": "", "feed_forward.": ""}
    state = {}
    for name, weight in composed.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        state[name] = weight
    plain.load_state_dict(state)
    ids = torch.randint(TINY.vocab_size, (2, TINY.seq_len))
    torch.testing.assert_close(plain(ids), composed(ids))


def report_of(**seconds: list[float] | None) -> dict:
    entries = {
        name.replace("_", "-"): {"parameters": 7, **figures(rounds, tokens=100, flops=2e6, peak=1e6)}
        if rounds
        else {NOT_MEASURED: "no such thing"}
        for name, rounds in seconds.items()
    }
    machine = {"processor": "abacus", "cores": 2, "memory_gib": 1, "system": "table", "load_before": 0}
    about = {"date": "2026-01-01", "commit": "abc", "command": "it", "versions": ["torch 2"], "precision": "bf16"}
    counts = {"threads": 2, "rounds": 3, "steps": 4, "peak_gflops": 1e-3, "quick": False}
    return {**about, **counts, "machine": machine, "shape": vars(TINY), "contenders": entries}


def test_the_table_shows_medians_extremes_and_ratios() -> None:
    report = report_of(
        xlab_eager=[4, 5, 4],
        xlab_compiled=[2.5, 2, 9],
        litgpt_compiled=[5, 5, 5],
        llama_compiled=None,
        llama_eager=[8, 10, 9],
    )
    lines = as_markdown(report).splitlines()
    assert "| xlab-eager | 25 | 20 – 25 | 1.00 | 1.60 | 50.0% |" in lines
    assert "| litgpt-compiled | 20 | 20 – 20 | 1.25 | 2.00 | 40.0% |" in lines
    assert "| llama-compiled | not measured | – | – | – | – |" in lines
    text = as_text(report)
    assert "Against litgpt-compiled, the fastest compiled peer: xlab-eager is 1.25 ×, xlab-compiled is 2.00 ×." in text
    assert "Against llama-eager, the fastest eager peer: xlab-eager is 2.25 ×, xlab-compiled is 3.60 ×." in text
    assert "llama-compiled: not measured (no such thing)." in text
    assert "composition" not in text


def test_what_composition_costs_is_said_apart_from_the_peers() -> None:
    text = as_text(report_of(xlab_eager=[2.0], plain_eager=[1.0], litgpt_eager=[4.0]))
    assert "Against the same model written down plainly, for what composition costs: 0.50 × eager." in text
    assert "Against litgpt-eager, the fastest eager peer" in text


def test_contenders_of_different_size_are_pointed_at() -> None:
    report = report_of(xlab_eager=[1.0], litgpt_eager=[1.0])
    assert "Not the same work" not in as_text(report)
    report["contenders"]["litgpt-eager"]["parameters"] = 8
    assert "Not the same work: xlab-eager has 7 parameters, litgpt-eager has 8 parameters." in as_text(report)
