"""One run of an experiment, in a folder of its own: what it is, how far it is, and the process that trains it.

    python -m xlab.lab.trials FOLDER

trains one until its end, as a job of a cluster does.
"""

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xlab.errors import ConfigError
from xlab.lab.runs import CANDIDATE, TRIAL, Run, find_runs, run_folders

SETTINGS, LOG = "settings.yaml", "log.txt"
PATIENCE = 30.0  # seconds that a run has to end in when it is told to
OVER = ("finished", "failed", "pruned")
LOOK_EVERY = 0.1  # seconds between two looks at whether a process is over


@dataclass(frozen=True)
class Trial:
    """What a trial is, as ``trial.json`` has it.

    Args:
        variant: the name of its settings.
        seed: of the order of the data; what trials of several variants are paired by.
        seed_everything: of initialisation and dropout.
        overrides: what the variant changes, as one would type it.
        budget: what it may cost.
        steps: the optimiser steps that it pays for.
        command: what starts ``xlab.py fit``.
        directory: where the settings' relative paths begin.
    """

    variant: str
    seed: int
    seed_everything: int
    overrides: str
    budget: str
    steps: int
    command: list[str]
    directory: str


class TrialFolder:
    """A trial's folder: its record, its settings, its log and, in ``logs``, its runs.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, trial: Trial, settings: Mapping[str, Any], *, is_candidate: bool = False) -> None:
        """Write the record and the settings, unless they are there."""
        import yaml

        if self.record_path.exists():
            return
        own = {**settings, "seed_everything": trial.seed_everything}
        own["data"] = {**settings["data"], "seed": trial.seed}
        own["trainer"] = {**settings["trainer"], "max_steps": trial.steps}
        self.path.mkdir(parents=True, exist_ok=True)
        _write(self.path / SETTINGS, yaml.safe_dump(own, sort_keys=False))
        name = CANDIDATE if is_candidate else TRIAL
        _write(self.path / name, json.dumps({**asdict(trial), "status": "waiting"}, indent=2) + "\n")

    @property
    def record_path(self) -> Path:
        """``trial.json``, or a candidate's."""
        candidate = self.path / CANDIDATE
        return candidate if candidate.exists() else self.path / TRIAL

    @property
    def record(self) -> dict[str, Any]:
        """The trial, and how far it is: its status, and the error that ended it.

        Raises:
            ConfigError: when there is none that can be read.
        """
        try:
            found: dict[str, Any] = json.loads(self.record_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.path} is no trial's folder: {error}") from error
        return found

    def note(self, **changes: Any) -> None:
        """Change the record."""
        _write(self.record_path, json.dumps({**self.record, **changes}, indent=2) + "\n")

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to train."""
        return self.status in OVER

    @property
    def status(self) -> str:
        """waiting, running, interrupted, finished, failed or pruned."""
        status = str(self.record["status"])
        if status in OVER:
            return status
        run = self.run
        if run is not None and run.status == "finished":
            return "finished"  # after whoever started it had gone
        if self.is_locked():
            return "running"
        return "waiting" if run is None else "interrupted"

    @property
    def run(self) -> Run | None:
        """Its newest run; None before the first."""
        folders = list(run_folders(self.path / "logs"))
        return find_runs([folders[-1]])[0] if folders else None

    def final(self, metric: str) -> float | None:
        """Give a metric at the trial's last step; None where it did not get there."""
        run = self.run
        if run is None or metric not in run.metrics:
            return None
        series = run.series(metric)
        return float(series.values[-1]) if series.steps[-1] >= self.record["steps"] else None

    def is_locked(self) -> bool:
        """Whether a process trains it."""
        lock = self.lock()
        if lock is None:
            return True
        os.close(lock)
        return False

    def lock(self) -> int | None:
        """Take the trial: give a descriptor that holds it while it, or a child's copy, is open; None if it is taken."""
        descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return descriptor

    def command(self) -> list[str]:
        """Give what trains it from its beginning, or from its last checkpoint."""
        words = [*self.record["command"], "-c", str(self.path / SETTINGS), f"--trainer.default_root_dir={self.path}"]
        checkpoint = self.run and next(
            (path for part in self.run.parts if (path := part.folder / "checkpoints" / "last.ckpt").is_file()), None
        )
        return [*words, f"--ckpt_path={checkpoint}"] if checkpoint else words


class Training:
    """The process of a trial that goes on; it outlives this one if this one is killed.

    Args:
        folder: the trial's.
        environment: over this process's own.

    Raises:
        ConfigError: when another process trains it.
    """

    def __init__(self, folder: TrialFolder, environment: Mapping[str, str] | None = None) -> None:
        lock = folder.lock()
        if lock is None:
            raise ConfigError(f"another process trains in {folder.path}; wait for it, or end it")
        self.folder = folder
        self._log = folder.path / LOG
        self._log_begin = self._log.stat().st_size if self._log.exists() else 0
        self._began = time.monotonic()
        self._is_interrupted = False
        try:
            folder.note(status="running")
            with open(self._log, "ab") as log:
                # a session of its own: no Ctrl-C reaches it before us; the lock is its, too
                self._process = subprocess.Popen(
                    folder.command(),
                    cwd=folder.record["directory"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **(environment or {})},
                    start_new_session=True,
                    pass_fds=[lock],
                )
        finally:
            os.close(lock)

    @property
    def process(self) -> int:
        """Its id."""
        return self._process.pid

    def ended(self) -> bool:
        """Tell whether it is over; its record then says how."""
        if self._process.poll() is None:
            return False
        if self.folder.record["status"] == "running":
            # a run that is killed as it ends has all its figures
            if self._process.returncode == 0 or self.folder.final("val/loss") is not None:
                self._note("finished")
            elif self._is_interrupted:
                self._note("interrupted")
            else:
                self._note("failed", last_words(self._log, self._log_begin, self._process.returncode))
        return True

    def stop(self, status: str) -> None:
        """End it, with all its processes, and record why."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._note(status)

    def interrupt(self) -> None:
        """Let it end as it does at SIGTERM."""
        self._is_interrupted = True
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def wait(self, patience: float = PATIENCE) -> None:
        """Wait for the end that :meth:`interrupt` asked for; kill it when patience is over."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        if not self.ended():
            self.stop("interrupted")

    def _note(self, status: str, error: str | None = None) -> None:
        spent = self.folder.record.get("wall_seconds", 0.0) + time.monotonic() - self._began
        self.folder.note(status=status, error=error, wall_seconds=round(spent, 3))


def last_words(log: Path, begin: int, status: int) -> str:
    """Give the line in which a process said why it ended, or its last.

    Args:
        log: what it wrote to.
        begin: where in it, in bytes, the process began.
        status: its exit status.
    """
    with open(log, "rb") as file:
        file.seek(begin)
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error:|Error\b", line)]
    said = (errors or lines or ["without a word"])[-1].removeprefix("xlab.py fit: error: ")
    return f"killed by signal {-status}: {said}" if status < 0 else said


def _write(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)


def main(path: str) -> int:
    """Train the trial in a folder until its end; 0 when it is finished."""
    folder = TrialFolder(Path(path))
    try:
        if not folder.is_over:
            training = Training(folder)
            # a scheduler that wants its node back says so with SIGTERM
            signal.signal(signal.SIGTERM, lambda *_: training.interrupt())
            while not training.ended():
                time.sleep(LOOK_EVERY)
        record = folder.record
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{record['variant']} seed {record['seed']}: {folder.status}  {record.get('error') or ''}".rstrip())
    return 0 if folder.status == "finished" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
