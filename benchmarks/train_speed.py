"""One optimiser step of a small Llama: XLab, a plain model, litgpt and transformers, eager and compiled, in turns.

Each contender is a process that builds its model and waits; in every round each works for a few steps while the others
sleep, so that a machine whose speed drifts drifts for all. docs/benchmarks.md says what is equal between them.
"""

import argparse
import json
import shlex
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import describe_commit, describe_machine, today
from benchmarks.options import add_run_options, parser_of, progress, write_report
from benchmarks.train_report import NOT_MEASURED, Report, as_markdown, as_text, figures
from benchmarks.train_shape import TINY, Shape
from benchmarks.turns import Answer, Player, PlayerError, take_turns

ROOT = Path(__file__).parent.parent
PEERS_PYTHON = ROOT / ".bench-venv" / "bin" / "python"
LIMIT = "matmul"  # takes its turns with the contenders
OWN = ("xlab", "plain")  # need no other environment
CONTENDERS = tuple(f"{model}-{mode}" for model in (*OWN, "litgpt", "llama") for mode in ("eager", "compiled"))


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark, print its table and write its JSON.

    Returns:
        0, or 1 when something broke. A peer that is not installed breaks nothing.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    args = _parser().parse_args(arguments)
    if args.markdown:
        print(as_markdown(json.loads(args.markdown.read_text())))
        return 0
    try:
        report = run(
            [name for name in CONTENDERS if not args.only or {name, name.split("-")[0]} & set(args.only)],
            shape=TINY if args.quick else Shape(),
            rounds=args.rounds or (2 if args.quick else 7),
            steps=1 if args.quick else 4,
            threads=args.threads,
            peers_python=args.peers_python,
        )
    except PlayerError as error:
        print(f"Stopped in the middle of the rounds: {error}", file=sys.stderr)
        return 1
    command = shlex.join(["python", "-m", "benchmarks.train_speed", *arguments])
    report = {"benchmark": "train_speed", "command": command, "quick": args.quick, **report}
    print(as_text(report))
    write_report(report, args.json)
    return int(any(entry.get("broken") for entry in report["contenders"].values()))


def run(
    names: list[str], *, shape: Shape, rounds: int, steps: int, threads: int, peers_python: Path = PEERS_PYTHON
) -> Report:
    """Measure contenders in turns, the bare matrix product first in every round.

    Args:
        names: from ``CONTENDERS``, in the order of their turns.
        rounds: turns of each contender.
        steps: timed steps in a turn.
        threads: of each contender while it works.
        peers_python: the interpreter of the environment that holds the peers.

    Raises:
        PlayerError: when a contender that had started stops later.
    """
    machine = describe_machine()
    with ExitStack() as stack:
        players: dict[str, Player] = {}
        introductions: dict[str, Answer] = {}
        entries: dict[str, dict[str, Any]] = {}
        for name in [LIMIT, *names]:
            progress(f"{name}: building and warming up")
            started = _start(name, shape=shape, steps=steps, threads=threads, peers_python=peers_python)
            if isinstance(started, dict):
                entries[name] = started
                continue
            players[name], introductions[name] = started
            stack.callback(players[name].close)
        seconds: dict[str, list[float]] = {name: [] for name in players}
        for number, name, answer in take_turns(players, rounds):
            seconds[name].append(answer["seconds"])
            progress(f"round {number + 1}/{rounds}, {name}: {answer['seconds'] * 1e3:.1f} ms")

    peak = introductions[LIMIT]["flops"] / median(seconds[LIMIT]) if LIMIT in players else None
    for name in players.keys() - {LIMIT}:
        measures = figures(seconds[name], tokens=shape.tokens, flops=shape.flops, peak=peak)
        entries[name] = {**introductions[name], **measures}
    known = [f"{name} {number}" for intro in introductions.values() for name, number in intro["versions"].items()]
    return {
        "date": today(),
        "commit": describe_commit(ROOT),
        "machine": machine,
        "versions": list(dict.fromkeys(known)),
        "shape": asdict(shape),
        "precision": next((intro["precision"] for name, intro in introductions.items() if name != LIMIT), None),
        "threads": threads,
        "rounds": rounds,
        "steps": steps,
        "flops_per_step": shape.flops,
        "peak_gflops": peak / 1e9 if peak else None,
        "peak_seconds": seconds.get(LIMIT),
        "contenders": {name: entries[name] for name in names},
    }


def _start(
    name: str, *, shape: Shape, steps: int, threads: int, peers_python: Path
) -> tuple[Player, Answer] | dict[str, Any]:
    """A contender that waits for its turns, or the entry that says why there is none."""
    is_peer = not name.startswith((*OWN, LIMIT))
    python = peers_python if is_peer else Path(sys.executable)
    if not python.exists():
        return {NOT_MEASURED: f"there is no {python}; `make bench-env` makes it"}
    command = [str(python), "-m", "benchmarks.train_worker", name, f"--shape={json.dumps(asdict(shape))}"]
    environment = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    player = Player([*command, f"--threads={threads}", f"--steps={steps}"], cwd=ROOT, env=environment)
    try:
        introduction = player.answer()
    except PlayerError as error:
        player.close()
        return {NOT_MEASURED: str(error), "broken": True}
    if "missing" in introduction:
        player.close()
        remedy = "; `make bench-env` installs the peers" if is_peer else ""
        return {NOT_MEASURED: introduction["missing"] + remedy, "broken": not is_peer}
    return player, introduction


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("train_speed", __doc__)
    models = [*CONTENDERS, "xlab", "litgpt", "llama"]
    parser.add_argument("--only", nargs="+", choices=models, metavar="NAME", help=f"of {', '.join(models)}")
    add_run_options(parser, rounds=7, peers_python=PEERS_PYTHON)
    return parser


if __name__ == "__main__":
    sys.exit(main())
