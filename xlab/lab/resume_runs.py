"""Train in processes of their own, kill them, and read what they recorded."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlab.errors import ConfigError
from xlab.lab.resume_recorder import HELD, RunRecorder
from xlab.sharded_checkpoints import is_sharded

Record = dict[str, Any]
_LOOK_EVERY = 0.01  # seconds between two looks at whether a process has reached the place to be killed at


@dataclass(frozen=True)
class Kill:
    """A place to kill a run at.

    Args:
        at: the micro-batch, counted from 0 over the whole run.
        within: ``batch``, ``validation`` or ``saving``, as ``RunRecorder`` knows them.
    """

    at: int
    within: str


@dataclass(frozen=True)
class Attempt:
    """One training process, from its start to its end or its death.

    Args:
        records: what all of its ranks wrote, in the order of the run.
        kill: where it was to be killed, if anywhere.
        was_killed: whether it was; a run may end before it gets there.
    """

    records: list[Record]
    kill: Kill | None
    was_killed: bool

    def of(self, kind: str) -> list[Record]:
        """Give the records of a kind."""
        return [record for record in self.records if record["kind"] == kind]

    @property
    def world_size(self) -> int:
        """How many ranks trained; 0 if none came that far."""
        return next((int(record["world_size"]) for record in self.of("start")), 0)


class ResumptionError(ConfigError):
    """A run could not go on from its own checkpoint."""


def train(
    command: Sequence[str],
    *,
    root: Path,
    stop_at: int,
    save_every: int,
    kill: Kill | None = None,
    resume_from: Path | None = None,
) -> Attempt:
    """Train in processes of their own, until the end or until they are killed.

    Args:
        command: ``xlab.py fit`` and its settings.
        root: where the runs' folders, ``logs/version_N``, are made.
        stop_at: the optimiser step to end at.
        save_every: micro-batches from one checkpoint to the next where no validation makes them.
        kill: where to kill them with SIGKILL: all ranks and their loader workers.
        resume_from: the checkpoint to go on from.

    Raises:
        ConfigError: when a new run cannot be trained, in the words of its process.
        ResumptionError: when a resumed one cannot.
    """
    folder = root / f"records-{len(list(root.glob('records-*')))}"
    folder.mkdir(parents=True)
    settings = {"folder": str(folder), "stop_at": stop_at, "save_every": save_every}
    if kill is not None:
        settings |= {"kill_at": kill.at, "kill_in": kill.within}
    recorder = {"class_path": f"{RunRecorder.__module__}.{RunRecorder.__name__}", "init_args": settings}
    whole = [*command, f"--trainer.default_root_dir={root}", f"--trainer.callbacks+={json.dumps(recorder)}"]
    if resume_from is not None:
        whole.append(f"--ckpt_path={resume_from}")
    was_killed, status = _run(whole, log=folder / "output.txt", held=folder / HELD)
    if status != 0 and not was_killed:
        error = ConfigError if resume_from is None else ResumptionError
        raise error(_last_words(folder / "output.txt", status))
    return Attempt(_records(folder), kill, was_killed)


def last_checkpoint(root: Path) -> Path | None:
    """Give the ``last.ckpt`` of the newest run that has one."""
    found = root.glob("logs/version_*/checkpoints/last.ckpt")
    paths = [path for path in found if path.is_file() or is_sharded(path)]  # a folder may be half made
    return max(paths, key=lambda path: int(path.parts[-3].partition("_")[2]), default=None)


def _run(command: Sequence[str], *, log: Path, held: Path) -> tuple[bool, int]:
    """Run a command to its end or until ``held`` is there; tell whether it was killed, and its exit status."""
    with open(log, "wb") as output:
        # a session of its own: one signal reaches all ranks and loader workers, and no Ctrl-C does before us
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            while process.poll() is None and not held.exists():
                time.sleep(_LOOK_EVERY)
            was_killed = process.returncode is None
        finally:
            if process.returncode != 0:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return was_killed, process.returncode


def _records(folder: Path) -> list[Record]:
    """Read what the ranks wrote; of a line that a kill cut short, nothing."""
    found: list[Record] = []
    for path in sorted(folder.glob("rank-*.jsonl"), key=_rank):
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                found.append({"rank": _rank(path), **json.loads(line)})
    return sorted(found, key=lambda record: (record["n"], record["rank"]))  # stable: a rank's lines keep their order


def _rank(path: Path) -> int:
    return int(path.stem.partition("-")[2])


def _last_words(log: Path, status: int) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error:|Error\b", line)]
    said = (errors or lines or ["nothing"])[-1]
    return f"training ended with status {status}: {said.removeprefix('xlab.py fit: error: ')}"
