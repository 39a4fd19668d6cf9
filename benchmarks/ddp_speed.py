"""What two processes of one thread make of the same batches as one process of two: data parallelism, in turns.

    python -m benchmarks.ddp_speed --json logs/ddp_speed.json [--key value of ./xlab.py fit …]

A round is two runs of `./xlab.py fit` on the same settings: one process with all threads, and then as many processes of
one thread, `-c conf/extra/ddp.yaml`, each with its share of the batch. The figure is `tokens_per_s` as the runs log it:
the median of its later half, without validations, start and end. The mark is 0.9 of one process.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.layout import as_markdown_table
from benchmarks.machine import describe_commit, describe_machine, threads_available, today
from benchmarks.options import add_report_options, add_rounds, parser_of, positive, progress, write_report
from xlab.commands.verify_resume import fit_command
from xlab.lab.runs import find_runs

ROOT = Path(__file__).parent.parent
MARK = 0.9
BATCH = 16
# train_speed's model, on windows of its length
SHAPE = (
    *("--data.vocab_size=8192", "--data.seq_len=256", "--model.d_model=384", "--model.n_layers=6"),
    *("--model.n_heads=6", "--model.d_ff=1024", "--model.schedule.warmup_steps=10"),
)
QUICK = (
    *("--data.vocab_size=300", "--data.seq_len=32", "--model.d_model=16", "--model.n_layers=1", "--model.n_heads=2"),
    "--model.schedule.warmup_steps=1",
)
# nothing but steps: every ten of them a rate is logged
PLAIN = ("--trainer.limit_val_batches=0", "--trainer.enable_checkpointing=false")


@dataclass(frozen=True)
class Round:
    """Tokens a second of both, one after the other."""

    one: float
    ddp: float

    @property
    def ratio(self) -> float:
        """DDP over one process."""
        return self.ddp / self.one


def measure(folder: Path, settings: Sequence[str], *, ranks: int, steps: int, rounds: int) -> Iterator[Round]:
    """Let both train, in turns.

    Args:
        folder: a new one, in which all of it happens.
        settings: fit's words.
        ranks: processes of one thread, and threads of the one process.
        steps: of a run.
        rounds: how many.

    Raises:
        SystemExit: with the last line of what a process said that failed.
    """
    of_all = [*settings, *PLAIN, f"--trainer.max_steps={steps}", "--trainer.accelerator=cpu"]
    ddp = ["-c", str(ROOT / "conf" / "extra" / "ddp.yaml"), f"--trainer.devices={ranks}"]
    for number in range(rounds):
        place = folder / f"round_{number}"
        one = _rate([*of_all, f"--data.batch_size={BATCH}"], place / "one", threads=ranks)
        spread = _rate([*of_all, *ddp, f"--data.batch_size={BATCH // ranks}"], place / "ddp", threads=1)
        found = Round(one, spread)
        progress(f"round {number + 1}/{rounds}: one process {one:,.0f}, DDP {spread:,.0f} tokens/s: {found.ratio:.3f}")
        yield found


def _rate(settings: Sequence[str], place: Path, *, threads: int) -> float:
    """Train, and give the median of the rates that were logged in the later half."""
    command = [*fit_command(), *settings, f"--trainer.default_root_dir={place}"]
    place.mkdir(parents=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    # beside the rounds' folders: the first run prepares the data for all
    done = subprocess.run(
        command, cwd=place.parents[1], env=environment, capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise SystemExit(f"{shlex.join(command)}: {(lines or ['without a word'])[-1]}")
    (run,) = find_runs([place])
    rates = run.series("tokens_per_s").values
    return float(median(rates[len(rates) // 2 :]))


def as_markdown(report: dict[str, Any]) -> str:
    """Lay a report out for ``docs/benchmarks.md``."""
    found = [Round(**one) for one in report["rounds"]]
    ratios = sorted(one.ratio for one in found)
    rows = [
        (f"one process, {report['ranks']} threads", f"{median(one.one for one in found):,.0f}", "", ""),
        (
            f"DDP, {report['ranks']} processes of one thread",
            f"{median(one.ddp for one in found):,.0f}",
            f"{median(ratios):.3f}",
            f"{ratios[0]:.3f} – {ratios[-1]:.3f}",
        ),
    ]
    machine, reached = report["machine"], median(ratios) >= MARK
    return "\n\n".join(
        [
            f"{report['date']}, commit {report['commit']}: `{report['command']}`.\n"
            f"{machine['processor']}, {machine['cores']} cores, load {machine['load_before']} before the run; "
            f"{report['steps']} steps a run, {len(found)} rounds.",
            as_markdown_table(("", "tokens/s, median", "÷ one process", "lowest – highest"), rows),
            f"The mark of {MARK} is {'reached' if reached else 'missed'}.",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table and write the JSON."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args, settings = _parser().parse_known_args(arguments)
    if args.markdown:
        print(as_markdown(json.loads(args.markdown.read_text(encoding="utf-8"))))
        return 0
    of_all, ranks = QUICK if args.quick else SHAPE, args.ranks or max(2, threads_available())
    steps, rounds = args.steps or (20 if args.quick else 60), args.rounds or (1 if args.quick else 5)
    machine = describe_machine()
    with tempfile.TemporaryDirectory(prefix="ddp-speed-") as folder:
        found = list(measure(Path(folder), [*of_all, *settings], ranks=ranks, steps=steps, rounds=rounds))
    report = {
        "benchmark": "ddp_speed",
        "quick": args.quick,
        "date": today(),
        "commit": describe_commit(ROOT),
        "command": shlex.join(["python", "-m", "benchmarks.ddp_speed", *arguments]),
        "machine": machine,
        "ranks": ranks,
        "steps": steps,
        "rounds": [asdict(one) for one in found],
    }
    print(as_markdown(report))
    write_report(report, args.json)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("ddp_speed", __doc__)
    add_rounds(parser, 5, quick=1)
    parser.add_argument("--ranks", type=positive, help="processes, and threads of the one (as many as cores)")
    parser.add_argument("--steps", type=positive, help="of a run (60; 20 with --quick)")
    add_report_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
