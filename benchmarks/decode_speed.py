"""Texts of 128 tokens from two shapes of Llama: XLab, transformers, litgpt and CTranslate2, in turns.

A match is one shape and one work: greedy for 1 and for 8 prompts, and a beam of 4. Each contender is a process that
builds its model, warms up and waits; in every round each writes its texts while the others sleep. The bare matrix
products of the shape take their turns too. docs/benchmarks.md says what is equal between them.
"""

import argparse
import json
import shlex
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.decode_report import LIMITS, NOT_MEASURED, Match, Report, as_markdown, as_text, figures
from benchmarks.decode_shape import SHAPES, TINY, WORKS, Shape, Work
from benchmarks.machine import describe_commit, describe_machine, today
from benchmarks.options import add_run_options, parser_of, progress, write_report
from benchmarks.turns import Answer, Player, PlayerError, take_turns

ROOT = Path(__file__).parent.parent
PEERS_PYTHON = ROOT / ".bench-venv" / "bin" / "python"
HERE = ("xlab", *LIMITS)  # run by this interpreter, not the peers'
CONTENDERS = (
    *("products-fp32", "products-bf16", "products-int8", "packed-fp32", "packed-bf16"),
    *(f"xlab-{precision}{mode}" for precision in ("fp32", "bf16", "int8") for mode in ("", "-compiled")),
    *("transformers-fp32", "transformers-bf16", "transformers-bf16-compiled"),
    *("litgpt-fp32", "litgpt-bf16", "litgpt-bf16-compiled"),
    *("ctranslate2-fp32", "ctranslate2-int8"),
)
ENGINES = tuple(dict.fromkeys(name.split("-")[0] for name in CONTENDERS))


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark, print its tables and write its JSON after every match.

    Returns:
        0, or 1 when something broke. A peer that is not installed breaks nothing.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    args = _parser().parse_args(arguments)
    if args.markdown:
        print(as_markdown(json.loads(args.markdown.read_text())))
        return 0
    rounds = args.rounds or (2 if args.quick else 5)
    report: Report = {
        "benchmark": "decode_speed",
        "command": shlex.join(["python", "-m", "benchmarks.decode_speed", *arguments]),
        "quick": args.quick,
        "date": today(),
        "commit": describe_commit(ROOT),
        "machine": describe_machine(),
        "versions": [],
        "threads": args.threads,
        "rounds": rounds,
        "matches": [],
    }
    names = [name for name in CONTENDERS if not args.only or {name, name.split("-")[0]} & set(args.only)]
    shapes = {"tiny": TINY} if args.quick else {name: SHAPES[name] for name in args.shapes}
    for shape_name, shape in shapes.items():
        for work_name in args.works:
            progress(f"{shape_name}, {work_name}")
            try:
                match, versions = play(
                    [name for name in names if can(name, WORKS[work_name])],
                    shape=shape,
                    work=WORKS[work_name],
                    rounds=rounds,
                    threads=args.threads,
                    peers_python=args.peers_python,
                )
            except PlayerError as error:
                print(f"Stopped in the middle of the rounds: {error}", file=sys.stderr)
                return 1
            report["matches"].append({"shape_name": shape_name, "work_name": work_name, **match})
            report["versions"] = list(dict.fromkeys([*report["versions"], *versions]))
            write_report(report, args.json)
    print(as_text(report))
    broken = [entry for match in report["matches"] for entry in match["contenders"].values() if entry.get("broken")]
    return int(bool(broken))


def can(name: str, work: Work) -> bool:
    """Whether a contender does such work at all."""
    return not (name.startswith("litgpt") and work.beams > 1)


def play(
    names: list[str], *, shape: Shape, work: Work, rounds: int, threads: int, peers_python: Path = PEERS_PYTHON
) -> tuple[Match, list[str]]:
    """Let contenders take turns at one work.

    Args:
        names: from ``CONTENDERS``, in the order of their turns.
        shape: of the model and its texts.
        work: of a turn.
        rounds: turns of each contender.
        threads: of each contender while it works.
        peers_python: the interpreter of the environment that holds the peers.

    Returns:
        The match, and the versions of everything that took part.

    Raises:
        PlayerError: when a contender that had started stops later.
    """
    with ExitStack() as stack:
        players: dict[str, Player] = {}
        introductions: dict[str, Answer] = {}
        entries: dict[str, dict[str, Any]] = {}
        for name in names:
            progress(f"{name}: building and warming up")
            started = _start(name, shape=shape, work=work, threads=threads, peers_python=peers_python)
            if isinstance(started, dict):
                entries[name] = started
                continue
            players[name], introductions[name] = started
            stack.callback(players[name].close)
        seconds: dict[str, list[float]] = {name: [] for name in players}
        for number, name, answer in take_turns(players, rounds):
            seconds[name].append(answer["seconds"])
            progress(f"round {number + 1}/{rounds}, {name}: {answer['seconds']:.3f} s")
    for name, introduction in introductions.items():
        entries[name] = {**introduction, **figures(seconds[name], tokens=work.batch_size * shape.new_tokens)}
    versions = [f"{name} {number}" for intro in introductions.values() for name, number in intro["versions"].items()]
    match = {"shape": asdict(shape), "work": asdict(work), "contenders": {name: entries[name] for name in names}}
    return match, versions


def _start(
    name: str, *, shape: Shape, work: Work, threads: int, peers_python: Path
) -> tuple[Player, Answer] | dict[str, Any]:
    """A contender that waits for its turns, or the entry that says why there is none."""
    is_peer = not name.startswith(HERE)
    python = peers_python if is_peer else Path(sys.executable)
    if not python.exists():
        return {NOT_MEASURED: f"there is no {python}; `make bench-env` makes it"}
    command = [str(python), "-m", "benchmarks.decode_worker", name, f"--threads={threads}"]
    command += [f"--shape={json.dumps(asdict(shape))}", f"--work={json.dumps(asdict(work))}"]
    environment = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    player = Player(command, cwd=ROOT, env=environment)
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
    parser = parser_of("decode_speed", __doc__)
    only = [*ENGINES, *CONTENDERS]
    parser.add_argument("--only", nargs="+", choices=only, metavar="NAME", help=f"of {', '.join(only)}")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="(all)")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS), help="(all)")
    add_run_options(parser, rounds=5, peers_python=PEERS_PYTHON)
    return parser


if __name__ == "__main__":
    sys.exit(main())
