"""Streaming clients over HTTP on this machine: XLab's service, its engine without one, and litgpt serve, in turns.

A match is one precision and 1, 4 or 16 clients, who each send a prompt at the same time and read its text as it comes.
The clients are a process beside the server; in every round each contender works while the others sleep. ``--soak`` and
``--flood`` see whether the service lives through many requests, and through too many at once. docs/benchmarks.md says
what is equal between the contenders.
"""

import argparse
import json
import shlex
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from benchmarks.machine import describe_commit, describe_machine, today
from benchmarks.options import add_run_options, parser_of, positive, progress, write_report
from benchmarks.serve_field import PEERS_PYTHON, ROOT, Field, make_model
from benchmarks.serve_report import CONTENDERS, NOT_MEASURED, OFFLINE, OURS, Report, as_markdown, as_text, is_sound
from benchmarks.serve_servers import Server, ServerError
from benchmarks.serve_shape import FULL, PRECISIONS, QUICK, Plan
from benchmarks.serve_stress import flood, soak
from benchmarks.turns import PlayerError


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark, print its tables and write its JSON after every match.

    Returns:
        0, or 1 when something broke, or soak or flood went wrong. A peer that is not installed breaks nothing.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    args = _parser().parse_args(arguments)
    if args.markdown:
        print(as_markdown(json.loads(args.markdown.read_text())))
        return 0
    if (args.soak or args.flood) and OURS not in args.only:
        print(f"--soak and --flood are for {OURS}; leave --only out, or name it there", file=sys.stderr)
        return 1
    plan = QUICK if args.quick else FULL
    report: Report = {
        "benchmark": "serve_load",
        "command": shlex.join(["python", "-m", "benchmarks.serve_load", *arguments]),
        "quick": args.quick,
        "date": today(),
        "commit": describe_commit(ROOT),
        "machine": describe_machine(),
        "versions": [f"{name} {version(name)}" for name in ("fastapi", "uvicorn")],
        "threads": args.threads,
        "rounds": args.rounds or (2 if args.quick else 5),
        "shape": asdict(plan.shape),
        "matches": [],
    }
    with tempfile.TemporaryDirectory(prefix="serve_load-") as folder:
        try:
            _run(args, report, plan, Path(folder))
        except (PlayerError, ServerError) as error:
            print(f"Stopped: {error}", file=sys.stderr)
            return 1
    print(as_text(report))
    broken = [entry for match in report["matches"] for entry in match["contenders"].values() if entry.get("broken")]
    return int(bool(broken) or not is_sound(report))


def _run(args: argparse.Namespace, report: Report, plan: Plan, folder: Path) -> None:
    """Play the matches of each precision, and soak and flood in the first; the report grows with each."""
    progress("making the model")
    expect = plan.trial_tokens if args.soak or args.flood else 0
    make_model(folder, plan.shape, precision=args.precisions[0], expect=expect)
    names = [name for name in CONTENDERS if name in args.only]
    served = [name for name in names if name != OFFLINE] if args.clients else [OURS]
    for precision in args.precisions if args.clients else args.precisions[:1]:
        with ExitStack() as stack:
            field = Field(folder, plan, precision, threads=args.threads, peers_python=args.peers_python)
            servers = {name: field.start(name, stack) for name in served}
            for clients in args.clients:
                progress(f"{precision}, {clients} clients")
                match, versions = field.play(names, servers, plan.loads[clients], rounds=report["rounds"])
                report["matches"].append(match)
                report["versions"] = list(dict.fromkeys([*report["versions"], *versions]))
                write_report(report, args.json)
            if expect and precision == args.precisions[0]:
                server = servers[OURS]
                if not isinstance(server, Server):
                    raise ServerError(server[NOT_MEASURED])
                with server.awake():
                    _try(args, report, plan, server, folder)


def _try(args: argparse.Namespace, report: Report, plan: Plan, server: Server, folder: Path) -> None:
    """Soak and flood, where they are asked for."""
    about = {"precision": args.precisions[0], "max_rows": plan.max_rows, "max_queue": plan.max_queue}
    expected = json.loads((folder / "expected.json").read_text())
    if args.soak:
        progress(f"soak: {args.soak} requests")
        report["soak"] = {**about, **soak(server, plan.soak(args.soak), expected)}
        write_report(report, args.json)
    if args.flood:
        progress(f"flood: {plan.flood.requests} requests")
        report["flood"] = {**about, **flood(server, plan.flood, expected)}
        write_report(report, args.json)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("serve_load", __doc__)
    names = ", ".join(CONTENDERS)
    parser.add_argument(
        "--only", nargs="+", choices=CONTENDERS, default=[*CONTENDERS], metavar="NAME", help=f"of {names}"
    )
    parser.add_argument(
        "--clients", nargs="*", type=int, choices=FULL.loads, default=[*FULL.loads], help="(all); without any, no match"
    )
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["fp32", "bf16"], help="(fp32 and bf16)")
    parser.add_argument(
        "--soak", type=positive, metavar="N", help=f"send {OURS} N short requests, and watch its memory"
    )
    parser.add_argument(
        "--flood", action="store_true", help=f"send {OURS} ten times as much at once as it has room for"
    )
    add_run_options(parser, rounds=5, peers_python=PEERS_PYTHON)
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves every block, so that the servers end too
    sys.exit(main())
