"""What the benchmarks' command lines have in common."""

import argparse
import sys
from pathlib import Path

from benchmarks.machine import threads_available


def add_run_options(parser: argparse.ArgumentParser, *, rounds: int, peers_python: Path) -> None:
    """Add the options of a run in turns: how often, with how many threads, and where its figures go."""
    parser.add_argument("--rounds", type=positive, help=f"turns of each contender ({rounds}; 2 with --quick)")
    parser.add_argument("--threads", type=positive, default=threads_available(), help="of each (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures and every round there")
    parser.add_argument("--markdown", type=Path, metavar="PATH", help="print the tables of such a file; run nothing")
    parser.add_argument("--quick", action="store_true", help="a tiny shape, to see that everything runs")
    parser.add_argument("--peers-python", type=Path, default=peers_python, metavar="PATH", help="their interpreter")


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def progress(line: str) -> None:
    """Say on stderr what goes on."""
    print(line, file=sys.stderr, flush=True)
