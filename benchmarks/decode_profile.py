"""Where the time of one decode step goes: the products, attention, other kernels, and what surrounds them; and memory.

Each row is one engine over one shape, a text for one prompt. The step's time is measured without a profiler, the
kernels' with one; what is left of the step is Python, dispatch and waiting. Products of a step that runs alone are
faster than in a model, whose other work drives them out of the caches, so both stand in the table.
"""

import argparse
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.decode_engines import DTYPES, packed, products, xlab_decoder
from benchmarks.decode_shape import SHAPES, TINY, Shape, Work
from benchmarks.layout import as_columns, as_markdown_table
from benchmarks.machine import describe_commit, describe_machine, threads_available, today
from benchmarks.options import positive, progress, write_report

ROOT = Path(__file__).parent.parent
ENGINES = ("bf16", "bf16-compiled", "int8", "int8-compiled")
PRODUCTS = ("mkldnn::_linear_pointwise", "aten::_weight_int8pack_mm", "aten::mm", "aten::addmm", "aten::linear")
HEADINGS = (
    *("engine", "step, ms", "products", "attention", "other kernels", "the rest"),
    *("bare products, ms", "weights, MiB", "cache, MiB", "growth a text, KiB"),
)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the tables and write them as JSON."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = _parser().parse_args(arguments)
    torch.set_num_threads(args.threads)
    report: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.decode_profile", *arguments]),
        "date": today(),
        "commit": describe_commit(ROOT),
        "machine": describe_machine(),
        "torch": torch.__version__,
        "shapes": {},
    }
    for name, shape in ({"tiny": TINY} if args.quick else {name: SHAPES[name] for name in args.shapes}).items():
        report["shapes"][name] = {}
        for engine in args.only:
            progress(f"{name}, {engine}")
            report["shapes"][name][engine] = measure(shape, engine, texts=2 if args.quick else args.texts)
    layout = as_markdown_table if args.markdown else as_columns
    machine = report["machine"]
    print(f"{report['date']}, commit {report['commit']}: `{report['command']}`.")
    print(f"{machine['processor']}, {machine['cores']} cores, {args.threads} threads; torch {report['torch']}.")
    for name, engines in report["shapes"].items():
        print(f"\n{name}\n\n{layout(HEADINGS, [_row(engine, found) for engine, found in engines.items()])}")
    write_report(report, args.json)
    return 0


def measure(shape: Shape, name: str, *, texts: int) -> dict[str, float]:
    """Milliseconds of a step and of its parts, as medians over ``texts`` texts, and bytes."""
    from xlab.inference import Engine, Request

    precision, *mode = name.split("-")
    torch.manual_seed(0)
    decoder = xlab_decoder(shape)
    engine = Engine(decoder, max_rows=1, dtype=precision, compile=bool(mode))
    prompt = torch.randint(shape.vocab_size, (shape.prompt_len,)).tolist()

    def write() -> None:
        engine.generate([Request(prompt, max_new_tokens=shape.new_tokens, temperature=0.0)])

    def milliseconds() -> float:
        started = time.perf_counter()
        write()
        return (time.perf_counter() - started) * 1000 / shape.new_tokens

    for _ in range(2):
        write()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = statistics.median(milliseconds() for _ in range(texts))
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / texts
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        write()
    times = {event.key: event.self_cpu_time_total / 1000 / shape.new_tokens for event in profiler.key_averages()}
    matrices = sum(ms for key, ms in times.items() if key in PRODUCTS)
    # the compiled step's own loops are the share of its graph that no operation has
    graph = sum(ms for key, ms in times.items() if "CompiledFxGraph" in key)
    attention = sum(ms for key, ms in times.items() if "scaled_dot_product" in key)
    named = {key: ms for key, ms in times.items() if key.startswith("aten::") and key not in PRODUCTS}
    return {
        "step": step,
        "products": matrices,
        "attention": attention,
        "other": graph + sum(ms for key, ms in named.items() if "scaled_dot_product" not in key),
        "bare": _bare_products(shape, precision),
        "weights": _weight_bytes(engine),
        "cache": engine.cache_bytes,
        "growth_kib": growth,
    }


def _bare_products(shape: Shape, precision: str) -> float:
    """Milliseconds that the products of one step take by themselves, in the engine's own layout of weights."""
    limit = packed if precision in DTYPES else products
    _, write = limit(shape, Work(1), precision, False)
    prompts = torch.zeros(1, shape.prompt_len, dtype=torch.long)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        write(prompts)
        times.append((time.perf_counter() - started) * 1000 / shape.new_tokens)
    return statistics.median(times[1:])


def _weight_bytes(engine: Any) -> int:
    """Of everything that the engine holds of the model, each tensor once."""
    modules = [*engine.rows.model.modules(), *engine.rows.project.modules()]
    tensors = [tensor for module in modules for tensor in vars(module).values() if isinstance(tensor, torch.Tensor)]
    tensors += [tensor for module in modules for tensor in (*module.parameters(False), *module.buffers(False))]
    return sum(tensor.numel() * tensor.element_size() for tensor in {id(tensor): tensor for tensor in tensors}.values())


def _row(name: str, found: dict[str, float]) -> list[str]:
    step = found["step"]
    rest = step - found["products"] - found["attention"] - found["other"]
    shares = [f"{ms:.2f} ({ms / step:.0%})" for ms in (found["products"], found["attention"], found["other"], rest)]
    sizes = [f"{found[key] / 2**20:.1f}" for key in ("weights", "cache")]
    return [
        name,
        f"{step:.2f}",
        *shares,
        f"{found['bare']:.2f} ({found['bare'] / step:.0%})",
        *sizes,
        f"{found['growth_kib']:.0f}",
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode_profile", description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="of the model")
    parser.add_argument("--only", nargs="+", choices=("fp32", "fp32-compiled", *ENGINES), default=list(ENGINES))
    parser.add_argument("--texts", type=positive, default=9, help="texts to take the median of (%(default)s)")
    parser.add_argument("--threads", type=positive, default=threads_available(), help="%(default)s")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--quick", action="store_true", help="a tiny shape, to see that everything runs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
