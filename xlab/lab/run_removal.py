"""Remove runs, and nothing that is none."""

import os
import shutil
from pathlib import Path

from xlab.errors import DataError
from xlab.lab.run_notes import NOTES
from xlab.lab.runs import CONFIG, METRICS, RECORD, Run, is_run

CARD = "card"  # where the model card goes
_OWN = {METRICS, RECORD, CONFIG, NOTES, "hparams.yaml", "checkpoints", CARD}
_TENSORBOARD = "events.out.tfevents."


def check_removable(folder: Path) -> None:
    """Refuse what must not be removed.

    Raises:
        DataError: for a folder that is no run's, one that holds more than a run leaves, or a run that goes on.
    """
    if folder.is_symlink():
        raise DataError(f"{folder} is a link; remove the run itself, {folder.resolve()}")
    if not is_run(folder):
        raise DataError(f"{folder} is no run, so it stays: it has no {METRICS} and no {RECORD}")
    strange = sorted(
        entry.name for entry in os.scandir(folder) if entry.name not in _OWN and not entry.name.startswith(_TENSORBOARD)
    )
    if strange:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise DataError(f"{folder} also holds {strange[0]}{more}, which is no run's; move that away first")
    if Run(folder).status == "running":
        raise DataError(f"{folder} is running; end it first")


def remove(folder: Path) -> None:
    """Remove a run's folder; what is left if that is interrupted is hidden, and no run.

    Raises:
        DataError: as ``check_removable``.
    """
    check_removable(folder)
    doomed = folder.with_name(f".removed-{folder.name}-{os.getpid()}")
    os.replace(folder, doomed)
    shutil.rmtree(doomed)
