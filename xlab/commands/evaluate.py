"""./manage.py evaluate: a checkpoint's figures on held-out texts and on lm-eval's tasks."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xlab.commands.console import DEBUG_OPTION, one_line_errors
from xlab.errors import ConfigError, DataError

if TYPE_CHECKING:
    from xlab.data.sources import Document, Source
    from xlab.data.tokenizers import Tokenizer
    from xlab.evaluation import Figures
    from xlab.transformer.decoder import Decoder


@click.command("evaluate")
@click.argument("checkpoint")
@click.argument("files", nargs=-1)
@click.option("--data", multiple=True, metavar="FILES…", help="Texts to score: .txt, or .jsonl of one object a line.")
@click.option("--column", default="text", help="The key of a .jsonl's objects that holds the text.")
@click.option("--stride", type=int, help="Tokens from one window to the next.  [default: half the model's context]")
@click.option("--tasks", multiple=True, metavar="NAMES…", help="lm-eval's tasks: names, or YAML files of your own.")
@click.option("--num-fewshot", type=int, help="Examples before each question of a task.  [default: the task's own]")
@click.option("--limit", type=int, help="Questions of each task.  [default: all]")
@click.option("--batch-size", type=int, default=8, help="Windows or questions at once; changes no figure.")
@click.option("-d", "--device", default="cpu", help="cpu, cuda, cuda:1, mps.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--allow-module", multiple=True, help="Trust the classes of this module that the checkpoint names.")
@click.option(DEBUG_OPTION, is_flag=True, help="Show the traceback of an error.")
def evaluate(checkpoint: str, debug: bool, as_json: bool, **options: Any) -> None:
    """Measure CHECKPOINT, a .ckpt, a .pt or a run folder (its best), on texts and on tasks.

    \b
    ./manage.py evaluate logs/version_0 --data held_out/*.txt --stride 64
    ./manage.py evaluate logs/version_0 --data corpus.jsonl --column body --json
    ./manage.py evaluate logs/version_0 --tasks lambada_openai,arc_easy --limit 100

    Each text is scored by itself, from its start token to its end token, every token once. A .txt file is one text.
    """
    with one_line_errors("manage.py evaluate", debug=debug):
        report = measure(checkpoint, **options)
        click.echo(json.dumps(report, indent=2) if as_json else "\n".join(_lines(report)))


def measure(
    checkpoint: str,
    *,
    files: tuple[str, ...],
    data: tuple[str, ...],
    tasks: tuple[str, ...],
    device: str,
    batch_size: int,
    allow_module: tuple[str, ...],
    **how: Any,
) -> dict[str, Any]:
    """Give ``checkpoint``, and with them ``data`` (the fields of ``Figures``) and ``tasks`` (metrics by task).

    Raises:
        ConfigError: for options that cannot mean anything, or when lm-eval is not installed.
        DataError: for texts that cannot be read.
        CheckpointError: if the checkpoint cannot be read.
    """
    names = [name for given in tasks for name in given.split(",") if name]
    if files and not data:
        raise ConfigError(f"{files[0]} is neither --data nor --tasks; write --data {files[0]}")
    if not data and not names:
        raise ConfigError("there is nothing to measure on; give --data FILES, or --tasks NAMES")
    for option, belongs in (("stride", data), ("num_fewshot", names), ("limit", names)):
        if how[option] is not None and not belongs:
            other = "--data" if option == "stride" else "--tasks"
            raise ConfigError(f"--{option.replace('_', '-')} belongs to {other}, which is not given")
    if names:
        _require_lm_eval()

    from xlab import checkpoints
    from xlab.commands.writing import device_of

    for module in allow_module:
        checkpoints.allow_module(module)
    decoder, tokenizer = checkpoints.load(checkpoint, device_of(device))
    report: dict[str, Any] = {"checkpoint": str(checkpoints.find(checkpoint))}
    if data:
        figures = _on_texts(
            decoder, tokenizer, [*data, *files], column=how["column"], stride=how["stride"], batch_size=batch_size
        )
        report["data"] = asdict(figures)
    if names:
        from xlab.evaluation.harness import XLabLM, run_tasks

        model = XLabLM(decoder=decoder, tokenizer=tokenizer, batch_size=batch_size)
        report["tasks"] = run_tasks(model, names, num_fewshot=how["num_fewshot"], limit=how["limit"])
    return report


def _on_texts(
    decoder: "Decoder",
    tokenizer: "Tokenizer",
    files: list[str],
    *,
    column: str,
    stride: int | None,
    batch_size: int,
) -> "Figures":
    from xlab.evaluation import evaluate

    lines = [file for file in files if ".jsonl" in Path(file).name]
    try:
        sources = _sources([file for file in files if file not in lines], lines, column)
        return evaluate(decoder, tokenizer, _with_progress(sources), stride=stride, batch_size=batch_size)
    except DataError as error:
        # here the column is an option, not a setting
        raise DataError(str(error).replace("Set data.source.text_column.", "Give --column.")) from error


def _sources(texts: list[str], lines: list[str], column: str) -> list["Source"]:
    from xlab.data.sources import JsonLines, TextFiles

    plain: list[Source] = [TextFiles(texts)] if texts else []
    return [*plain, JsonLines(lines, text_column=column)] if lines else plain


def _with_progress(sources: list["Source"]) -> "Iterator[Document]":
    from tqdm import tqdm

    sizes = [source.n_bytes() for source in sources]
    total = None if None in sizes else sum(filter(None, sizes))
    # disable=None: the bar is drawn on a terminal, and keeps out of logs
    with tqdm(total=total, desc="Scoring", unit="B", unit_scale=True, leave=False, disable=None) as bar:
        for source in sources:
            for document in source.documents():
                yield document
                bar.update(len(document.text.encode()))


def _require_lm_eval() -> None:
    import importlib.util

    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError("--tasks needs EleutherAI's lm-eval, which is not installed: pip install lm-eval")


def _lines(report: dict[str, Any]) -> Iterator[str]:
    yield report["checkpoint"]
    if figures := report.get("data"):
        for name, unit, digits in (
            ("loss", "nats a token", ".4f"),
            ("perplexity", "", ",.2f"),
            ("bits_per_byte", "", ".4f"),
            ("accuracy", "", ".2%"),
            ("tokens", "", ","),
            ("n_bytes", "of text", ","),
            ("documents", "", ","),
            ("stride", "tokens", ","),
        ):
            label = {"n_bytes": "bytes"}.get(name, name.replace("_", " "))
            yield f"  {label:<14}{figures[name]:>14{digits}} {unit}".rstrip()
    for task, metrics in report.get("tasks", {}).items():
        yield task
        for name, value in metrics.items():
            yield f"  {name:<30}{f'{value:.4f}' if isinstance(value, float) else value}"
