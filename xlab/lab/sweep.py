"""Search settings with Optuna: it proposes, trials train, and those that fall behind are ended early."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xlab.errors import ConfigError, XLabError
from xlab.lab.ablation import FIGURES, figure
from xlab.lab.overrides import run_seed
from xlab.lab.pool import Pool
from xlab.lab.runs import METRICS
from xlab.lab.search_space import Dimension
from xlab.lab.trials import Training, Trial, TrialFolder

if TYPE_CHECKING:
    import optuna

STUDY = "study.db"
Settings = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """A trial of the search.

    Args:
        number: in the order of the proposals.
        status: finished, pruned, failed, or running.
        figure: bits per byte at its end; of one that was pruned, the last.
        values: by setting.
        error: why it failed.
    """

    number: int
    status: str
    figure: float | None
    values: dict[str, Any]
    error: str | None

    @property
    def words(self) -> str:
        """The settings as one would type them."""
        return shlex.join(f"--{key}={value}" for key, value in self.values.items())


class Sweep:
    """A search in a folder, in which it goes on where it was.

    Args:
        folder: ``<folder>/trial_<n>/seed_0`` are its trials, ``study.db`` what Optuna knows of them.
        space: what is searched.
        make: gives the settings and the steps of the words of a trial.
        trial: what all trials have in common.
        seed: of the proposals.
        pruner: decides what is ended early; None: what is worse than the median of the others was, at the same step.

    Raises:
        ConfigError: when Optuna is not installed.
    """

    def __init__(
        self,
        folder: Path,
        space: Sequence[Dimension],
        *,
        make: Callable[[Sequence[str]], tuple[Settings, int]],
        trial: Trial,
        seed: int = 0,
        pruner: "optuna.pruners.BasePruner | None" = None,
    ) -> None:
        optuna = needed()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder = folder
        self._space = space
        self._make = make
        self._trial = trial
        self._sizes: dict[int, int] = {}  # of the metrics that were looked at, by proposal
        storage = f"sqlite:///{folder / STUDY}"
        pruner = pruner or optuna.pruners.MedianPruner()
        self._study = optuna.create_study(
            storage=storage, study_name="sweep", direction="minimize", pruner=pruner, load_if_exists=True
        )
        # one seed for each start: the first proposals of a search that goes on are not those it began with
        self._study.sampler = optuna.samplers.TPESampler(seed=run_seed(seed, str(len(self._study.trials))))

    def train(self, n_trials: int, environments: Sequence[Mapping[str, str]], *, say: Callable[[str], None]) -> None:
        """Go on until there are ``n_trials`` in all.

        Args:
            n_trials: how many.
            environments: of the processes that train at once.
            say: is told what goes on.
        """
        from optuna import Trial as Proposal
        from optuna.trial import TrialState

        unfinished = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        waiting = [Proposal(self._study, frozen._trial_id) for frozen in unfinished]
        proposals: dict[Training, optuna.Trial] = {}
        with Pool(environments) as pool:
            while True:
                while pool.has_room and (waiting or len(self._study.trials) < n_trials):
                    proposal = waiting.pop(0) if waiting else self._study.ask()
                    training = self._begin(proposal, pool, say)
                    if training is not None:
                        proposals[training] = proposal
                if not pool.running:
                    return
                for training in pool.ended():
                    self._end(proposals.pop(training), training.folder, say)
                for training in pool.running:
                    if self._is_hopeless(proposals[training], training.folder):
                        training.stop("pruned")

    def found(self) -> list[Found]:
        """Give all trials, the best first."""
        names = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
        trials = []
        for frozen in self._study.get_trials(deepcopy=False):
            reached = frozen.intermediate_values
            value = frozen.value if frozen.value is not None else reached[max(reached)] if reached else None
            status = names.get(frozen.state.name, "waiting")
            trials.append(Found(frozen.number, status, value, frozen.params, frozen.user_attrs.get("error")))
        order = list(names.values())
        return sorted(trials, key=lambda found: (order.index(found.status), found.figure or 0.0, found.number))

    def _begin(self, proposal: "optuna.Trial", pool: Pool, say: Callable[[str], None]) -> Training | None:
        """Start a trial; None for one that cannot be, and for one that was over when the search was interrupted."""
        words = [dimension.word(proposal) for dimension in self._space]
        name = f"trial_{proposal.number}"
        folder = TrialFolder(self.folder / name / "seed_0")
        try:
            settings, steps = self._make(words)
        except XLabError as error:
            self._fail(proposal, str(error), say)
            return None
        folder.create(replace(self._trial, variant=name, overrides=shlex.join(words), steps=steps), settings)
        if folder.is_over:
            self._end(proposal, folder, say)
            return None
        say(f"{name}: {shlex.join(words)}")
        return pool.start(folder)

    def _end(self, proposal: "optuna.Trial", folder: TrialFolder, say: Callable[[str], None]) -> None:
        from optuna.trial import TrialState

        value, record = figure(folder), folder.record
        if record["status"] == "pruned":
            self._study.tell(proposal, state=TrialState.PRUNED)
            say(f"{record['variant']}: behind the others, ended")
        elif value is None:
            self._fail(proposal, record.get("error") or "no figure", say)
        else:
            self._study.tell(proposal, value)
            say(f"{record['variant']}: {value:.4f}")

    def _fail(self, proposal: "optuna.Trial", error: str, say: Callable[[str], None]) -> None:
        from optuna.trial import TrialState

        proposal.set_user_attr("error", error)
        self._study.tell(proposal, state=TrialState.FAIL)
        say(f"trial_{proposal.number}: failed: {error}")

    def _is_hopeless(self, proposal: "optuna.Trial", folder: TrialFolder) -> bool:
        """Report a trial's validations so far, and ask whether it is worth going on."""
        run = folder.run
        path = run and run.folder / METRICS
        size = path.stat().st_size if path and path.exists() else 0
        if run is None or size == self._sizes.get(proposal.number, 0):  # nothing new: the cores are the runs'
            return False
        self._sizes[proposal.number] = size
        metric = next((name for name in FIGURES if name in run.metrics), None)
        if metric is None:
            return False
        series = run.series(metric)
        known = self._study.get_trials(deepcopy=False)[proposal.number].intermediate_values
        new = [i for i, step in enumerate(series.steps.tolist()) if int(step) not in known]
        for i in new:
            proposal.report(float(series.values[i]), int(series.steps[i]))
        return bool(new) and int(series.steps[-1]) < folder.record["steps"] and proposal.should_prune()


def needed() -> Any:
    """Import Optuna.

    Raises:
        ConfigError: when it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("a sweep needs Optuna, which is not installed: pip install optuna") from error
    return optuna
