"""An ablation: every variant with every seed, on the same batches in the same order, at the same cost."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xlab.lab.experiment_plan import Member, Plan
from xlab.lab.overrides import folder_name, run_seed
from xlab.lab.pool import Pool
from xlab.lab.runs import CANDIDATE, TRIAL
from xlab.lab.trials import LOOK_EVERY, Training, Trial, TrialFolder

CHOICES = "grid.json"
_GRID = ".grid"  # of trials that only choose a value, and are no result
FIGURES = ("val/bits_per_byte", "val/loss")


@dataclass(frozen=True)
class Result:
    """A trial as the last table shows it.

    Args:
        variant: its name.
        seed: its seed.
        status: as of ``TrialFolder``.
        figure: bits per byte at its end, or the loss where bytes are not known; None without an end.
        loss: validation loss at its end, nats per token; None without one.
        seconds: of its process, from its start to its end.
        choice: the words that the grid chose.
        error: the last line of its log, if it failed.
    """

    variant: str
    seed: int
    status: str
    figure: float | None
    loss: float | None
    seconds: float | None
    choice: str
    error: str | None


class Ablation:
    """An ablation's folder, in which it goes on where it was.

    Args:
        folder: ``<folder>/<variant>/seed_<k>`` are the trials.
        plan: what is trained.
        command: what starts ``xlab.py fit``.
    """

    def __init__(self, folder: Path, plan: Plan, command: Sequence[str]) -> None:
        self.folder = folder.absolute()
        self.plan = plan
        self._command = list(command)
        self._by_name: dict[str, list[Member]] = {}
        for member in plan.members:
            self._by_name.setdefault(member.variant.name, []).append(member)

    def train(self, environments: Sequence[Mapping[str, str]], *, say: Callable[[str], None]) -> None:
        """Train what is not trained yet.

        Args:
            environments: of the processes that train at once.
            say: is told when a trial begins and ends.
        """
        with Pool(environments) as pool:
            while waiting := self.waiting():
                train_all(waiting, pool, say=say)

    def waiting(self) -> list[TrialFolder]:
        """Give the trials that can be trained now; those of a grid come first, and what they choose comes after.

        Trials of one seed come together: what is interrupted has whole pairs.
        """
        candidates = [folder for folder in self._candidates() if not folder.is_over]
        if candidates:
            return candidates
        for name in self._by_name:
            self._choose(name)
        return [folder for folder in self._trials() if not folder.is_over]

    def retry(self) -> None:
        """Let those that failed go on, or begin again."""
        for folder in [*self._candidates(), *self._trials()]:
            if folder.status == "failed":
                folder.note(status="waiting", error=None)

    def results(self) -> list[Result]:
        """Give all trials, in the order of the variants."""
        found = []
        for name in self._by_name:
            for seed in range(self.plan.seeds):
                folder = self._place(name, seed)
                if folder.record_path.exists():
                    found.append(_result(name, seed, folder, self._chosen(name)))
                else:  # no value of the grid came to an end
                    errors = [(_result(name, 0, place, "")) for place in self._candidates() if name in place.path.parts]
                    error = next((result.error for result in errors if result.error), None)
                    found.append(Result(name, seed, "failed" if error else "waiting", None, None, None, "", error))
        return found

    def choices(self) -> dict[str, dict[str, float | None]]:
        """Give, by variant, what each value of the grid came to on seed 0."""
        found = {}
        for name in self._by_name:
            path = self.folder / name / CHOICES
            if path.is_file():
                found[name] = json.loads(path.read_text(encoding="utf-8"))["figures"]
        return found

    def trial_folders(self) -> list[Path]:
        """Give the folders of all trials that came to their end."""
        return [folder.path for folder in self._trials() if folder.status == "finished"]

    def _place(self, name: str, seed: int) -> TrialFolder:
        return TrialFolder(self.folder / name / f"seed_{seed}")

    def _candidates(self) -> Iterator[TrialFolder]:
        """Make the trials that choose a value of the grid, of variants that have none chosen."""
        for name, members in self._by_name.items():
            if len(members) > 1 and not (self.folder / name / CHOICES).exists():
                for member in members:
                    folder = TrialFolder(self.folder / _GRID / name / folder_name(member.choice))
                    self._create(folder, member, 0, is_candidate=True)
                    yield folder

    def _trials(self) -> Iterator[TrialFolder]:
        for seed in range(self.plan.seeds):
            for name, members in self._by_name.items():
                chosen = self._chosen(name)
                member = next((m for m in members if folder_name(m.choice) == chosen or len(members) == 1), None)
                if member is not None:
                    folder = self._place(name, seed)
                    self._create(folder, member, seed)
                    yield folder

    def _create(self, folder: TrialFolder, member: Member, seed: int, *, is_candidate: bool = False) -> None:
        trial = Trial(
            variant=member.variant.name,
            seed=seed,
            seed_everything=run_seed(seed, member.variant.name),
            overrides=member.overrides,
            budget=self.plan.budget,
            steps=member.steps,
            command=self._command,
            directory=os.getcwd(),
        )
        folder.create(trial, member.settings, is_candidate=is_candidate)

    def _chosen(self, name: str) -> str:
        path = self.folder / name / CHOICES
        return str(json.loads(path.read_text(encoding="utf-8"))["chosen"]) if path.is_file() else ""

    def _choose(self, name: str) -> None:
        """Make the best value's trial that of seed 0, if there is a grid and nothing is chosen."""
        members = self._by_name[name]
        target = self._place(name, 0).path
        if len(members) == 1:
            return
        places = {folder_name(member.choice): self.folder / _GRID / name for member in members}
        path = self.folder / name / CHOICES
        if not path.exists():
            figures = {label: figure(TrialFolder(place / label)) for label, place in places.items()}
            ended = {label: value for label, value in figures.items() if value is not None}
            if not ended:
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            chosen = min(ended, key=ended.__getitem__)
            scratch = path.with_suffix(f".{os.getpid()}")
            scratch.write_text(json.dumps({"chosen": chosen, "figures": figures}, indent=2) + "\n", encoding="utf-8")
            os.replace(scratch, path)
        chosen = self._chosen(name)
        if (winner := places[chosen] / chosen).exists():  # neither step harms when it is done again
            if (winner / CANDIDATE).exists():
                os.replace(winner / CANDIDATE, winner / TRIAL)
            os.replace(winner, target)


def train_all(folders: Sequence[TrialFolder], pool: Pool, *, say: Callable[[str], None]) -> None:
    """Train these trials, as many at once as the pool has room for."""
    waiting, n_begun = list(folders), 0
    while waiting or pool.running:
        while waiting and pool.has_room:
            folder = waiting.pop(0)
            if folder.is_locked():  # a process whose ablation was killed
                if not pool.running and not waiting:
                    say(f"{_named(folder)}: another process trains it; waiting for its end")
                    _wait_for(folder)
                waiting.append(folder)
                break
            n_begun += 1
            if not folder.is_over:
                pool.start(folder)
                say(f"[{n_begun}/{len(folders)}] {_named(folder)}: {folder.record['overrides'] or 'as it is'}")
        for training in pool.ended():
            say(_ending(training))


def figure(folder: TrialFolder) -> float | None:
    """Give a trial's bits per byte at its end, or its loss where bytes are not known; None without an end."""
    return next((value for metric in FIGURES if (value := folder.final(metric)) is not None), None)


def _wait_for(folder: TrialFolder) -> None:
    while folder.is_locked():
        time.sleep(LOOK_EVERY)


def _named(folder: TrialFolder) -> str:
    return f"{folder.record['variant']} seed {folder.record['seed']}"


def _ending(training: Training) -> str:
    record = training.folder.record
    ending = f"{_named(training.folder)}: {record['status']} after {record['wall_seconds']:.0f} s"
    value = figure(training.folder)
    return ending + (f", {value:.4f}" if value is not None else f": {record['error']}" if record.get("error") else "")


def _result(name: str, seed: int, folder: TrialFolder, chosen: str) -> Result:
    record = folder.record
    figures = figure(folder), folder.final("val/loss")
    return Result(name, seed, folder.status, *figures, record.get("wall_seconds"), chosen, record.get("error") or None)
