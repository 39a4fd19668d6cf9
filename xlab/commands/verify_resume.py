"""./manage.py verify-resume: whether this configuration's runs go on exactly after a kill."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xlab.commands.console import DEBUG_OPTION, ended_by_signals, one_line_errors
from xlab.commands.data_settings import PASSED_ON, settings_only
from xlab.errors import ConfigError

if TYPE_CHECKING:
    from xlab.lab.resume import Verdict
    from xlab.lab.resume_runs import Attempt

_VAL_BATCHES = 2  # of each validation: enough to be killed in, and soon over


@click.command("verify-resume", context_settings=PASSED_ON)
@click.option("--steps", default=8, show_default=True, help="Optimiser steps of the run.")
@click.option("--kills", default=3, show_default=True, help="How often it is killed.")
@click.option("--seed", default=0, show_default=True, help="Seed of the places.")
@click.option("--resume-devices", type=int, help="Train every other part on so many ranks, with the same global batch.")
@click.option("--allow-module", multiple=True, help="Trust the classes of this module that a checkpoint names.")
@click.option(DEBUG_OPTION, is_flag=True, help="Show the traceback of an error.")
@click.argument("settings", nargs=-1, type=click.UNPROCESSED)
def verify_resume(settings: tuple[str, ...], allow_module: tuple[str, ...], debug: bool, **how: Any) -> None:
    """Prove that a run with these SETTINGS, killed and resumed, is the run without an interruption.

    \b
    ./manage.py verify-resume
    ./manage.py verify-resume -c my.yaml --trainer.accumulate_grad_batches 3 --data.num_workers 2
    ./manage.py verify-resume -c my.yaml --data.batch_size 8 --resume-devices 2

    SETTINGS are those of fit: -c FILE and --key value, over conf/defaults.yaml. The first --steps steps are trained
    twice in processes of their own, once without an interruption and once killed with SIGKILL at --kills random places
    (amid a step, in a validation, while a checkpoint is written) and resumed by --ckpt_path last.ckpt. The batches, the
    losses, the final weights and the optimiser are compared bit for bit; with --resume-devices, to rounding. Status 0:
    exact. Status 1: not, and the first difference is printed.
    """
    with one_line_errors("manage.py verify-resume", debug=debug), ended_by_signals():
        from xlab import checkpoints
        from xlab.lab.resume import Trial, verify

        for module in allow_module:
            checkpoints.allow_module(module)
        trusted = [f"--allow-module={module}" for module in allow_module]
        fixed, facts = facts_of(settings)
        verdict = verify(Trial([*fit_command(), *trusted, *settings, *fixed], **facts, **how))
        click.echo("\n".join(_lines(verdict)))
        if verdict.difference is not None:
            sys.exit(1)


def fit_command() -> list[str]:
    """Give what starts ``xlab.py fit`` with this Python.

    Raises:
        ConfigError: when there is neither the script nor its installed name.
    """
    import xlab

    beside = Path(xlab.__file__).parents[1] / "xlab.py"
    script = str(beside) if beside.is_file() else shutil.which("xlab", path=str(Path(sys.executable).parent))
    if script is None:
        raise ConfigError(f"there is no xlab.py at {beside} and no xlab beside {sys.executable}; install XLab again")
    return [sys.executable, script, "fit"]


def facts_of(settings: tuple[str, ...]) -> tuple[list[str], dict[str, Any]]:
    """Read from the settings what a trial must know of them; give it behind what it must fix in them.

    Raises:
        ConfigError: for settings that cannot be, or that no two runs can share.
    """
    cli = settings_only(settings)
    config = cli.config["fit"]
    if config.get("ckpt_path") is not None:
        raise ConfigError("verify-resume trains new runs; leave --ckpt_path out")
    trainer, limit = config.trainer, config.trainer.limit_val_batches
    has_validation = limit != 0 and (config.data.val_source is not None or config.data.splits.val > 0)
    facts = {
        "accumulate": trainer.accumulate_grad_batches,
        "batch_size": config.data.batch_size,
        "precision": str(trainer.precision or "32-true"),
        "val_batches": 0
        if not has_validation
        else min(_VAL_BATCHES, limit)
        if isinstance(limit, int)
        else _VAL_BATCHES,
        # the length of the run, and with it the schedule, must not follow the epochs
        "shorter_epochs": trainer.max_steps > 0 and trainer.limit_train_batches in (None, 1.0),
    }
    unseeded = isinstance(config.seed_everything, bool)  # True draws a seed, False takes none
    return ["--seed_everything=0"] if unseeded else [], facts


def _lines(verdict: "Verdict") -> Iterator[str]:
    yield from _table(verdict)
    yield ""
    if verdict.difference is not None:
        yield f"not exact. First difference: {verdict.difference}"
    elif verdict.tolerance is not None:
        yield f"exact: the same windows in every step, losses and weights equal to rounding ({verdict.tolerance:g})"
    else:
        yield "exact: the same batches, losses, weights and optimiser, bit for bit"


def _table(verdict: "Verdict") -> Iterator[str]:
    runs = [("uninterrupted", verdict.whole), *((f"part {i}", part) for i, part in enumerate(verdict.attempts, 1))]
    rows = [("run", "ranks", "micro-batches", "steps", "end"), *(_row(name, run) for name, run in runs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _row(name: str, run: "Attempt") -> tuple[str, str, str, str, str]:
    batches = sorted({record["n"] + 1 for record in run.of("batch")})
    steps = sorted({record["step"] for record in run.of("step")})
    end = "finished"
    if run.was_killed:
        assert run.kill is not None
        end = {"batch": "killed amid a step", "validation": "killed in a validation"}.get(
            run.kill.within, "killed while saving"
        )
        seen = [record["n"] + 1 for record in run.records if record["kind"] != "start"]
        end += f", micro-batch {max(seen, default=0)}"
    return name, str(run.world_size), _span(batches), _span(steps), end


def _span(numbers: list[int]) -> str:
    return f"{numbers[0]}–{numbers[-1]}" if numbers else "none"
