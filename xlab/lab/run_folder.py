"""What a run left in its folder, read: its settings, how it ended, and its figures over what they cost.

Letters: N logged points of a metric.
"""

import json
import math
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from xlab.errors import DataError
from xlab.lab.metrics_file import Columns, Numbers, read_columns

METRICS, RECORD, CONFIG, TRIAL = "metrics.jsonl", "run.json", "config.yaml", "trial.json"
CANDIDATE = "candidate.json"  # in the place of a trial's record while others are still compared with it
AXES = ("tokens", "steps", "seconds", "flops")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast where PyYAML was built with it


@dataclass(frozen=True)
class Series:
    """A metric over a run, in the order of training.

    Attributes:
        values: (N,) what was logged.
        steps: (N,) optimiser steps done by then.
        tokens: (N,) tokens trained on by then; NaN where nobody knows.
        seconds: (N,) of training, validation and checkpoints not counted; NaN in runs that did not log it.
        flops: (N,) operations of training; NaN in runs without a run.json.
    """

    values: Numbers
    steps: Numbers
    tokens: Numbers
    seconds: Numbers
    flops: Numbers

    def over(self, axis: str) -> Numbers:
        """(N,) the places on one of ``AXES``."""
        places: Numbers = getattr(self, axis)
        return places

    def __len__(self) -> int:
        return len(self.values)


class Run:
    """A run's folder, read as far as it is asked for; what a killed run left half-written is passed over.

    Args:
        folder: the run's, or an ablation's trial that has none yet.
        trial: what the ablation says of it, if it belongs to one.
        name: what people call it; the folder's path if not given.
    """

    def __init__(self, folder: Path, *, trial: Mapping[str, Any] | None = None, name: str | None = None) -> None:
        self.folder = folder
        self.trial = trial
        self.name = name or str(folder)

    def __repr__(self) -> str:
        return f"Run({self.name})"

    @cached_property
    def record(self) -> dict[str, Any]:
        """What run.json says; empty for a run without one, such as XLab's before it wrote them."""
        return json_object(self.folder / RECORD)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What config.yaml says; empty where there is none, or none that can be read.

        A resumed run took its tokenizer from a checkpoint; here it is told as the run was that it goes on from.
        """
        try:
            found = yaml.load((self.folder / CONFIG).read_text(encoding="utf-8"), Loader=_Loader)
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        settings: dict[str, Any] = found if isinstance(found, dict) else {}
        first, data = self.parts[-1], settings.get("data")
        if first is not self and isinstance(data, dict) and "tokenizer" in (was := first.settings.get("data") or {}):
            data["tokenizer"] = was["tokenizer"]
        return settings

    @property
    def status(self) -> str:
        """running, finished, interrupted, failed, killed or unknown; of a trial also waiting or pruned.

        A run is killed that should be running on this machine, and whose process has gone.
        """
        said = str((self.trial or {}).get("status"))
        if said in ("failed", "pruned"):
            return said
        if not self.record:
            if self.trial is not None and not (self.folder / METRICS).exists():
                return said
            wanted = _at(self.settings, "trainer.max_steps")
            return "finished" if isinstance(wanted, int) and 0 < wanted <= self.step else "unknown"
        status = str(self.record.get("status", "unknown"))
        is_here = self.record.get("host") == socket.gethostname()
        return "killed" if status == "running" and is_here and not _is_alive(self.record.get("process")) else status

    @property
    def step(self) -> int:
        """Optimiser steps that are known to be done."""
        logged = max((steps[-1] for steps, _ in self._columns.values() if len(steps)), default=0.0)
        return max(int(logged), int(self.record.get("last_step") or 0))

    @property
    def seed(self) -> int | None:
        """The seed that pairs it with runs of other settings: the trial's, or what fixed the order of its data."""
        for seed in ((self.trial or {}).get("seed"), self.setting("data.seed"), self.setting("seed_everything")):
            if isinstance(seed, int):
                return seed
        return None

    @property
    def data_fingerprint(self) -> str | None:
        """Of the documents and the tokenizer; None where it was not recorded."""
        found = self.record.get("data_fingerprint")
        return found if isinstance(found, str) else None

    @property
    def size(self) -> int:
        """Bytes of all files in the folder."""
        return sum(entry.stat().st_size for entry in _files(self.folder))

    @property
    def checkpoint(self) -> Path | None:
        """The best checkpoint, or the last; None without any."""
        paths = (part.folder / "checkpoints" / f"{name}.ckpt" for part in self.parts for name in ("best", "last"))
        # several ranks write a folder, whole once it has this file (see xlab.sharded_checkpoints, which needs torch)
        return next((path for path in paths if path.is_file() or (path / "meta.pt").is_file()), None)

    @property
    def metrics(self) -> list[str]:
        """The names of what was logged."""
        return sorted(self._columns.keys() - {"epoch"})

    @cached_property
    def parts(self) -> list["Run"]:
        """The run itself, and before it those beside it that it was resumed from: the last comes first."""
        found, seen = [self], {self.folder.resolve()}
        while resumed_from := found[-1].record.get("resumed_from"):
            # …/version_3/checkpoints/last.ckpt, or the run's folder; written where the run was started
            names = [part for part in Path(resumed_from).parts if (self.folder.parent / part).is_dir()]
            earlier = self.folder.parent / names[-1] if names else None
            if earlier is None or earlier.resolve() in seen or not is_run(earlier):
                break
            seen.add(earlier.resolve())
            found.append(Run(earlier))
        return found

    @cached_property
    def broken_lines(self) -> int:
        """How many lines of metrics.jsonl could not be read."""
        return self._read[1]

    def setting(self, key: str) -> Any:
        """Look a dotted key up in the settings, such as ``model.d_model``; None where there is none."""
        return _at(self.settings, key)

    def series(self, metric: str) -> Series:
        """Give a metric's points; of a run that was resumed, those of its earlier parts too.

        Raises:
            DataError: when the run did not log it.
        """
        if metric not in self._columns:
            logged = ", ".join(self.metrics) or "nothing"
            raise DataError(f"{self.name} has no {metric}; it logged {logged}")
        steps, values = self._columns[metric]
        tokens = self._spent("tokens", steps) if "tokens" in self._columns else steps * self._tokens_per_step()
        flops_per_token = self.record.get("flops_per_token") or math.nan
        return Series(values, steps, tokens, self._spent("train_seconds", steps), tokens * flops_per_token)

    def last(self, metric: str) -> float:
        """The value that was logged last; NaN for none."""
        return float(self._columns[metric][1][-1]) if metric in self._columns else math.nan

    def _spent(self, what: str, steps: Numbers) -> Numbers:
        """What was spent by each of these steps, between and shortly after the validations that logged it."""
        if what not in self._columns:
            return np.full_like(steps, math.nan)
        logged_at, logged = self._columns[what]
        known, amounts = np.append(0.0, logged_at), np.append(0.0, logged)
        spent: Numbers = np.interp(steps, known, amounts)
        after = steps > known[-1]  # up to the next validation a step costs what it did on average
        spent[after] = amounts[-1] * steps[after] / known[-1]
        return spent

    def _tokens_per_step(self) -> float:
        """Positions in the windows of an optimiser step, as the settings have them; NaN where they do not say."""
        keys = ("data.batch_size", "data.seq_len", "trainer.accumulate_grad_batches")
        sizes = [self.setting(key) for key in keys]
        if not all(isinstance(size, int) for size in sizes):
            return math.nan
        return float(math.prod(sizes) * int(self.record.get("world_size") or 1))

    @property
    def _columns(self) -> Columns:
        return self._read[0]

    @cached_property
    def _read(self) -> tuple[Columns, int]:
        """The columns of all parts, and the number of lines that were broken."""
        joined: Columns = {}
        n_broken, end = 0, math.inf
        for part in self.parts:
            columns, broken = read_columns(part.folder / METRICS)
            n_broken += broken
            for key, (steps, values) in columns.items():
                # what an earlier part did after the checkpoint that was resumed from was done again
                own = (steps[steps <= end], values[steps <= end])
                later = joined.get(key)
                both = own if later is None else tuple(map(np.concatenate, zip(own, later, strict=True)))
                joined[key] = both[0], both[1]
            end = min(end, float(part.record.get("first_step") or 0))
        return joined, n_broken


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's."""
    return (folder / RECORD).is_file() or (folder / METRICS).is_file()


def json_object(path: Path) -> dict[str, Any]:
    """Read a file that holds an object; give an empty one where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _at(settings: Mapping[str, Any], key: str) -> Any:
    found: Any = settings
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _is_alive(process: Any) -> bool:
    if not isinstance(process, int):
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        else:
            yield entry
