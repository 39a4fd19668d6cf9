"""Bits per byte that recipes reach with equal tokens: XLab's default and its peers', all over XLab's own parts.

    python -m benchmarks.recipe_quality -o recipes [--key value of ./xlab.py fit, for all recipes …]
    python -m benchmarks.recipe_quality -o recipes --speed      # the same words once more, on a machine that is idle

Built on `./manage.py ablate`: each recipe with each seed on the same batches; the peers have three learning rates each
on seed 0, and the best of them on the other seeds. What is interrupted goes on with the same command. Figures by tokens
do not depend on what else the machine does; figures by time do, so `--speed` times the recipes' steps in turns, after
the runs. docs/benchmarks.md says what it is for.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import describe_commit, describe_machine, threads_available, today
from benchmarks.options import add_report_options, parser_of, positive, progress, write_report
from benchmarks.recipe_report import Report, as_markdown, as_text, figures
from benchmarks.recipe_speed import keep_speed, known_speed, time_recipes
from xlab.commands.ablate import members_of
from xlab.commands.trial_settings import StepCounter, base_of
from xlab.commands.verify_resume import fit_command
from xlab.errors import XLabError
from xlab.lab.ablation import Ablation
from xlab.lab.budgets import Budget
from xlab.lab.experiment_plan import Plan, alone, keep_plan, known_plan
from xlab.lab.overrides import Overrides
from xlab.lab.pool import slots

ROOT = Path(__file__).parent.parent
RECIPES_FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Recipe:
    """How a model is built and trained.

    Args:
        rates: learning rates to choose from, set before the first run; ours is what conf/defaults.yaml has.
        file: its YAML in ``recipes/``; None: as conf/defaults.yaml has it.
    """

    rates: tuple[float, ...]
    file: str | None = None


RECIPES = {
    "xlab": Recipe((8e-3,)),
    "nanogpt": Recipe((1e-3, 2e-3, 4e-3), "nanogpt.yaml"),
    "litgpt": Recipe((1e-3, 2e-3, 4e-3), "litgpt.yaml"),
    "nanochat": Recipe((2e-3, 4e-3, 8e-3), "nanochat.yaml"),
}
# a tiny shape, to see that everything runs
QUICK = (
    *("--data.vocab_size=300", "--data.seq_len=32", "--data.batch_size=4", "--model.d_model=16", "--model.n_layers=1"),
    *("--model.n_heads=2", "--trainer.precision=32-true", "--trainer.limit_val_batches=2"),
    *("--trainer.val_check_interval=4",),
)
QUICK_CHANGES = ("--model.schedule.warmup_steps=1",)


def main(arguments: list[str] | None = None) -> int:
    """Train what is not trained yet, print the table and write its JSON; 1 when something broke."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args, settings = _parser().parse_known_args(arguments)
    if args.markdown:
        print(as_markdown(json.loads(args.markdown.read_text(encoding="utf-8"))))
        return 0
    try:
        report = run(
            args.recipes,
            args.output,
            seeds=args.seeds or (2 if args.quick else 3),
            budget=args.budget or ("1024-tokens" if args.quick else "2M-tokens"),
            settings=[*_corpus(args.corpus), *(QUICK if args.quick else ()), *settings],
            quick=args.quick,
            parallel=args.parallel,
            rounds=(1 if args.quick else args.rounds) if args.speed else None,
        )
    except XLabError as error:
        print(f"recipe_quality: error: {error}", file=sys.stderr)
        return 1
    report["command"] = shlex.join(["python", "-m", "benchmarks.recipe_quality", *arguments])
    print(as_text(report))
    write_report(report, args.json or args.output / "recipe_quality.json")
    return int(bool(report["failed"]))


def run(
    names: Sequence[str],
    folder: Path,
    *,
    seeds: int,
    budget: str,
    settings: Sequence[str] = (),
    quick: bool = False,
    parallel: int = 1,
    rounds: int | None = None,
) -> Report:
    """Compare recipes.

    Args:
        names: from ``RECIPES``.
        folder: of the runs; it goes on where it was.
        seeds: how many.
        budget: of a run.
        settings: fit's words, over those of all recipes.
        quick: whether the shape is too small for the recipes' warm-ups.
        parallel: runs at once.
        rounds: of timing steps when all are trained; None keeps to the figures that the folder has.

    Raises:
        XLabError: for settings that cannot be.
    """
    environments = slots(parallel)
    with alone(folder.absolute()):
        base = base_of([str(RECIPES_FOLDER / "shape.yaml"), *settings])
        pairs = []
        for name in names:
            recipe = RECIPES[name]
            words = ["-c", str(RECIPES_FOLDER / recipe.file)] if recipe.file else []
            variant = Overrides(name, (*words, *(QUICK_CHANGES if quick else ())))
            pairs += [(variant, (f"--model.optimizer.lr={rate}",)) for rate in recipe.rates]
        counter = StepCounter(Budget.parse(budget), environments[0])
        members = list(members_of(base, pairs, counter, known_plan(folder)))
        plan = Plan(" ".join(base.words), budget, seeds, members)
        keep_plan(folder, plan.as_json())
        ablation = Ablation(folder, plan, fit_command())
        ablation.train(environments, say=progress)
        if rounds is not None:
            timed = {member.variant.name: [*base.words, *member.variant.words, *member.choice] for member in members}
            keep_speed(folder, time_recipes(timed, rounds=rounds))
    return {
        "benchmark": "recipe_quality",
        "quick": quick,
        "date": today(),
        "commit": describe_commit(ROOT),
        "machine": describe_machine(),
        "threads": max(threads_available() // parallel, 1),
        "budget": budget,
        "seeds": seeds,
        "settings": shlex.join(settings),
        **figures(ablation, known_speed(folder, names)),
    }


def _corpus(files: Sequence[str]) -> list[str]:
    if not files:
        return []
    return ["--data.source=TextFiles", f"--data.source.paths={json.dumps(list(files))}"]


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("recipe_quality", __doc__)
    every = tuple(RECIPES)
    parser.add_argument("--recipes", nargs="+", choices=every, default=every, metavar="NAME", help="(%(default)s)")
    parser.add_argument("-o", "--output", type=Path, default=Path("recipe_quality"), help="folder of the runs")
    parser.add_argument("--corpus", nargs="+", default=(), metavar="FILE", help="text files, for the embedded corpus")
    parser.add_argument("--budget", help="of a run (2M-tokens)")
    parser.add_argument("--seeds", type=positive, help="of each recipe (3)")
    parser.add_argument("--parallel", type=positive, default=1, help="runs at once (%(default)s)")
    parser.add_argument("--speed", action="store_true", help="time steps in turns afterwards; leave the machine alone")
    parser.add_argument("--rounds", type=positive, default=5, help="of these turns (%(default)s)")
    add_report_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
