"""What `./manage.py ablate` costs beside the runs that it starts: a run through it and by the bare `fit`, in turns.

    python -m benchmarks.ablate_overhead --json logs/ablate_overhead.json [--key value of ./xlab.py fit …]

A round is an ablation of two variants with equal settings and one seed, in a new folder, and then as many bare runs of
`./xlab.py fit` on the settings that it wrote. Three ratios of ablate to fit: training alone (`train_seconds`, as both
log it), a run's process from its start to its end, and all from the shell's point of view, where ablate starts one
process more. Beyond that start nothing may grow with the run: the mark is 2 % for the first two.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.layout import as_markdown_table
from benchmarks.machine import describe_commit, describe_machine, today
from benchmarks.options import add_report_options, add_rounds, parser_of, progress, write_report
from xlab.commands.verify_resume import fit_command
from xlab.lab.runs import find_runs
from xlab.lab.trials import SETTINGS, TrialFolder

ROOT = Path(__file__).parent.parent
BASE = ROOT / "conf" / "defaults.yaml"
VARIANTS = ("base", "again")
MARK = 1.02
# of a run that lasts about a minute on two cores, whose validations are a part of it as in any other
SETTINGS_OF_ALL = ("--trainer.val_check_interval=40", "--trainer.limit_val_batches=10")
QUICK = (
    *("--data.vocab_size=300", "--data.seq_len=32", "--data.batch_size=4", "--model.d_model=16", "--model.n_layers=1"),
    *("--model.n_heads=2", "--trainer.limit_val_batches=2", "--trainer.val_check_interval=4"),
    "--model.schedule.warmup_steps=1",
)


@dataclass(frozen=True)
class Turn:
    """What a round took one of the two, in seconds.

    Args:
        whole: from the shell's point of view, for two runs.
        process: the mean of the runs' processes.
        training: the mean of what the runs logged last as ``train_seconds``.
    """

    whole: float
    process: float
    training: float


@dataclass(frozen=True)
class Round:
    """Both, one after the other."""

    ablate: Turn
    fit: Turn

    def ratio(self, what: str) -> float:
        """Ablate over fit."""
        found: float = getattr(self.ablate, what) / getattr(self.fit, what)
        return found

    @property
    def own_start(self) -> float:
        """Seconds that ablate takes beside its runs: imports, settings, a look at the data, the table at the end."""
        return self.ablate.whole - len(VARIANTS) * self.ablate.process


def measure(folder: Path, settings: Sequence[str], *, budget: str, rounds: int) -> Iterator[Round]:
    """Let both train, in turns.

    Args:
        folder: a new one, in which all of it happens.
        settings: fit's words.
        budget: of a run.
        rounds: how many.

    Raises:
        SystemExit: with the last line of what a process said that failed.
    """
    _called([sys.executable, str(ROOT / "manage.py"), "prepare-data", "-c", str(BASE), *settings], folder)
    for number in range(rounds):
        place = folder / f"round_{number}"
        made = _ablate(place, settings, budget, folder)
        bare = _fit(place, folder)
        found = Round(made, bare)
        told = ", ".join(f"{what} {found.ratio(what):.3f}" for what in asdict(made))
        progress(f"round {number + 1}/{rounds}: ablate ÷ fit: {told}; its own start {found.own_start:.1f} s")
        yield found


def _ablate(place: Path, settings: Sequence[str], budget: str, cwd: Path) -> Turn:
    again = [f"--variant={VARIANTS[1]}=", "--seeds=1", f"--budget={budget}", "-o", str(place)]
    whole = _called([sys.executable, str(ROOT / "manage.py"), "ablate", str(BASE), *settings, *again], cwd)
    trials = [place / name / "seed_0" for name in VARIANTS]
    processes = [float(TrialFolder(trial).record["wall_seconds"]) for trial in trials]
    return Turn(whole, sum(processes) / len(processes), sum(map(_trained, trials)) / len(trials))


def _fit(place: Path, cwd: Path) -> Turn:
    processes, trained = [], []
    for name in VARIANTS:
        settings, own = place / name / "seed_0" / SETTINGS, place / f"fit_{name}"
        processes.append(_called([*fit_command(), "-c", str(settings), f"--trainer.default_root_dir={own}"], cwd))
        trained.append(_trained(own))
    return Turn(sum(processes), sum(processes) / len(processes), sum(trained) / len(trained))


def _trained(folder: Path) -> float:
    (run,) = find_runs([folder])
    return run.last("train_seconds")


def _called(command: Sequence[str], cwd: Path) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, errors="replace")
    seconds = time.perf_counter() - began
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise SystemExit(f"{shlex.join(command)}: {(lines or ['without a word'])[-1]}")
    return seconds


def as_markdown(report: dict[str, Any]) -> str:
    """Lay a report out for ``docs/benchmarks.md``."""
    found = [Round(Turn(**one["ablate"]), Turn(**one["fit"])) for one in report["rounds"]]
    titles = {"training": "training", "process": "a run's process", "whole": "two runs, from the shell"}
    rows = []
    for what, title in titles.items():
        ratios = sorted(one.ratio(what) for one in found)
        seconds = [f"{median(getattr(turn, what) for turn in turns):.2f}" for turns in _columns(found)]
        rows.append((title, *seconds, f"{median(ratios):.3f}", f"{ratios[0]:.3f} – {ratios[-1]:.3f}"))
    reached = all(median(one.ratio(what) for one in found) < MARK for what in ("training", "process"))
    machine = report["machine"]
    return "\n\n".join(
        [
            f"{report['date']}, commit {report['commit']}: `{report['command']}`.\n"
            f"{machine['processor']}, {machine['cores']} cores, load {machine['load_before']} before the run; "
            f"{report['budget']} a run, {len(found)} rounds.",
            as_markdown_table(("seconds, median", "ablate", "fit", "ablate ÷ fit", "lowest – highest"), rows),
            f"Beside its runs ablate takes {median(one.own_start for one in found):.1f} s, however long they are. "
            f"Training and process {'reach' if reached else 'miss'} the mark of {MARK - 1:.0%} more.",
        ]
    )


def _columns(found: Sequence[Round]) -> Iterator[list[Turn]]:
    yield [one.ablate for one in found]
    yield [one.fit for one in found]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table and write the JSON."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args, settings = _parser().parse_known_args(arguments)
    if args.markdown:
        print(as_markdown(json.loads(args.markdown.read_text(encoding="utf-8"))))
        return 0
    of_all = QUICK if args.quick else SETTINGS_OF_ALL
    budget = args.budget or ("1024-tokens" if args.quick else "400k-tokens")
    machine = describe_machine()
    with tempfile.TemporaryDirectory(prefix="ablate-overhead-") as folder:
        rounds = args.rounds or (1 if args.quick else 5)
        found = list(measure(Path(folder), [*of_all, *settings], budget=budget, rounds=rounds))
    report = {
        "benchmark": "ablate_overhead",
        "quick": args.quick,
        "date": today(),
        "commit": describe_commit(ROOT),
        "command": shlex.join(["python", "-m", "benchmarks.ablate_overhead", *arguments]),
        "machine": machine,
        "budget": budget,
        "rounds": [asdict(one) for one in found],
    }
    print(as_markdown(report))
    write_report(report, args.json)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("ablate_overhead", __doc__)
    add_rounds(parser, 5, quick=1)
    parser.add_argument("--budget", help="of a run (400k-tokens)")
    add_report_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
