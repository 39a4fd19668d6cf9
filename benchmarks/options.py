"""What the benchmarks' command lines have in common."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.machine import threads_available


def parser_of(benchmark: str, description: str | None) -> argparse.ArgumentParser:
    """Make the parser of ``python -m benchmarks.NAME``; no option is known by its first letters: it may be fit's."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{benchmark}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_report_options(parser: argparse.ArgumentParser, *, quick: str = "a tiny shape") -> None:
    """Add where the figures go, and the option that is there to see whether everything runs."""
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures and every round there")
    parser.add_argument("--markdown", type=Path, metavar="PATH", help="print the tables of such a file; run nothing")
    parser.add_argument("--quick", action="store_true", help=f"{quick}, to see that everything runs")


def add_rounds(parser: argparse.ArgumentParser, rounds: int, *, quick: int) -> None:
    """Add how often everyone takes its turn."""
    parser.add_argument("--rounds", type=positive, help=f"turns of each ({rounds}; {quick} with --quick)")


def add_run_options(parser: argparse.ArgumentParser, *, rounds: int, peers_python: Path) -> None:
    """Add the options of a run in turns: how often, with how many threads, and where its figures go."""
    add_rounds(parser, rounds, quick=2)
    parser.add_argument("--threads", type=positive, default=threads_available(), help="of each (%(default)s)")
    parser.add_argument("--peers-python", type=Path, default=peers_python, metavar="PATH", help="their interpreter")
    add_report_options(parser)


def write_report(report: Mapping[str, Any], path: Path | None) -> None:
    """Write the figures, if there is somewhere to write them to."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"Written to {path}", file=sys.stderr)


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def progress(line: str) -> None:
    """Say on stderr what goes on."""
    print(line, file=sys.stderr, flush=True)
