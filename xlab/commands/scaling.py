"""./manage.py scaling: a law fitted to small runs, and what it promises of a larger one."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xlab.commands.ablate import say
from xlab.commands.console import DEBUG_OPTION, ended_by_signals, one_line_errors
from xlab.commands.data_settings import PASSED_ON
from xlab.errors import ConfigError, XLabError

if TYPE_CHECKING:
    from xlab.commands.trial_settings import Base, StepCounter
    from xlab.lab.experiment_plan import Member
    from xlab.lab.scaling import Scaling, Size

_AXES = ("parameters", "flops")
_RULES = ("constant", "inverse-sqrt", "inverse")


@click.command("scaling", context_settings=PASSED_ON)
@click.option("--widths", required=True, help="W1,W2,…: d_model of the small runs; heads keep their width.")
@click.option("--budget", required=True, help="Of each run: 2M-tokens, or 20-tokens-per-parameter.")
@click.option("--seeds", default=1, show_default=True, help="Runs of each width: seeds 0, 1, …")
@click.option("--check", is_flag=True, help="Train BASE, too, and show by how much the promise missed.")
@click.option("--over", type=click.Choice(_AXES), default="parameters", show_default=True, help="What the law is of.")
@click.option("--rate-rule", type=click.Choice(_RULES), default="constant", show_default=True, help="Rate over width.")
@click.option("--floor", type=float, help="Hold E, the loss without end, at this, and fit the other two.")
@click.option("--parallel", default=1, show_default=True, help="Runs at once; they share cores and devices.")
@click.option("--retry", is_flag=True, help="Train those that failed once more.")
@click.option("-o", "--output", help="Folder of the runs [default: scaling/NAME_OF_BASE]")
@click.option("--allow-module", multiple=True, help="Trust the classes of this module that a checkpoint names.")
@click.option(DEBUG_OPTION, is_flag=True, help="Show the traceback of an error.")
@click.argument("base", nargs=-1, type=click.UNPROCESSED, metavar="BASE.yaml [SETTINGS]...")
def scaling(base: tuple[str, ...], output: str | None, debug: bool, **options: Any) -> None:
    """Fit a power law to narrower runs of BASE.yaml, and predict the loss of BASE itself.

    \b
    ./manage.py scaling conf/defaults.yaml --widths 48,96,144 --seeds 2 --budget 300k-tokens --floor 2.5 --check
    ./manage.py scaling big.yaml --widths 64,96,128,192 --budget 20-tokens-per-parameter --over flops

    L = E + A·x^−α, x the parameters beside the embeddings or the FLOPs of training; with fewer than four widths, E is
    held. SETTINGS are those of fit, over BASE's. FOLDER gets scaling.json and scaling.html. What was interrupted goes
    on with the same command.
    """
    with one_line_errors("manage.py scaling", debug=debug), ended_by_signals():
        folder = Path(output or f"scaling/{Path(base[0]).stem if base else ''}").expanduser().absolute()
        found = _measure(base, folder, modules=options.pop("allow_module"), **options)
        for line in report(found):
            click.echo(line)
        click.echo(f"\nwritten to {_write(found, folder)}")


def _measure(
    arguments: Sequence[str],
    folder: Path,
    *,
    widths: str,
    budget: str,
    seeds: int,
    check: bool,
    over: str,
    rate_rule: str,
    floor: float | None,
    parallel: int,
    retry: bool,
    modules: Sequence[str],
) -> "Scaling":
    from xlab.commands.trial_settings import StepCounter, base_of, trusted
    from xlab.commands.verify_resume import fit_command
    from xlab.lab.ablation import Ablation
    from xlab.lab.budgets import Budget
    from xlab.lab.experiment_plan import Plan, alone, keep_plan
    from xlab.lab.pool import slots
    from xlab.lab.scaling import scaling

    amount, numbers = Budget.parse(budget), _widths(widths)
    if amount.of not in ("tokens", "tokens per parameter"):
        raise ConfigError(
            f"--budget {budget}: runs of equal {amount.of} trade tokens for size, and follow no such law; "
            "give tokens, or tokens-per-parameter"
        )
    if seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, got {seeds}")
    environments = slots(parallel)
    command = [*fit_command(), *trusted(modules)]
    base = base_of(arguments)
    counter = StepCounter(amount, environments[0], modules)
    small = [_member(base, width, counter, rate_rule) for width in numbers]
    large = _member(base, None, counter, rate_rule)
    named = " ".join(base.words)
    with alone(folder):
        keep_plan(folder, Plan(named, budget, seeds, [*small, large]).as_json())
        trained = Ablation(folder, Plan(named, budget, seeds, small), command)
        checked = Ablation(folder, Plan(named, budget, seeds, [large]), command)
        for ablation in (trained, checked) if check else (trained,):
            if retry:
                ablation.retry()
            ablation.train(environments, say=say)
        sizes = {member.variant.name: _size(member, base, counter) for member in (*small, large)}
        results = [*trained.results(), *(checked.results() if check else [])]
        points = [
            (sizes[result.variant], result.seed, loss)
            for result in trained.results()
            if (loss := result.loss) is not None
        ]
        seen = [result.loss for result in checked.results() if result.loss is not None] if check else []
        lost = [f"{result.variant} seed {result.seed}: {result.error}" for result in results if result.loss is None]
        target = sizes[large.variant.name]
        return scaling(
            points, target, axis=over, budget=budget, runs=len(seen) or seeds, seen=seen, floor=floor, lost=lost
        )


def _widths(text: str) -> list[int]:
    try:
        widths = [int(width) for width in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--widths {text!r} are no whole numbers; give them as 64,96,128") from error
    if len(set(widths)) < 2 or len(set(widths)) < len(widths):
        raise ConfigError(f"--widths {text!r}: give two different ones at least, each once")
    return sorted(widths)


def _member(base: "Base", width: int | None, counter: "StepCounter", rate_rule: str) -> "Member":
    """Make the runs of a width, or of BASE itself."""
    from xlab.commands.trial_settings import settings_of
    from xlab.lab.experiment_plan import Member
    from xlab.lab.overrides import Overrides
    from xlab.lab.scaling import words_of

    own = [] if width is None else words_of(width, base.settings, rate_rule=rate_rule)
    variant = Overrides("base" if width is None else f"width-{width}", tuple(own))
    words = [*base.words, *own]
    try:
        settings = settings_of(words) if own else base.settings
        return Member(variant, (), settings, counter.steps(settings, words, base.datamodule))
    except XLabError as error:
        raise ConfigError(f"{variant.name}: {error}") from error


def _size(member: "Member", base: "Base", counter: "StepCounter") -> "Size":
    from xlab.lab.scaling import Size

    cost = counter.cost(member.settings, [*base.words, *member.variant.words], base.datamodule)
    flops = cost.flops_per_token * cost.tokens * member.steps
    return Size(int(member.settings["model"]["d_model"]), cost.parameters, flops)


def report(scaling: "Scaling") -> Iterator[str]:
    """Lay the law out; what it promises comes last."""
    from xlab.lab.scaling_text import POINT_COLUMNS, formula, parameters, points, verdict

    yield formula(scaling)
    for columns, rows in ((["value", "interval"], parameters(scaling)), (POINT_COLUMNS, points(scaling))):
        yield ""
        table = [("", columns), *rows]
        labels = max(len(label) for label, _ in table)
        widths = [max(len(cells[i]) for _, cells in table) + 2 for i in range(len(columns))]
        for label, cells in table:
            yield f"{label:<{labels}}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
    yield ""
    yield from (f"! {remark}" for remark in scaling.fit.remarks)
    yield from (f"! failed: {lost}" for lost in scaling.lost)
    yield from verdict(scaling)


def _write(scaling: "Scaling", folder: Path) -> Path:
    from xlab.commands.pages import write_whole
    from xlab.lab.scaling_page import page

    write_whole(json.dumps(scaling.as_json(), indent=2) + "\n", folder / "scaling.json")
    write_whole(page(scaling), folder / "scaling.html")
    return folder / "scaling.html"
