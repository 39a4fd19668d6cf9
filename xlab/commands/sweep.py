"""./manage.py sweep: search settings with Optuna, over the same runs as ablate."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xlab.commands.ablate import say
from xlab.commands.console import DEBUG_OPTION, ended_by_signals, one_line_errors
from xlab.commands.data_settings import PASSED_ON
from xlab.errors import ConfigError

if TYPE_CHECKING:
    from xlab.lab.sweep import Sweep

_SHOWN = 10  # trials


@click.command("sweep", context_settings=PASSED_ON)
@click.option("--space", multiple=True, help="KEY=LOW..HIGH, KEY=LOW..HIGH:log, or KEY=a,b,c.")
@click.option("--trials", default=20, show_default=True, help="How many in all, those of an earlier call included.")
@click.option("--budget", required=True, help="Of each run: 2M-tokens, 1e15-flops, 10min, 20-tokens-per-parameter.")
@click.option("--seed", default=0, show_default=True, help="Of the data's order, and of what is proposed.")
@click.option("--parallel", default=1, show_default=True, help="Runs at once; they share cores and devices.")
@click.option("-o", "--output", help="Folder of the sweep [default: sweeps/NAME_OF_BASE]")
@click.option("--allow-module", multiple=True, help="Trust the classes of this module that a checkpoint names.")
@click.option(DEBUG_OPTION, is_flag=True, help="Show the traceback of an error.")
@click.argument("base", nargs=-1, type=click.UNPROCESSED, metavar="BASE.yaml [SETTINGS]...")
def sweep(base: tuple[str, ...], output: str | None, debug: bool, **options: Any) -> None:
    """Search settings of BASE.yaml for the fewest bits per byte; needs pip install optuna.

    \b
    ./manage.py sweep conf/defaults.yaml --space model.optimizer.lr=1e-4..1e-2:log --space model.n_layers=2..6 \\
        --trials 20 --budget 300k-tokens

    SETTINGS are those of fit, over BASE's, for all. The runs are ./xlab.py fit in processes of their own, in
    FOLDER/trial_N; one that is worse, at a validation, than the median of the others was there is ended. What was
    interrupted goes on with the same command; FOLDER/study.db is Optuna's.
    """
    with one_line_errors("manage.py sweep", debug=debug), ended_by_signals():
        folder = Path(output or f"sweeps/{Path(base[0]).stem if base else ''}").expanduser().absolute()
        for line in _search(base, folder, modules=options.pop("allow_module"), **options):
            click.echo(line)


def _search(
    arguments: Sequence[str],
    folder: Path,
    *,
    space: Sequence[str],
    trials: int,
    budget: str,
    seed: int,
    parallel: int,
    modules: Sequence[str],
) -> Iterator[str]:
    from xlab.commands.trial_settings import StepCounter, base_of, settings_of, trusted
    from xlab.commands.verify_resume import fit_command
    from xlab.lab.budgets import Budget
    from xlab.lab.experiment_plan import alone, keep_plan
    from xlab.lab.overrides import check, run_seed
    from xlab.lab.pool import slots
    from xlab.lab.search_space import parse_space
    from xlab.lab.sweep import Sweep, needed
    from xlab.lab.trials import Trial

    needed()
    dimensions = parse_space(space)
    amount = Budget.parse(budget)
    environments = slots(parallel)
    if trials < 1:
        raise ConfigError(f"--trials must be at least 1, got {trials}")
    command = [*fit_command(), *trusted(modules)]
    base = base_of(arguments, amount)
    counter = StepCounter(amount, environments[0], modules)

    def make(words: Sequence[str]) -> tuple[dict[str, Any], int]:
        whole = [*base.words, *words]
        settings = settings_of(whole)
        check(settings, base.settings)
        return settings, counter.steps(settings, whole, base.datamodule)

    common = Trial("", seed, run_seed(seed, "sweep"), "", budget, 0, command, os.getcwd())
    with alone(folder):
        keep_plan(folder, {"budget": budget, "space": list(space), "seed": seed, "settings": base.settings})
        found = Sweep(folder, dimensions, make=make, trial=common, seed=seed)
        found.train(trials, environments, say=say)
        yield from report(found)


def report(sweep: "Sweep") -> Iterator[str]:
    """Lay out the best trials, and how to train with the best's settings."""
    trials = sweep.found()
    counts = {status: sum(found.status == status for found in trials) for status in ("finished", "pruned", "failed")}
    yield ", ".join(f"{number} {status}" for status, number in counts.items() if number)
    rows = [("trial", "status", "bits/byte", "")]
    for found in trials[:_SHOWN]:
        figure = "" if found.figure is None else f"{found.figure:.4f}"
        rows.append((str(found.number), found.status, figure, found.error or found.words))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    if counts["finished"]:
        yield ""
        yield f"the best: {trials[0].words}"
        yield "chosen among many on one seed, its figure flatters it; compare it with ./manage.py ablate"
