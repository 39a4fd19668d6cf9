"""Find the runs under a folder: run folders, ablations' trials, globs of these."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from xlab.errors import DataError
from xlab.lab.run_folder import AXES, CANDIDATE, CONFIG, METRICS, RECORD, TRIAL, Run, Series, is_run, json_object

__all__ = [
    "AXES",
    "CANDIDATE",
    "CONFIG",
    "METRICS",
    "RECORD",
    "TRIAL",
    "Run",
    "Series",
    "find_runs",
    "is_run",
    "run_folders",
]


def run_folders(root: Path) -> Iterator[Path]:
    """Find every run's folder at and under ``root``, in natural order; hidden folders and links are not entered."""
    if is_run(root):
        yield root
        return
    try:
        inside = sorted((entry for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False)), key=_natural)
    except OSError:
        return
    for entry in inside:
        if not entry.name.startswith("."):
            yield from run_folders(Path(entry.path))


def find_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Give the runs at and under these folders, each once.

    Args:
        paths: run folders, folders of runs, roots of ablations, or globs of these. Of an ablation's trial only the
            newest run counts.

    Raises:
        DataError: for a path that is not there, or under which there is no run.
    """
    found: dict[Path, Run] = {}
    for path in paths:
        here = [Path(path)] if Path(path).exists() else sorted(map(Path, glob.glob(str(path))), key=_natural)
        if not here:
            raise DataError(f"there is no {path}; give run folders, such as logs/version_0, or a folder of them")
        runs = [run for place in here for run in _runs_at(place)]
        if not runs:
            raise DataError(f"there is no run under {path}: no folder with a {METRICS} or a {RECORD}")
        for run in runs:
            found.setdefault(run.folder.resolve(), run)
    return list(found.values())


def _runs_at(root: Path) -> Iterator[Run]:
    seen: set[Path] = set()
    for path in sorted({*run_folders(root), *root.glob(f"**/{TRIAL}")}, key=_natural):
        # <trial>/trial.json, <trial>/logs/version_N
        trial = path.parent if path.name == TRIAL else path.parent.parent
        known = json_object(trial / TRIAL)
        if not known:
            # runs that an ablation made to choose between, and did not choose, are no results; who names one means it
            if path.name != TRIAL and (path == root or not (trial / CANDIDATE).exists()):
                yield Run(path)
        elif trial not in seen:
            seen.add(trial)
            attempts = list(run_folders(trial / "logs"))
            name = f"{known.get('variant', trial.parent.name)} seed {known.get('seed', '?')}"
            # a path to one run means that run
            yield Run(path if path == root else attempts[-1] if attempts else trial, trial=known, name=name)


def _natural(path: Any) -> list[tuple[int, str]]:
    """Order version_9 before version_10."""
    parts: list[tuple[int, str]] = []
    for name in Path(getattr(path, "path", path)).parts:
        stem, _, number = name.rpartition("_")
        parts.append((int(number), stem) if number.isdigit() else (-1, name))
    return parts
