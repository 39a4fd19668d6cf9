"""Why prepared data are not found again: what changed since the cache, or the newest run, was made."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from xlab.data.preparation import Wanted
from xlab.data.prepared import read_description
from xlab.data.sources.files import as_patterns, find_files
from xlab.errors import XLabError

# the settings that prepared data depend on
_DECISIVE = (
    "source",
    "val_source",
    "test_source",
    "predict_source",
    "splits",
    "tokenizer",
    "vocab_size",
    "meta",
    "chat",
)
_SHOWN = 3


def why_not_reused(wanted: Wanted, cache: Path, settings: dict[str, Any], root: Path) -> str:
    """Say why the cache has not what is wanted.

    Args:
        wanted: what is not there.
        cache: ``data.cache_dir``.
        settings: the datamodule's, as plain data.
        root: of the runs.
    """
    made = dict(_descriptions(cache))
    if not made:
        return f"{cache} holds no prepared data"
    same = [description for description in made.values() if description.get("corpus") == wanted.identity]
    if same:
        sizes = sorted({int(description.get("vocab_size", 0)) for description in same})
        if wanted.vocab_size not in sizes:
            told = " and ".join(f"{size:,}" for size in sizes)
            return f"the corpus is prepared with a vocabulary of {told}, and data.vocab_size is {wanted.vocab_size:,}"
        changed_settings = "data.tokenizer, data.meta or data.chat"
        return f"the corpus is prepared with another tokenizer of the same size: {changed_settings} changed"
    changed = list(_changes(settings, root))
    if changed:
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        return f"since the newest run, {'; '.join(changed[:_SHOWN])}{more}"
    newest = max(path.stat().st_mtime for path in made)
    newer = [str(path) for path in sorted(set(_files(settings))) if path.stat().st_mtime > newest]
    if newer:
        more = f" and {len(newer) - _SHOWN} more files" if len(newer) > _SHOWN else ""
        return f"{', '.join(newer[:_SHOWN])}{more} changed after the data were prepared"
    return "what is prepared comes from another source, other splits, or files of other names, sizes or times"


def _descriptions(cache: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in cache.glob("*/description.json"):
        try:
            yield path, read_description(path.parent)
        except (OSError, ValueError):
            continue  # damaged: it is prepared anew


def _changes(settings: dict[str, Any], root: Path) -> Iterator[str]:
    """Compare with the newest run's data settings."""
    before = _newest_run(root)
    if before is None:
        return
    now, then = dict(_flat(settings)), dict(_flat(before))
    for key in sorted(now.keys() | then.keys()):
        if key.partition(".")[0] in _DECISIVE and _bare(now.get(key)) != _bare(then.get(key)):
            yield f"data.{key} changed from {then.get(key)!r} to {now.get(key)!r}"


def _newest_run(root: Path) -> dict[str, Any] | None:
    runs = [path for path in (root / "logs").glob("version_*") if re.fullmatch(r"version_\d+", path.name)]
    for folder in sorted(runs, key=lambda path: -int(path.name.partition("_")[2])):
        try:
            content = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue
        if isinstance(content, dict) and isinstance(content.get("data"), dict):
            return dict(content["data"])
    return None


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if value is None:
            continue  # not set, and not said, is the same
        if key == "init_args":
            yield from _flat(value, prefix)
        elif isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix.removesuffix(".") if key == "class_path" else prefix + key, value


def _bare(value: Any) -> Any:
    """A class may be named without its module, and one path stands for a list of it."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value.rpartition(".")[2] if isinstance(value, str) and value.startswith("xlab.") else value


def _files(settings: Any) -> Iterator[Path]:
    """Find the files that the sources among plain settings name."""
    if isinstance(settings, list):
        for value in settings:
            yield from _files(value)
    if not isinstance(settings, dict):
        return
    for key, value in settings.items():
        if key == "paths":
            try:
                yield from find_files(as_patterns(value))
            except XLabError:
                continue
        else:
            yield from _files(value)
