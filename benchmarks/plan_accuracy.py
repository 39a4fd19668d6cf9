"""How near ``manage.py plan`` comes: its memory and its time against runs of the same settings, in turns.

    python -m benchmarks.plan_accuracy

Each round plans a configuration, then trains it from start to end in a process of its own. Memory is what a process
takes above its imports; time is that of the whole run, from the process' start, and training's pace.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine, today
from benchmarks.options import positive, progress

ROOT = Path(__file__).parents[1]

# what is trained long enough to have a pace, and is validated on the way and at its end
COMMON = {"trainer.max_steps": 60, "trainer.val_check_interval": 30, "trainer.limit_val_batches": 20}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "wider, accumulated": {
        "model.d_model": 320,
        "model.n_heads": 5,
        "data.seq_len": 128,
        "data.batch_size": 4,
        "trainer.accumulate_grad_batches": 4,
        "trainer.val_check_interval": 120,  # micro-batches
    },
    "bf16, GPT-2's parts": {
        "trainer.precision": "bf16-mixed",
        "model.norm": "LayerNorm",
        "model.feed_forward": "GELUFeedForward",
        "model.position": "LearnedPosition",
        "model.dropout": 0.1,
        "data.vocab_size": 1024,
        "data.seq_len": 128,
        "data.batch_size": 16,
    },
}
QUICK: dict[str, dict[str, Any]] = {
    "quick": {
        "model.d_model": 32,
        "model.n_layers": 1,
        "data.vocab_size": 512,
        "data.seq_len": 32,
        "trainer.max_steps": 12,
        "trainer.val_check_interval": 6,
        "trainer.limit_val_batches": 2,
        "model.schedule.warmup_steps": 2,
    }
}


@dataclass(frozen=True)
class Pair:
    """What was planned and what came, of a round.

    Args:
        name: of the configuration.
        planned: ``seconds`` of the run, ``tokens_per_s``, ``peak`` in bytes, and of it the ``tensors`` as computed.
        found: the same but for the last.
    """

    name: str
    planned: dict[str, float]
    found: dict[str, float]

    def ratio(self, figure: str) -> float:
        """What was planned over what came."""
        return self.planned[figure] / self.found[figure]


def measure(configurations: dict[str, dict[str, Any]], rounds: int, folder: Path, seconds: float) -> Iterator[Pair]:
    """Plan and train every configuration in each round; its data are prepared before."""
    for changes in configurations.values():
        _call("--prepare", options({**COMMON, **changes}), folder)
    for number in range(rounds):
        for name, changes in configurations.items():
            settings = options({**COMMON, **changes})
            planned = _plan(settings, folder, seconds)
            found = _call("--train", settings, folder)
            pair = Pair(name, planned, found)
            progress(
                f"round {number + 1}, {name}: " + ", ".join(f"{key} {pair.ratio(key):.2f}" for key in sorted(found))
            )
            yield pair


def options(settings: dict[str, Any]) -> list[str]:
    """Write settings as options of ``fit``."""
    return [f"--{key}={value}" for key, value in settings.items()]


def _plan(settings: Sequence[str], folder: Path, seconds: float) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.plan_accuracy", "--plan", "--json", f"--seconds={seconds}", *settings]
    plan = json.loads(_output(command, folder))
    measured, memory = plan["time"]["measured"], plan["memory"]
    figures = {"seconds": plan["time"]["whole"]["median"], "tokens_per_s": measured["tokens_per_second"]}
    return figures | {"peak": memory["measured_peak"], "tensors": memory["computed"]["peak"]}


def _call(what: str, settings: Sequence[str], folder: Path) -> dict[str, float]:
    began = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.plan_accuracy", what, *settings]
    figures: dict[str, float] = json.loads(_output(command, folder).splitlines()[-1])
    return {"seconds": time.perf_counter() - began, **figures}


def _output(command: Sequence[str], folder: Path) -> str:
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths})
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def train(settings: list[str]) -> dict[str, float]:
    """Train as ``xlab.py fit`` does; give the peak of memory above imports, and the tokens per second it logged."""
    import torch._dynamo
    import torch.utils.tensorboard  # both are imports that a run makes as it goes

    from xlab.commands.lightning_cli import run
    from xlab.lab.plan_steps import Memory

    memory = Memory()
    run("fit", settings)
    peak = memory.above(torch.device("cpu"))
    newest = max(Path("logs").glob("version_*"), key=lambda path: int(path.name.partition("_")[2]))
    lines = [json.loads(line) for line in (newest / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    rates = [line["tokens_per_s"] for line in lines if "tokens_per_s" in line]
    return {"peak": float(peak or "nan"), "tokens_per_s": statistics.median(rates)}


def prepare(settings: list[str]) -> dict[str, float]:
    """Prepare a run's data; there is nothing to tell of it."""
    from xlab.commands.data_settings import data_of

    data_of(tuple(settings)).prepare_data()
    return {}


def table(pairs: Sequence[Pair]) -> str:
    """Lay the medians of all rounds out in Markdown; a ratio is what was planned over what came."""
    columns = ["configuration"]
    for title in ("run, s", "tokens/s", "peak, MiB"):
        columns += [title, "planned", "ratio"]
    lines = [f"| {' | '.join([*columns, 'tensors'])} |", "|---" * (len(columns) + 1) + "|"]
    for name in dict.fromkeys(pair.name for pair in pairs):
        own = [pair for pair in pairs if pair.name == name]
        cells = [name]
        for figure, unit, digits in (("seconds", 1, 1), ("tokens_per_s", 1, 0), ("peak", 2**20, 0)):
            found = statistics.median(pair.found[figure] for pair in own) / unit
            planned = statistics.median(pair.planned[figure] for pair in own) / unit
            ratio = statistics.median(pair.ratio(figure) for pair in own)
            cells += [f"{found:,.{digits}f}", f"{planned:,.{digits}f}", f"{ratio:.2f}"]
        lines.append(f"| {' | '.join(cells)} | {own[0].planned['tensors'] / 2**20:,.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print the table."""
    if sys.argv[1:2] == ["--plan"]:  # from any folder, as manage.py does
        from xlab.commands.plan import plan

        plan(sys.argv[2:])
    work = {"--train": train, "--prepare": prepare}.get("".join(sys.argv[1:2]))
    if work is not None:
        print(json.dumps(work(sys.argv[2:])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive, default=3, help="plans and runs of each (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="that a plan times steps (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="one tiny configuration, to see that everything runs")
    args = parser.parse_args()
    machine = describe_machine()
    with tempfile.TemporaryDirectory(prefix="plan-accuracy-") as folder:
        configurations = QUICK if args.quick else CONFIGURATIONS
        pairs = list(measure(configurations, args.rounds, Path(folder), args.seconds))
    print(f"{today()}, {machine['processor']}, {machine['cores']} cores, load {machine['load_before']}\n")
    print(table(pairs))


if __name__ == "__main__":
    main()
