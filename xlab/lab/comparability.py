"""Which runs may be compared, and how: whether they saw the same data, and whose seeds are the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from xlab.errors import ConfigError, DataError
from xlab.lab.run_groups import RunGroup, differing, written
from xlab.lab.runs import Run

_VOCABULARY = ("data.vocab_size", "data.tokenizer")
_MARK = "The runs saw DIFFERENT DATA: a difference may be that of the texts."


@dataclass(frozen=True)
class Pairing:
    """Variants whose runs may be compared.

    Attributes:
        variants: the baseline first; without runs that repeat another's seed.
        seeds: for each variant, for each of its runs the seed that pairs it; None where seeds pair nothing.
        remarks: what a reader must know of it.
    """

    variants: list[RunGroup]
    seeds: list[list[int]]
    is_paired: bool
    remarks: list[str]

    def shares_seeds(self, number: int) -> bool:
        """Whether a variant has a seed in common with the baseline."""
        return self.is_paired and bool(set(self.seeds[0]) & set(self.seeds[number]))


def pairing(variants: Sequence[RunGroup], *, metric: str, allow_different_data: bool) -> Pairing:
    """Look at data and seeds of variants that are to be compared.

    Raises:
        ConfigError: for a metric per token, where vocabularies differ.
        DataError: for variants that saw different data, unless that is allowed.
    """
    unique, remarks = _without_repetitions(variants)
    same_windows, of_data = _look_at_data(unique, metric, allow_different_data)
    seeds = _seeds(unique)
    remarks += of_data
    if seeds is not None and same_windows:
        remarks += _lost_pairs(unique, seeds)
    n_runs = [list(range(len(variant.runs))) for variant in unique]
    return Pairing(unique, seeds or n_runs, seeds is not None and same_windows, remarks)


def _without_repetitions(variants: Sequence[RunGroup]) -> tuple[list[RunGroup], list[str]]:
    """Keep the last of runs that have all seeds in common: they are one sample."""
    kept, remarks = [], []
    for variant in variants:
        by_seeds: dict[Any, Run] = {}
        for number, run in enumerate(variant.runs):
            seeds = (run.seed, run.setting("seed_everything"))
            key: Any = number if seeds == (None, None) else seeds
            if key in by_seeds:
                remarks.append(f"{by_seeds[key].name} has the seeds of {run.name}, which counts: they are one sample.")
            by_seeds[key] = run
        kept.append(replace(variant, runs=list(by_seeds.values())))
    return kept, remarks


def _look_at_data(variants: Sequence[RunGroup], metric: str, allow_different_data: bool) -> tuple[bool, list[str]]:
    """Whether all saw the same windows, and what is to be said of it."""
    other_vocabularies = {key: values for key, values in differing(variants).items() if key.startswith(_VOCABULARY)}
    if other_vocabularies:
        values = "; ".join(f"{key}: {', '.join(map(written, each))}" for key, each in other_vocabularies.items())
        if not metric.endswith("bits_per_byte"):
            raise ConfigError(
                f"--metric {metric} counts tokens, and the vocabularies differ ({values}); "
                "compare them by val/bits_per_byte"
            )
        remarks = [f"The vocabularies differ ({values}): compared by bits per byte, which is fair to all."]
        if keys := _other_sources(variants):
            if not allow_different_data:
                raise DataError(_refusal(variants, f"{_some(keys)} differ"))
            remarks.insert(0, _MARK)
        return False, remarks
    fingerprints = {run.data_fingerprint for variant in variants for run in variant.runs}
    if len(fingerprints - {None}) > 1:
        if not allow_different_data:
            raise DataError(_refusal(variants, "the fingerprints of their data differ"))
        return False, [_MARK]
    if None in fingerprints:
        if keys := _other_sources(variants):
            if not allow_different_data:
                raise DataError(_refusal(variants, f"{_some(keys)} differ"))
            return False, [_MARK]
        unknown = [run.name for variant in variants for run in variant.runs if run.data_fingerprint is None]
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        return True, [f"{unknown[0]}{more} recorded no fingerprint of the data: that they saw the same is not known."]
    return True, []


def _other_sources(variants: Sequence[RunGroup]) -> list[str]:
    keys = differing(variants)
    return [key for key in keys if "source" in key or key.startswith(("data.splits", "data.train_data_prefix"))]


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (" and others" if len(keys) > 3 else "")


def _refusal(variants: Sequence[RunGroup], why: str) -> str:
    names = " and ".join(variant.name for variant in variants[:2]) if len(variants) == 2 else "the variants"
    return f"{names} saw different data ({why}); --allow-different-data compares them nevertheless, and marks it"


def _seeds(variants: Sequence[RunGroup]) -> list[list[int]] | None:
    """The seeds that tell each variant's runs apart: of the data's order, or else of the whole run."""
    kinds: list[Callable[[Run], Any]] = [lambda run: run.seed, lambda run: run.setting("seed_everything")]
    for seed_of in kinds:
        seeds = [[seed_of(run) for run in variant.runs] for variant in variants]
        if all(len(set(own)) == len(own) and all(isinstance(seed, int) for seed in own) for own in seeds):
            return seeds
    return None


def _lost_pairs(variants: Sequence[RunGroup], seeds: list[list[int]]) -> list[str]:
    remarks = []
    for variant, own in zip(variants[1:], seeds[1:], strict=True):
        lonely = sorted(set(own) ^ set(seeds[0]))
        if lonely and set(own) & set(seeds[0]):
            listed = ", ".join(map(str, lonely))
            remarks.append(f"{variant.name} and {variants[0].name} do not both have seeds {listed}: pairs without.")
    return remarks
