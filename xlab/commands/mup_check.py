"""./manage.py mup-check: whether what a model computes grows with its width, as it learns."""

import json
import sys

import click

from xlab.commands.console import DEBUG_OPTION, one_line_errors
from xlab.commands.data_settings import PASSED_ON
from xlab.errors import ConfigError


@click.command("mup-check", context_settings=PASSED_ON)
@click.option("--widths", required=True, help="W1,W2,…: d_model of the models; heads keep their width.")
@click.option("--steps", default=8, show_default=True, type=click.IntRange(1), help="Optimiser steps of each.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="Models of each width.")
@click.option("--json", "as_data", is_flag=True, help="Print JSON.")
@click.option("--allow-module", multiple=True, help="Trust the classes of this module that a checkpoint names.")
@click.option(DEBUG_OPTION, is_flag=True, help="Show the traceback of an error.")
@click.argument("settings", nargs=-1, type=click.UNPROCESSED)
def mup_check(
    settings: tuple[str, ...],
    widths: str,
    steps: int,
    seeds: int,
    as_data: bool,
    allow_module: tuple[str, ...],
    debug: bool,
) -> None:
    """Train the model of these SETTINGS at several widths for a few steps, and see whether its activations grow.

    \b
    ./manage.py mup-check --widths 96,192,384
    ./manage.py mup-check -c my.yaml --model.initialisation MuPInitialisation \\
        --model.initialisation.base_width 96 --model.tie_embeddings false --widths 96,192,384

    This is the coordinate check of μP (Yang et al. 2022): one batch of random tokens, the full learning rate, the mean
    |activation| of each part after each step, and its exponent over the widths. SETTINGS are those of fit; no corpus is
    read, nothing is written. Status 0: nothing grows with the width. Status 1: something does.
    """
    with one_line_errors("manage.py mup-check", debug=debug):
        numbers = _widths(widths)
        from xlab import checkpoints
        from xlab.commands.plan import settings_of
        from xlab.lab.mup_check import mup_check as check
        from xlab.lab.mup_check_text import as_json, lines

        for module in allow_module:
            checkpoints.allow_module(module)
        model = settings_of(settings, allow_module).model
        made = check(model, numbers, steps=steps, seeds=seeds, say=lambda text: click.echo(text, err=True))
        click.echo(json.dumps(as_json(made), indent=2) if as_data else "\n".join(lines(made)))
        if made.growing:
            sys.exit(1)


def _widths(text: str) -> list[int]:
    try:
        widths = sorted(int(width) for width in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--widths {text!r} are no whole numbers; give them as 64,128,256") from error
    if len(set(widths)) < max(len(widths), 2):
        raise ConfigError(f"--widths {text!r}: give two different ones at least, each once")
    return widths
