"""./manage.py validate-data: the documents that should not be learnt as they are, as a table and a CSV."""

import csv
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xlab.commands.console import DEBUG_OPTION, one_line_errors
from xlab.commands.data_settings import PASSED_ON, data_of
from xlab.errors import ConfigError

if TYPE_CHECKING:
    from xlab.datamodules import XLabDataModule
    from xlab.lab.data_validation import Finding

FOUND = 1  # the exit status when something was found; 2 is for settings and data that cannot be read
_SHOWN = 20  # findings


@click.command("validate-data", context_settings=PASSED_ON)
@click.option("--csv", "csv_file", metavar="FILE", help="Write every finding there.")
@click.option("--allow-module", multiple=True, help="Trust the classes of this module that a checkpoint names.")
@click.option(DEBUG_OPTION, is_flag=True, help="Show the traceback of an error.")
@click.argument("settings", nargs=-1, type=click.UNPROCESSED)
def validate_data(csv_file: str | None, settings: tuple[str, ...], allow_module: tuple[str, ...], debug: bool) -> None:
    """Check every document of the data that ./xlab.py fit would train on with these SETTINGS.

    \b
    ./manage.py validate-data -c conf/data/nietzsche.yaml
    ./manage.py validate-data -c conf/data/text.yaml --data.source.paths my.txt --csv findings.csv

    Finds documents that do not survive encode–decode, have no visible character, repeat an earlier one, or stand in two
    splits; reads through what is prepared, too. The exit status is 0 when there are none, 1 when there are some, 2 when
    the data cannot be read.
    SETTINGS are those of fit: -c FILE and --key value. The data are prepared if they are not yet.
    """
    with one_line_errors("manage.py validate-data", debug=debug):
        from xlab import checkpoints

        for module in allow_module:
            checkpoints.allow_module(module)
        path = None if csv_file is None else _place(csv_file)
        datamodule = data_of(settings)
        datamodule.prepare_data()
        tally = _check(datamodule, path)
        for line in tally.lines():
            click.echo(line)
        if path is not None:
            click.echo(f"written to {path}")
    if tally.n_findings:
        raise SystemExit(FOUND)


class _Tally:
    """Counts by split, and the first findings of each kind."""

    def __init__(self) -> None:
        self._documents: Counter[str] = Counter()
        self._problems: Counter[tuple[str, str]] = Counter()
        self._first: list[Finding] = []

    @property
    def n_findings(self) -> int:
        return self._problems.total()

    def add(self, split: str, findings: "tuple[Finding, ...]") -> None:
        self._documents[split] += 1
        for finding in findings:
            self._problems[split, finding.problem] += 1
            self._first += [finding] if len(self._first) < _SHOWN else []

    def lines(self) -> Iterator[str]:
        """A table of the counts, then the findings one by one."""
        from xlab.data.splits import SPLITS
        from xlab.lab.data_validation import PROBLEMS

        splits = [split for split in SPLITS if split in self._documents]
        width = max(len(f"{count:,}") for count in [*self._documents.values(), 10_000]) + 3
        rows = [("documents", self._documents)]
        for problem, meaning in PROBLEMS.items():
            counts = {split: self._problems[split, problem] for split in splits}
            rows.append((f"  {problem:<11}{meaning}", Counter(counts)))
        label_width = max(len(label) for label, _ in rows)
        yield " " * label_width + "".join(f"{split:>{width}}" for split in splits)
        for label, counted in rows:
            yield f"{label:<{label_width}}" + "".join(f"{counted[split]:>{width},}" for split in splits)
        if self._first:
            yield ""
        for finding in self._first:
            place = f"{finding.split} {finding.document}"
            yield f"{place:<16}{finding.problem:<11}{finding.detail} | {finding.excerpt[:40]!r}"
        if (more := self.n_findings - len(self._first)) > 0:
            yield f"… and {more:,} more; --csv FILE has them all"


def _check(datamodule: "XLabDataModule", path: Path | None) -> _Tally:
    from xlab.lab.data_validation import Finding, corpus_of, validate, verify

    verify(datamodule.prepared)
    tally, corpus = _Tally(), corpus_of(datamodule)
    with _rows(path) as writer, _bar(corpus.n_bytes()) as bar:
        if writer is not None:
            writer.writerow([field.name for field in fields(Finding)])
        for checked in validate(corpus, datamodule.tokenizer):
            tally.add(checked.split, checked.findings)
            if writer is not None:
                writer.writerows(map(astuple, checked.findings))
            bar.update(checked.n_bytes)
    return tally


def _bar(n_bytes: int | None) -> Any:
    from tqdm import tqdm

    # disable=None: the bar is drawn on a terminal, and keeps out of logs
    return tqdm(total=n_bytes, desc="Checking", unit="B", unit_scale=True, leave=False, disable=None)


def _place(csv_file: str) -> Path:
    """Refuse what cannot be written to, before the work for it."""
    from xlab.lab.data_validation import Finding

    path = Path(csv_file).expanduser()
    if path.is_dir():
        raise ConfigError(f"--csv {csv_file} is a folder; name a file, such as {path / 'findings.csv'}")
    if not path.parent.is_dir():
        raise ConfigError(f"--csv {csv_file} is in a folder that does not exist; make {path.parent} first")
    if path.exists():
        header = ",".join(field.name for field in fields(Finding))
        with path.open("rb") as file:
            if file.readline().strip() != header.encode():
                raise ConfigError(f"{path} is there already, and no findings, so it stays; give --csv another name")
    return path


@contextmanager
def _rows(path: Path | None) -> Iterator[Any]:
    """Lend a CSV writer whose file appears when all is well; None without a path."""
    if path is None:
        yield None
        return
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("w", encoding="utf-8", newline="") as file:
            yield csv.writer(file)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
