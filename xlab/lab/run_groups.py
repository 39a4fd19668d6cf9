"""Sort runs into groups of the same settings, whatever their seeds, by the name of what differs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xlab.errors import ConfigError
from xlab.lab.runs import Run, find_runs

# what a run is told that changes no figure, or only chance: the runs of a group may differ in it
_SEEDS = {"seed_everything", "data.seed"}
_WITHOUT_EFFECT = {
    *("trainer.default_root_dir", "trainer.logger", "trainer.callbacks", "trainer.enable_progress_bar"),
    *("trainer.enable_model_summary", "trainer.enable_checkpointing", "trainer.log_every_n_steps", "trainer.profiler"),
    *("trainer.enable_autolog_hparams", "trainer.model_registry", "trainer.barebones"),
    *("data.cache_dir", "data.num_workers", "data.prompt_len", "data.max_new_tokens"),
    *("ckpt_path", "_instantiator"),
}
_LONGEST_NAME = 48


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ in nothing but their seeds: a variant.

    Attributes:
        name: what tells it from the others.
        runs: in the order of their seeds.
        settings: by dotted keys, without seeds and what changes no figure.
    """

    name: str
    runs: list[Run]
    settings: Mapping[str, Any] = field(repr=False)


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Give nested settings by dotted keys: ``model.optimizer.lr``; ``class_path`` and ``init_args`` leave no trace."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if key == "class_path":
            found[prefix.removesuffix(".")] = value.rpartition(".")[2] if isinstance(value, str) else value
        elif key == "init_args" and isinstance(value, Mapping):
            found |= flat(value, prefix)
        elif isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.") or {f"{prefix}{key}": {}}
        else:
            found[prefix + key] = value
    return found


def of_effect(run: Run) -> dict[str, Any]:
    """Give the settings of a run that may change its figures, seeds aside, by dotted keys."""
    return {key: value for key, value in flat(run.settings).items() if key not in _SEEDS | _WITHOUT_EFFECT}


def find_groups(places: Sequence[str]) -> list[RunGroup]:
    """Find runs and sort them, in the order in which they come.

    Args:
        places: paths as ``find_runs`` takes them, or NAME=PATH, which names what is found there.

    Raises:
        DataError: as ``find_runs``.
        ConfigError: for a run that is given to two names, or a NAME=PATH that lacks one of them.
    """
    groups: dict[str, list[Run]] = {}
    unnamed: dict[Path, Run] = {}
    named: dict[Path, str] = {}
    for place in places:
        name, path = _named(place)
        for run in find_runs([path]):
            where = run.folder.resolve()
            label = name or (run.trial or {}).get("variant")
            if label is None:
                unnamed.setdefault(where, run)
            elif where not in named:
                named[where] = label
                groups.setdefault(label, []).append(run)
            elif named[where] != label:
                raise ConfigError(f"{run.name} is given both to {named[where]} and to {label}; give it to one")
    groups |= _by_settings([run for where, run in unnamed.items() if where not in named], taken=groups)
    return [
        RunGroup(name, sorted(runs, key=lambda run: (run.seed is None, run.seed or 0)), of_effect(runs[0]))
        for name, runs in groups.items()
    ]


def differing(groups: Iterable[RunGroup]) -> dict[str, list[Any]]:
    """Give the settings in which groups differ, with a value for each; None where one has no such setting."""
    all_settings = [group.settings for group in groups if group.settings]
    keys = dict.fromkeys(key for settings in all_settings for key in settings)
    rows = {key: [settings.get(key) for settings in all_settings] for key in keys}
    return {key: values for key, values in rows.items() if len({_fixed(value) for value in values}) > 1}


def written(value: Any) -> str:
    """Write a setting's value for people: 0.003, RMSNorm, –."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if isinstance(value, str | int) else json.dumps(value, default=str, ensure_ascii=False)


def _named(place: str) -> tuple[str | None, str]:
    name, separator, path = place.partition("=")
    # a folder's own name may have a = in it
    if not separator or "/" in name or Path(place).exists():
        return None, place
    if not name or not path:
        raise ConfigError(f"{place!r} is no NAME=PATH; write baseline=logs/version_0")
    return name, path


def _by_settings(runs: list[Run], taken: Mapping[str, Any]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        # without its settings nobody knows what else a run is like
        groups.setdefault(_fixed(of_effect(run)) if run.settings else f"? {run.name}", []).append(run)
    if len(groups) == 1 and not taken:
        of_commits: dict[str, list[Run]] = {}
        for run in runs:  # nothing but the code may differ
            of_commits.setdefault(f"commit {run.record.get('commit')}", []).append(run)
        if len(of_commits) > 1:
            return of_commits
    names = _names([group[0] for group in groups.values()])
    named: dict[str, list[Run]] = {}
    for name, group in zip(names, groups.values(), strict=True):
        named[f"{name} ({group[0].name})" if name in taken or name in named else name] = group
    return named


def _names(runs: list[Run]) -> list[str]:
    """Name each by what it does not share with all others, or by its folder where that would be long."""
    settings = [of_effect(run) for run in runs]
    keys = dict.fromkeys(key for one in settings for key in one)
    own = [key for key in keys if len({_fixed(one.get(key)) for one in settings}) > 1]
    own = [key for key in own if key.rpartition(".")[0] not in own]  # where a class differs, its own settings do too
    names = [", ".join(f"{key.rpartition('.')[2]}={written(one.get(key))}" for key in own) for one in settings]
    is_short = bool(own) and len(set(names)) == len(names) and all(len(name) <= _LONGEST_NAME for name in names)
    return names if is_short else [run.name for run in runs]


def _fixed(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
