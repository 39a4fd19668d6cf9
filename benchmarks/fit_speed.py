"""What `./xlab.py fit` costs beside the training itself: its steps and a bare loop's over the same parts, in turns.

    python -m benchmarks.fit_speed --json logs/fit_speed.json

A round is a run of `./xlab.py fit`, with all that it does for its user (progress, logs, checks of each step), and then
a process in which a loop of a dozen lines trains the same model, by the same optimiser, on the same batches, and does
nothing else (`benchmarks/bare_loop.py`). The figure is tokens a second over the later half of the steps; neither
validates. The mark is 0.97 of the bare loop, for each case.
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
from statistics import harmonic_mean, median
from typing import Any

from benchmarks.layout import as_markdown_table
from benchmarks.machine import describe_commit, describe_machine, threads_available, today
from benchmarks.options import add_report_options, add_rounds, parser_of, positive, progress, write_report
from xlab.commands.verify_resume import fit_command
from xlab.lab.runs import find_runs

ROOT = Path(__file__).parent.parent
MARK = 0.97


@dataclass(frozen=True)
class Case:
    """What is trained.

    Args:
        settings: fit's words.
        clip: largest norm of the gradients.
        compiled: whether as one graph.
    """

    settings: tuple[str, ...]
    clip: float | None = None
    compiled: bool = False


CASES = {
    "the default recipe, conf/defaults.yaml": Case(("-c", str(ROOT / "conf" / "defaults.yaml"))),
    "train_speed's model, compiled": Case(
        (
            *("-c", str(ROOT / "conf" / "model" / "llama.yaml"), "-c", str(ROOT / "conf" / "extra" / "adamw.yaml")),
            *("--data.vocab_size=8192", "--data.seq_len=256", "--data.batch_size=8"),
            *("--model.d_model=384", "--model.n_layers=6", "--model.n_heads=6", "--model.d_ff=1024"),
            *(
                "--model.attention=MultiHeadAttention",
                "--model.tie_embeddings=false",
                "--model.position=RotaryPosition",
            ),
        ),
        clip=1.0,
        compiled=True,
    ),
}
QUICK = (
    *("--data.vocab_size=300", "--data.seq_len=32", "--data.batch_size=4", "--model.d_model=16", "--model.n_layers=1"),
    *("--model.n_heads=2", "--model.d_ff=32"),
)
PRECISION = {True: "bf16-mixed", False: "32-true"}  # by whether the processor computes in bf16
# nothing but steps: every ten of them a rate is logged
PLAIN = ("--trainer.limit_val_batches=0", "--model.schedule.warmup_steps=2", "--trainer.accelerator=cpu")


@dataclass(frozen=True)
class Round:
    """Tokens a second of both, one after the other."""

    case: str
    fit: float
    bare: float

    @property
    def ratio(self) -> float:
        """Fit over the bare loop."""
        return self.fit / self.bare


def measure(
    folder: Path, cases: dict[str, Case], settings: Sequence[str], *, steps: int, rounds: int
) -> Iterator[Round]:
    """Let both train, in turns.

    Args:
        folder: a new one, in which all of it happens.
        cases: by name, what is trained.
        settings: fit's words, for all.
        steps: of a run.
        rounds: how many, of each case.

    Raises:
        SystemExit: with the last line of what a process said that failed.
    """
    bf16 = _computes_in_bf16()
    of_all = [*settings, *PLAIN, f"--trainer.max_steps={steps}", f"--trainer.precision={PRECISION[bf16]}"]
    for number in range(rounds):
        for place, (name, case) in enumerate(cases.items()):
            run = folder / f"round_{number}_{place}"
            found = Round(name, _fit(run, case, of_all), _bare(run, case, steps=steps, bf16=bf16))
            progress(
                f"round {number + 1}/{rounds}, {name}: {found.fit:,.0f}, bare {found.bare:,.0f}: {found.ratio:.3f}"
            )
            yield found


def _fit(run: Path, case: Case, of_all: Sequence[str]) -> float:
    words = [*case.settings, *of_all, f"--compile={str(case.compiled).lower()}", f"--trainer.default_root_dir={run}"]
    # beside the rounds' folders: the first run prepares the data for all
    _called([*fit_command(), *words], run.parent)
    rates = find_runs([run])[0].series("tokens_per_s").values
    # each of them is of as many tokens: together they took what their harmonic mean says
    return harmonic_mean(rates[len(rates) // 2 :].tolist())


def _bare(run: Path, case: Case, *, steps: int, bf16: bool) -> float:
    words = [str(find_runs([run])[0].folder), f"--steps={steps}"]
    words += [] if case.clip is None else [f"--clip={case.clip}"]
    words += [*(["--bf16"] if bf16 else []), *(["--compile"] if case.compiled else [])]
    answer = _called([sys.executable, "-m", "benchmarks.bare_loop", *words], run.parent)
    return float(json.loads(answer.splitlines()[-1])["tokens_per_s"])


def _computes_in_bf16() -> bool:
    import torch

    from benchmarks.train_worker import matmul_dtype

    return matmul_dtype() is torch.bfloat16


def _called(command: Sequence[str], cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise SystemExit(f"{shlex.join(command)}: {(lines or ['without a word'])[-1]}")
    return done.stdout


def as_markdown(report: dict[str, Any]) -> str:
    """Lay a report out for ``docs/benchmarks.md``."""
    found = [Round(**one) for one in report["rounds"]]
    rows, missed = [], []
    for case in dict.fromkeys(one.case for one in found):
        of_case = [one for one in found if one.case == case]
        ratios = sorted(one.ratio for one in of_case)
        rates = [f"{median(rate):,.0f}" for rate in ([one.fit for one in of_case], [one.bare for one in of_case])]
        rows.append((case, *rates, f"{median(ratios):.3f}", f"{ratios[0]:.3f} – {ratios[-1]:.3f}"))
        if median(ratios) < MARK:
            missed.append(case)
    machine = report["machine"]
    return "\n\n".join(
        [
            f"{report['date']}, commit {report['commit']}: `{report['command']}`.\n"
            f"{machine['processor']}, {machine['cores']} cores, {report['threads']} threads, load "
            f"{machine['load_before']} before the run; {report['steps']} steps a run, "
            f"{len(found) // len(rows)} rounds.",
            as_markdown_table(("tokens/s, median", "fit", "bare loop", "fit ÷ bare", "lowest – highest"), rows),
            f"The mark of {MARK} is " + (f"missed by {', '.join(missed)}." if missed else "reached."),
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table and write the JSON."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = _parser().parse_args(arguments)
    if args.markdown:
        print(as_markdown(json.loads(args.markdown.read_text(encoding="utf-8"))))
        return 0
    steps, rounds = args.steps or (40 if args.quick else 80), args.rounds or (1 if args.quick else 5)
    machine = describe_machine()
    with tempfile.TemporaryDirectory(prefix="fit-speed-") as folder:
        found = list(measure(Path(folder), CASES, QUICK if args.quick else (), steps=steps, rounds=rounds))
    report = {
        "benchmark": "fit_speed",
        "quick": args.quick,
        "date": today(),
        "commit": describe_commit(ROOT),
        "command": shlex.join(["python", "-m", "benchmarks.fit_speed", *arguments]),
        "machine": machine,
        "threads": int(os.environ.get("OMP_NUM_THREADS") or threads_available()),
        "steps": steps,
        "rounds": [asdict(one) for one in found],
    }
    print(as_markdown(report))
    write_report(report, args.json)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("fit_speed", __doc__)
    add_rounds(parser, 5, quick=1)
    parser.add_argument("--steps", type=positive, help="of a run (80; 40 with --quick)")
    add_report_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
