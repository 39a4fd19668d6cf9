"""A run's model card: what it was trained on, how, how well it does, what it writes, and how to make it again."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xlab.errors import DataError
from xlab.lab.curves import thinned
from xlab.lab.page_parts import NOTHING, Rows
from xlab.lab.report_plots import line, short
from xlab.lab.run_groups import flat, written
from xlab.lab.run_notes import read_notes
from xlab.lab.runs import Run

_CURVES = ("val/bits_per_byte", "val/loss", "train/loss", "lr")
_FIGURES = ("bits_per_byte", "loss", "perplexity", "accuracy")
_POINTS = 200  # of a curve


@dataclass(frozen=True)
class Section:
    """A part of a card; what it does not have is left out.

    Attributes:
        title: its heading.
        words: paragraphs.
        columns: of the table, without that of the labels.
        rows: of the table.
        plots: SVG by title.
        quotes: (prompt, text) of what the model wrote.
        commands: to type.
    """

    title: str
    words: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    rows: Rows = field(default_factory=list)
    plots: dict[str, str] = field(default_factory=dict)
    quotes: list[tuple[str, str]] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ModelCard:
    """What is told of a run.

    Attributes:
        title: its name.
        headline: (what, value, a note) of a few figures.
        missing: what the run did not record.
        sections: in the order of reading.
    """

    title: str
    headline: list[tuple[str, str, str]]
    missing: list[str]
    sections: list[Section]


def describe(
    run: Run,
    *,
    test: Mapping[str, float] | None = None,
    samples: Sequence[tuple[str, str]] = (),
    header: Mapping[str, Any] | None = None,
) -> ModelCard:
    """Make the card of a run.

    Args:
        run: with settings or figures at least.
        test: figures on the test split, by name.
        samples: (prompt, text) that the model wrote.
        header: data settings and info of its checkpoint: ``data`` and ``info``.

    Raises:
        DataError: for a run of which nothing is known.
    """
    if not run.settings and not run.metrics:
        raise DataError(f"{run.name} has neither settings nor figures: there is nothing to report on")
    sections = [
        _data(run, header or {}),
        _recipe(run),
        _figures(run, test),
        Section("Curves", plots=_plots(run)),
        Section("Samples", quotes=list(samples), words=["At temperature 0.8."] if samples else []),
        _environment(run),
        _reproduction(run),
    ]
    told = [section for section in sections if section.rows or section.plots or section.quotes or section.commands]
    return ModelCard(run.name, _headline(run), _missing(run, test, header), told)


def _headline(run: Run) -> list[tuple[str, str, str]]:
    parameters, tokens = run.record.get("parameters"), run.last("tokens")
    best = _best(run, "val/bits_per_byte")
    minutes = run.last("train_seconds") / 60
    non_embedding = run.record.get("non_embedding_parameters")
    sizes = [("layers", run.setting("model.n_layers")), ("wide", run.setting("model.d_model"))]
    shape = ", ".join(f"{size} {name}" for name, size in sizes if size is not None)
    if parameters is not None and non_embedding is not None:
        shape += f"; {short(non_embedding)} beside the vocabulary"
    return [
        ("parameters", NOTHING if parameters is None else short(parameters), shape),
        ("bits per byte", NOTHING if best is None else f"{best:.4f}", "on held-out text, the best"),
        ("tokens", NOTHING if math.isnan(tokens) else short(tokens), f"{run.step:,} steps; {run.status}"),
        ("minutes", NOTHING if math.isnan(minutes) else f"{minutes:.1f}", "of training"),
    ]


def _missing(run: Run, test: Mapping[str, float] | None, header: Mapping[str, Any] | None) -> list[str]:
    found = []
    if run.status not in ("finished", "unknown"):
        error = run.record.get("error")
        found.append(f"This run is {run.status} at step {run.step:,}" + (f": {error}" if error else "."))
    if not run.record:
        found.append("It has no run.json: machine, versions, code and command are not known.")
    if not run.settings:
        found.append("It has no config.yaml that can be read: its settings are not known.")
    if header is None:
        found.append("It kept no checkpoint.")
    if test is None:
        found.append("It was not measured on the test split.")
    if str(run.record.get("commit") or "").endswith("+"):
        found.append("The code was changed after the commit that is named.")
    return found


def _data(run: Run, header: Mapping[str, Any]) -> Section:
    settings = header.get("data") or run.settings.get("data") or {}
    fingerprint = run.data_fingerprint or (header.get("info") or {}).get("data_fingerprint")
    told = {key: value for key, value in flat(settings).items() if value not in (None, {}, [])}
    no_content = ("num_workers", "cache_dir", "prompt_len", "max_new_tokens")
    rows = [(key, [written(value)]) for key, value in told.items() if key not in no_content]
    if fingerprint:
        rows.append(("fingerprint", [str(fingerprint)]))
    words = ["The documents, how they were divided and cut into tokens; the fingerprint is that of all of it."]
    return Section("Data", words=words, columns=["value"], rows=rows)


def _recipe(run: Run) -> Section:
    parts = {name: run.settings.get(name) for name in ("seed_everything", "model", "trainer")}
    told = flat({name: part for name, part in parts.items() if part is not None})
    unsaid: list[Any] = [None, {}, [], "auto"]
    no_recipe = ("trainer.default_root_dir", "trainer.logger", "trainer.enable_model_summary")
    told = {key: value for key, value in told.items() if value not in unsaid and key not in no_recipe}
    # of the trainer's many switches, those that are on
    rows = [(key, [written(value)]) for key, value in told.items() if value or not key.startswith("trainer.")]
    return Section("Recipe", columns=["value"], rows=rows)


def _figures(run: Run, test: Mapping[str, float] | None) -> Section:
    columns = ["validation, best", "validation, last", *(["test"] if test is not None else [])]
    rows: Rows = []
    for name in _FIGURES:
        metric = f"val/{name}"
        cells = [_figure(_best(run, metric)), _figure(run.last(metric))]
        if test is not None:
            cells.append(_figure(test.get(name)))
        if any(cell != NOTHING for cell in cells):
            rows.append((name.replace("_", " "), cells))
    return Section("Figures", columns=columns, rows=rows)


def _plots(run: Run) -> dict[str, str]:
    plots = {}
    for metric in _CURVES:
        if metric not in run.metrics:
            continue
        series = thinned(run.series(metric), _POINTS)
        axis = "steps" if any(map(math.isnan, series.tokens)) else "tokens"
        points = list(zip(series.over(axis).tolist(), series.values.tolist(), strict=True))
        if points:
            plots[metric] = line(points, title=f"{metric} over {axis}", x=axis, y="")
    return plots


def _environment(run: Run) -> Section:
    record = run.record
    machine = record.get("machine") or {}
    known = {
        "started": record.get("started"),
        "ended": record.get("ended"),
        "device": machine.get("device"),
        "processor": machine.get("processor"),
        "cores": machine.get("cores"),
        "processes": record.get("world_size"),
        "precision": record.get("precision"),
        "FLOPs per token": record.get("flops_per_token"),
        "peak memory, bytes": record.get("peak_memory_bytes"),
        "commit": record.get("commit"),
        **(record.get("versions") or {}),
    }
    rows = [(key, [_counted(value)]) for key, value in known.items() if value is not None]
    return Section("Environment", columns=["value"], rows=rows)


def _reproduction(run: Run) -> Section:
    commands = []
    if commit := run.record.get("commit"):
        commands.append(f"git checkout {str(commit).removesuffix('+')}")
    if command := run.record.get("command"):
        commands.append(f"./{command}" if not command.startswith((".", "/")) else str(command))
    config = run.folder / "config.yaml"
    words = ["As it was started; the second fit is the same, from all settings as they were."] if command else []
    if run.settings:
        commands.append(f"./xlab.py fit -c {shlex.quote(str(config))}")
    if run.checkpoint is not None:
        commands.append(f"./xlab.py validate --ckpt_path {shlex.quote(str(run.folder))}")
    if note := read_notes(run.folder).note:
        words.append(note)
    return Section("How to make it again", words=words, commands=commands)


def _best(run: Run, metric: str) -> float | None:
    if metric not in run.metrics:
        return None
    values = [value for value in run.series(metric).values.tolist() if math.isfinite(value)]
    return (max if metric.endswith("accuracy") else min)(values, default=None)


def _figure(value: float | None) -> str:
    return NOTHING if value is None or math.isnan(value) else f"{value:,.4f}"


def _counted(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
