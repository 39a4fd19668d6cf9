"""The benchmark runs, multiplies what a decoder multiplies, and never shows a figure that was not measured."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.decode_engines import Engine, products, xlab, xlab_decoder
from benchmarks.decode_report import NOT_MEASURED, as_markdown, as_text, figures
from benchmarks.decode_shape import SHAPES, TINY, WORKS, Shape, Work
from benchmarks.decode_speed import main

UNTIED = Shape(1, 24, 3, 3, 40, 72, tied=False, prompt_len=3, new_tokens=4)


def test_a_quick_run_measures_xlab_and_says_what_it_could_not_measure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "figures" / "decode_speed.json"
    only = ["products-fp32", "xlab-fp32", "litgpt-fp32"]
    run = ["--quick", "--threads=1", "--rounds=3", "--peers-python=/no/such/python", "--works", "greedy-8", "beam-4"]
    assert main([*run, "--only", *only, "--json", str(written)]) == 0
    greedy, beams = json.loads(written.read_text())["matches"]
    assert list(greedy["contenders"]) == only
    assert list(beams["contenders"]) == only[:2]  # litgpt has no beams
    for match in (greedy, beams):
        ours = match["contenders"]["xlab-fp32"]
        assert ours["parameters"] == match["contenders"]["products-fp32"]["parameters"] == TINY.parameters
        assert len(ours["seconds"]) == 3
        assert 0 < ours["lowest"] <= ours["tokens_per_second"] <= ours["highest"]
    assert set(greedy["contenders"]["litgpt-fp32"]) == {NOT_MEASURED}
    table = capsys.readouterr().out
    assert "litgpt-fp32: not measured (there is no /no/such/python; `make bench-env` makes it)." in table
    assert main(["--markdown", str(written)]) == 0
    speed = greedy["contenders"]["xlab-fp32"]["tokens_per_second"]
    assert f"| xlab-fp32 | {speed:.1f} |" in capsys.readouterr().out


@pytest.mark.parametrize("shape", [TINY, UNTIED])
@pytest.mark.parametrize("work", [Work(1), Work(3)])
def test_the_bare_products_are_those_of_a_text(shape: Shape, work: Work) -> None:
    parameters, write = products(shape, work, "fp32", False)
    decoder = xlab_decoder(shape)
    assert parameters == shape.parameters == sum(parameter.numel() for parameter in decoder.parameters())
    prompts = torch.randint(shape.vocab_size, (work.batch_size, shape.prompt_len))
    with FlopCounterMode(display=False) as bare:
        write(prompts)
    with FlopCounterMode(display=False) as whole:
        cache = decoder.make_cache(work.batch_size)
        decoder.logits(decoder.hidden(prompts, cache)[:, -1])
        for _ in range(shape.new_tokens - 1):
            decoder(prompts[:, :1], cache)
    counts = whole.get_flop_counts()["Global"]
    # attention's own products are no weights'
    assert bare.get_total_flops() == sum(n for op, n in counts.items() if str(op) in ("aten.mm", "aten.addmm"))


@pytest.mark.parametrize("engine", [xlab, products])
@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
def test_every_prompt_gets_all_of_its_text(engine: Callable[..., Engine], work: Work) -> None:
    for precision in ("fp32", "bf16"):
        parameters, write = engine(TINY, work, precision, False)
        assert parameters == TINY.parameters
        texts = write(torch.randint(3, TINY.vocab_size, (work.batch_size, TINY.prompt_len)))
        assert [len(text) for text in texts] == [TINY.new_tokens] * work.batch_size


def test_the_shapes_are_those_of_the_workload() -> None:
    assert SHAPES["135m"].parameters == 134_515_008  # SmolLM-135M's, counted by its authors
    assert WORKS["beam-4"].rows == 4


def match_of(**seconds: float | None) -> dict[str, Any]:
    entries: dict[str, Any] = {
        name.replace("_", "-"): {"parameters": 7, **figures([value] * 3, tokens=100)}
        if value
        else {NOT_MEASURED: "no such thing"}
        for name, value in seconds.items()
    }
    about = {"shape_name": "tiny", "work_name": "greedy-8", "shape": asdict(TINY), "work": asdict(Work(8))}
    return {**about, "contenders": entries}


def report_of(*matches: dict[str, Any]) -> dict[str, Any]:
    machine = {"processor": "abacus", "cores": 2, "memory_gib": 1, "system": "table", "load_before": 0}
    about = {"date": "2026-01-01", "commit": "abc", "command": "it", "versions": ["torch 2"], "threads": 2}
    return {**about, "rounds": 3, "quick": False, "machine": machine, "matches": list(matches)}


def test_the_tables_show_medians_ratios_and_what_the_marks_ask() -> None:
    report = report_of(
        match_of(
            products_bf16=2.0,
            packed_bf16=1.0,
            xlab_bf16=4.0,
            xlab_bf16_compiled=2.5,
            xlab_int8=2.0,
            transformers_bf16=5.0,
            litgpt_bf16=None,
            ctranslate2_int8=4.0,
        )
    )
    lines = as_markdown(report).splitlines()
    assert "| xlab-bf16 | 25.0 | 25.0 – 25.0 | 1.60 | 25.0% |" in lines
    assert "| transformers-bf16 | 20.0 | 20.0 – 20.0 | 2.00 | 20.0% |" in lines
    assert "| ctranslate2-int8 | 25.0 | 25.0 – 25.0 | 2.00 | – |" in lines
    assert "| litgpt-bf16 | not measured | – | – | – |" in lines
    text = as_text(report)
    assert "Against ctranslate2-int8, the fastest peer: xlab-int8 is 2.00 ×." in text
    assert "In bf16, xlab-bf16-compiled is 2.00 × transformers-bf16." in text
    assert "In int8, xlab-int8 is 2.00 × ctranslate2-int8." in text
    assert "The bare products (products) take 80% of xlab-bf16-compiled's time." in text
    assert "The bare products (packed) take 40% of xlab-bf16-compiled's time." in text
    assert "litgpt-bf16: not measured (no such thing)." in text


def test_contenders_of_different_size_are_pointed_at() -> None:
    match = match_of(xlab_fp32=1.0, litgpt_fp32=1.0)
    assert "Not the same work" not in as_text(report_of(match))
    match["contenders"]["litgpt-fp32"]["parameters"] = 8
    assert "Not the same work: xlab-fp32 has 7 parameters, litgpt-fp32 has 8 parameters." in as_text(report_of(match))
