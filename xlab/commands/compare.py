"""./manage.py compare: which variant of a run is better, by how much, and how sure that is."""

import json
import re
from typing import TYPE_CHECKING, Any

import click

from xlab.commands.console import DEBUG_OPTION, one_line_errors
from xlab.errors import ConfigError

if TYPE_CHECKING:
    from xlab.lab.comparison import Comparison
    from xlab.lab.exhibits import Sample, View

AXES = {"tokens": "tokens", "steps": "steps", "seconds": "seconds", "minutes": "seconds", "flops": "flops"}
_SIZES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, metavar="RUN…")
@click.option("--metric", default="val/bits_per_byte", show_default=True, help="What the runs are compared by.")
@click.option("--baseline", help="The variant that the others are compared with.  [default: base, or the first]")
@click.option("--at", help="Where: tokens=2M, steps=500, minutes=10, flops=1e15, or an axis.  [default: tokens]")
@click.option("--level", type=float, default=0.95, show_default=True, help="Confidence of intervals and verdicts.")
@click.option("--allow-different-data", is_flag=True, help="Compare runs of different texts, unpaired, and mark it.")
@click.option("--json", "as_json", metavar="FILE", help="Write everything that was found; - is standard output.")
@click.option("-o", "--output", metavar="PAGE", help="Write a page that opens offline; replaces an older one.")
@click.option("--samples", type=int, default=0, help="Texts that each variant writes on the page.")
@click.option("--prompt", default="", help="What the texts of --samples, and the maps of --views, begin with.")
@click.option("--views", multiple=True, metavar="RUN", help="A checkpoint whose attention and embeddings to show.")
@click.option("--allow-module", multiple=True, help="Trust the classes of this module that a checkpoint names.")
@click.option(DEBUG_OPTION, is_flag=True, help="Show the traceback of an error.")
def compare(runs: tuple[str, ...], debug: bool, **options: Any) -> None:
    """Compare RUNs: folders of runs, roots of ablations, globs, or NAME=PATH.

    \b
    ./manage.py compare logs/version_0 logs/version_1
    ./manage.py compare small=logs/version_[012] large=logs/version_[345] -o page.html
    ./manage.py compare ablations/rope --at minutes=5 --samples 2 --prompt "The module" -o page.html

    Runs of the same settings are one variant, and their seeds are its sample: differences are taken seed by seed at
    equal tokens, with Student's interval. Runs that saw different data are refused.
    """
    with one_line_errors("manage.py compare", debug=debug):
        _run(runs, **options)


def _run(
    runs: tuple[str, ...],
    *,
    at: str | None,
    as_json: str | None,
    output: str | None,
    samples: int,
    prompt: str,
    views: tuple[str, ...],
    allow_module: tuple[str, ...],
    **how: Any,
) -> None:
    place = None if at is None else parse_place(at)
    if output is None and (samples or views):
        raise ConfigError(f"{'--samples' if samples else '--views'} stand on the page; give -o page.html")
    if samples < 0:
        raise ConfigError(f"--samples {samples} cannot be; give how many texts each variant writes")

    from xlab.commands.pages import page_place, write_whole
    from xlab.lab import compare_terminal
    from xlab.lab.compare_page import MARK, page
    from xlab.lab.comparison import compare as compare_groups
    from xlab.lab.run_groups import find_groups

    path = None if output is None else page_place(output, MARK, "comparison.html")
    found = compare_groups(find_groups(runs), at=place, **how)
    if path is not None:
        written, viewed = _exhibits(found, samples, prompt, views, allow_module)
        write_whole(page(found, samples=written, views=viewed), path)
    if as_json is not None:
        from xlab.lab.compare_json import plain

        text = json.dumps(plain(found), indent=2, ensure_ascii=False) + "\n"
        if as_json == "-":
            click.echo(text, nl=False)
            return
        from pathlib import Path

        write_whole(text, Path(as_json).expanduser())
    for line in compare_terminal.lines(found):
        click.echo(line)
    if path is not None:
        click.echo(f"\nwritten to {path}")


def parse_place(text: str) -> tuple[str, float | None]:
    """Read ``--at``: an axis, or AXIS=AMOUNT with k, M, G or T for thousands and more.

    Raises:
        ConfigError: for an axis that there is none of, or an amount that is no number above 0.
    """
    axis, _, amount = text.partition("=")
    if axis not in AXES:
        raise ConfigError(f"--at {text} names no axis; it can be {', '.join(AXES)}, such as tokens=2M")
    if not amount:
        return AXES[axis], None
    read = re.fullmatch(r"([0-9.]+(?:[eE][+-]?\d+)?)([kMGT]?)", amount)
    try:
        number = float(read[1]) * _SIZES[read[2]] if read else 0.0
    except ValueError:
        number = 0.0
    if number <= 0:
        raise ConfigError(f"--at {text}: {amount} is no amount; write a number above 0, such as 2e6 or 2M")
    return AXES[axis], number * (60 if axis == "minutes" else 1)


def _exhibits(
    found: "Comparison", samples: int, prompt: str, views: tuple[str, ...], allow_module: tuple[str, ...]
) -> tuple[list["Sample"], list["View"]]:
    if not samples and not views:
        return [], []
    from xlab import checkpoints
    from xlab.lab import exhibits

    for module in allow_module:
        checkpoints.allow_module(module)
    written = exhibits.write_samples(found, n=samples, prompt=prompt) if samples else []
    return written, [exhibits.view(path, prompt=prompt) for path in views]
