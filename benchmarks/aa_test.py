"""Whether ablations call differences where there are none, and find one where it is: many tiny runs.

    python -m benchmarks.aa_test -o aa [--key value of ./xlab.py fit …]

Twenty pairs of variants with equal settings, three seeds each, may differ by chance alone: at 95 % one in twenty is
called on average, and more than two come about in one of thirteen such tests. And twenty pairs of which one has a tenth
of the learning rate: all are to be found. Each pair is compared alone, as two ablations of two variants would be.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.options import parser_of, positive, progress
from xlab.commands.ablate import members_of
from xlab.commands.trial_settings import StepCounter, base_of
from xlab.commands.verify_resume import fit_command
from xlab.errors import XLabError
from xlab.lab.ablation import Ablation
from xlab.lab.budgets import Budget
from xlab.lab.comparison import Contrast, compare
from xlab.lab.experiment_plan import Plan, alone, keep_plan, known_plan
from xlab.lab.overrides import Overrides
from xlab.lab.pool import slots
from xlab.lab.run_groups import find_groups

BASE = Path(__file__).parent / "recipes" / "aa.yaml"
RATE = 3e-3  # a tenth of it hardly leaves the start, and no chance makes up for that
CALLED_AT_MOST = 2  # of twenty


def main(arguments: list[str] | None = None) -> int:
    """Train what is not trained yet, and print what was called; 1 when it is too much, or too little."""
    args, settings = _parser().parse_known_args(arguments)
    try:
        called, found = run(args.output, args.pairs, args.seeds, settings, budget=args.budget, parallel=args.parallel)
    except XLabError as error:
        print(f"aa_test: error: {error}", file=sys.stderr)
        return 1
    for contrast in (*called, *found):
        effect = contrast.effect
        width = "no interval" if effect.half_width is None else f"± {effect.half_width:.4f}"
        print(f"{contrast.variant:<8} {effect.difference:+.4f} {width}  {'told' if contrast.is_told else ''}".rstrip())
    n_called, n_found = (sum(contrast.is_told for contrast in contrasts) for contrasts in (called, found))
    print(f"equal settings: {n_called} of {len(called)} called, at most {CALLED_AT_MOST} of 20 may be")
    print(f"a tenth of the rate: {n_found} of {len(found)} found, all should be")
    return int(n_called > CALLED_AT_MOST * len(called) / 20 or n_found < len(found))


def run(
    folder: Path, pairs: int, seeds: int, settings: Sequence[str], *, budget: str, parallel: int
) -> tuple[list[Contrast], list[Contrast]]:
    """Train pairs of variants.

    Args:
        folder: of the runs; it goes on where it was.
        pairs: how many are equal, and how many have an effect.
        seeds: of each variant.
        settings: fit's words, over those of all.
        budget: of a run.
        parallel: runs at once.

    Returns:
        The contrasts of the equal pairs, and those of the pairs with an effect.

    Raises:
        XLabError: for settings that cannot be.
    """
    slow = f"--model.optimizer.lr={RATE / 10:g}"
    variants = [Overrides(f"a{i}") for i in range(pairs)] + [Overrides(f"b{i}") for i in range(pairs)]
    variants += [Overrides(f"slow{i}", (slow,)) for i in range(pairs)]
    environments = slots(parallel)
    with alone(folder.absolute()):
        base = base_of([str(BASE), f"--model.optimizer.lr={RATE}", *settings])
        counter = StepCounter(Budget.parse(budget), environments[0])
        members = list(members_of(base, [(variant, ()) for variant in variants], counter, known_plan(folder)))
        plan = Plan(" ".join(base.words), budget, seeds, members)
        keep_plan(folder, plan.as_json())
        Ablation(folder, plan, fit_command()).train(environments, say=progress)
    equal = [_contrast(folder, f"a{i}", f"b{i}") for i in range(pairs)]
    return equal, [_contrast(folder, f"a{i}", f"slow{i}") for i in range(pairs)]


def _contrast(folder: Path, baseline: str, variant: str) -> Contrast:
    comparison = compare(find_groups([str(folder / baseline), str(folder / variant)]), baseline=baseline)
    (contrast,) = comparison.contrasts[comparison.place]
    return contrast


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("aa_test", __doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("aa_test"), help="folder of the runs")
    parser.add_argument("--pairs", type=positive, default=20, help="of each kind (%(default)s)")
    parser.add_argument("--seeds", type=positive, default=3, help="of each variant (%(default)s)")
    parser.add_argument("--budget", default="25k-tokens", help="of a run (%(default)s)")
    parser.add_argument("--parallel", type=positive, default=1, help="runs at once (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
