"""./manage.py ablate: variants of a configuration, each with every seed, on the same batches at the same cost."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xlab.commands.console import DEBUG_OPTION, ended_by_signals, one_line_errors
from xlab.commands.data_settings import PASSED_ON
from xlab.errors import ConfigError, XLabError

if TYPE_CHECKING:
    from xlab.commands.trial_settings import Base, StepCounter
    from xlab.lab.ablation import Ablation
    from xlab.lab.experiment_plan import Member
    from xlab.lab.overrides import Overrides

BASE = "base"


@click.command("ablate", context_settings=PASSED_ON)
@click.option("--variant", "variants", multiple=True, help="NAME=OVERRIDES: fit's --key value words, or a YAML file.")
@click.option("--seeds", default=3, show_default=True, help="Runs of each variant: seeds 0, 1, …")
@click.option("--budget", required=True, help="Of each run: 2M-tokens, 1e15-flops, 10min, 20-tokens-per-parameter.")
@click.option("--leave-one-out", is_flag=True, help="Also train each variant without each of its changes.")
@click.option("--grid", multiple=True, help="KEY=V1,V2,…: each variant is compared at its best, chosen on seed 0.")
@click.option("--no-base", is_flag=True, help="Train the variants alone, and not BASE as it is.")
@click.option("--allow-data", is_flag=True, help="Compare variants that read other data, by bits per byte.")
@click.option("--parallel", default=1, show_default=True, help="Runs at once; they share cores and devices.")
@click.option("--slurm", is_flag=True, help="Train nothing here: write an array job for what is to be trained.")
@click.option("--retry", is_flag=True, help="Train those that failed once more.")
@click.option("-o", "--output", help="Folder of the ablation [default: ablations/NAME_OF_BASE]")
@click.option("--allow-module", multiple=True, help="Trust the classes of this module that a checkpoint names.")
@click.option(DEBUG_OPTION, is_flag=True, help="Show the traceback of an error.")
@click.argument("base", nargs=-1, type=click.UNPROCESSED, metavar="BASE.yaml [SETTINGS]...")
def ablate(base: tuple[str, ...], output: str | None, debug: bool, **options: Any) -> None:
    """Train variants of BASE.yaml with every seed, and compare them.

    \b
    ./manage.py ablate conf/defaults.yaml --variant alibi='--model.position ALiBi' --budget 500k-tokens
    ./manage.py ablate conf/defaults.yaml --variant relu=relu.yaml --grid model.optimizer.lr=1e-3,3e-3 --budget 10min

    SETTINGS are those of fit, over BASE's, for all. A seed fixes the order of the data for all variants; initialisation
    and dropout have a seed made of it and the variant's name, so that two variants with equal settings differ by
    chance. The runs are ./xlab.py fit in processes of their own, in FOLDER/VARIANT/seed_K. What was interrupted goes on
    with the same command.
    """
    with one_line_errors("manage.py ablate", debug=debug), ended_by_signals():
        modules = options.pop("allow_module")
        folder = Path(output or f"ablations/{Path(base[0]).stem if base else ''}").expanduser().absolute()
        ablation = _train(base, folder, modules=modules, **options)
        if ablation is not None:
            for line in report(ablation, allow_data=options["allow_data"]):
                click.echo(line)


def say(line: str) -> None:
    """Tell how the work goes on, beside the results."""
    print(line, file=sys.stderr, flush=True)


def _train(
    arguments: Sequence[str],
    folder: Path,
    *,
    variants: Sequence[str],
    seeds: int,
    budget: str,
    leave_one_out: bool,
    grid: Sequence[str],
    no_base: bool,
    allow_data: bool,
    parallel: int,
    slurm: bool,
    retry: bool,
    modules: Sequence[str],
) -> "Ablation | None":
    """Plan, train, and give what was trained; None where it is left to Slurm."""
    from xlab.commands.trial_settings import StepCounter, base_of, trusted
    from xlab.commands.verify_resume import fit_command
    from xlab.lab.ablation import Ablation
    from xlab.lab.budgets import Budget
    from xlab.lab.experiment_plan import Plan, alone, keep_plan, known_plan
    from xlab.lab.overrides import parse_grid
    from xlab.lab.pool import slots
    from xlab.lab.slurm import write_array

    amount = Budget.parse(budget)
    if seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, got {seeds}")
    changes = named_variants(variants, leave_one_out=leave_one_out, with_base=not no_base)
    places = parse_grid(grid) or [()]
    environments = slots(parallel)
    command = [*fit_command(), *trusted(modules)]
    before = known_plan(folder)
    base = base_of(arguments, amount)
    counter = StepCounter(amount, environments[0], modules)
    pairs = [(variant, place) for variant in changes for place in places]
    members = list(members_of(base, pairs, counter, before, allow_data=allow_data))
    plan = Plan(" ".join(base.words), budget, seeds, members)
    with alone(folder):
        keep_plan(folder, plan.as_json())
        ablation = Ablation(folder, plan, command)
        if retry:
            ablation.retry()
        if not slurm:
            ablation.train(environments, say=say)
            return ablation
        waiting = ablation.waiting()
        if not waiting:
            return ablation
        script = write_array(folder, waiting, at_once=parallel)
        click.echo(f"{len(waiting)} trials wait; hand them in with: sbatch {script}")
        click.echo("when they are done: this command once more, which goes on, or compares them")
        return None


def named_variants(texts: Sequence[str], *, leave_one_out: bool, with_base: bool) -> "list[Overrides]":
    """Read the variants.

    Raises:
        ConfigError: for a name that comes twice, and for fewer than two variants.
    """
    from xlab.lab import overrides

    given = [overrides.Overrides.parse(text) for text in texts]
    if leave_one_out:
        given = [each for variant in given for each in overrides.leave_one_out(variant)]
    changes = [*([overrides.Overrides(BASE)] if with_base else []), *given]
    names = [variant.name for variant in changes]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"two variants are called {twice}; give each a name of its own")
    if len(changes) < 2:
        raise ConfigError("there is nothing to compare; name a variant, as in --variant lowlr='--key value'")
    return changes


def members_of(
    base: "Base",
    pairs: "Iterable[tuple[Overrides, tuple[str, ...]]]",
    counter: "StepCounter",
    before: dict[str, Any] | None,
    *,
    allow_data: bool = False,
) -> "Iterator[Member]":
    """Work out the settings and the steps of variants.

    Args:
        base: what they change.
        pairs: each variant with a place of its grid, or with no words.
        counter: of steps.
        before: the plan of a folder that goes on; None in a new one.
        allow_data: whether a variant may change the data.

    Raises:
        ConfigError: naming the variant, for settings that cannot be.
    """
    from xlab.commands.trial_settings import prepared, settings_of
    from xlab.lab.experiment_plan import Member
    from xlab.lab.overrides import changes_data, check, folder_name

    for variant, place in pairs:
        words = [*base.words, *variant.words, *place]
        try:
            settings = settings_of(words) if variant.words or place else base.settings
            check(settings, base.settings, allow_data=allow_data)
            other_data = changes_data(settings, base.settings)
            datamodule = prepared(words, settings) if other_data else base.datamodule
            # a time that was measured once stays: the runs that are there were as long
            known = (before or {}).get("variants", {}).get(variant.name, {}).get(folder_name(place) or "-") or {}
            steps = known.get("steps") or counter.steps(settings, words, datamodule)
        except XLabError as error:
            raise ConfigError(f"{variant.name}: {error}") from error
        yield Member(variant, place, settings, steps)


def report(ablation: "Ablation", *, allow_data: bool = False) -> Iterator[str]:
    """Lay out what became of the trials, and what the comparison says."""
    from xlab.commands.callbacks import shown
    from xlab.lab.compare_terminal import lines
    from xlab.lab.comparison import compare
    from xlab.lab.run_groups import find_groups

    results = ablation.results()
    for name, figures in ablation.choices().items():
        told = ", ".join(f"{value} {figure:.4f}" if figure else f"{value} failed" for value, figure in figures.items())
        yield f"{name}, on seed 0: {told}"
    rows = [("variant", "seed", "status", "bits/byte", "seconds", "")]
    for result in results:
        figure = "" if result.figure is None else f"{result.figure:.4f}"
        seconds = "" if result.seconds is None else f"{result.seconds:.0f}"
        remark = result.error or result.choice
        rows.append((result.variant, str(result.seed), result.status, figure, seconds, remark))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    if any(result.status == "failed" for result in results):
        yield "what failed is trained again with --retry"
    yield ""
    try:
        yield from lines(
            compare(find_groups([str(ablation.folder)]), baseline=results[0].variant, allow_different_data=allow_data)
        )
    except XLabError as error:
        yield f"no comparison: {error}"
    else:
        yield f"as a page: ./manage.py compare {shown(ablation.folder)}"
