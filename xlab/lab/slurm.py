"""Trials as a Slurm array job: a script, and how to hand it in."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import xlab
from xlab.lab.trials import TrialFolder


def write_array(folder: Path, trials: Sequence[TrialFolder], *, at_once: int) -> Path:
    """Write a script whose every task trains one trial to its end, or goes on where it was.

    Args:
        folder: the experiment's, on a file system that the nodes share.
        trials: what is to be trained.
        at_once: tasks that run at the same time.
    """
    listing = folder / "trials.txt"
    listing.write_text("".join(f"{trial.path}\n" for trial in trials), encoding="utf-8")
    script = folder / "array.sbatch"
    root = Path(xlab.__file__).parents[1]
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={folder.name}",
        f"#SBATCH --array=0-{len(trials) - 1}%{at_once}",
        f"#SBATCH --output={folder}/slurm-%A_%a.txt",
        "#SBATCH --signal=B:TERM@120",
        "# cores, memory, devices and time are your cluster's: give them to sbatch, or here",
        f'trial=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {shlex.quote(str(listing))})',
        f'PYTHONPATH={shlex.quote(str(root))}"${{PYTHONPATH:+:$PYTHONPATH}}" \\',
        f'  exec {shlex.quote(sys.executable)} -m xlab.lab.trials "$trial"',
    ]
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return script
