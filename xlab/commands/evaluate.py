"""./manage.py evaluate: a checkpoint's figures on held-out texts and on lm-eval's tasks."""

import json
import re
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


_SETTING = re.compile(r"Set data\.source\.(text|messages)_column\.")


@click.command("evaluate")
@click.argument("checkpoint")
@click.argument("files", nargs=-1)
@click.option("--data", multiple=True, metavar="FILES…", help="Texts to score: .txt, or .jsonl of one object a line.")
@click.option("--chats", multiple=True, metavar="FILES…", help="Conversations, of which the answers alone count.")
@click.option("--column", help="The key that holds the text, or a chat's messages.  [default: text, messages]")
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
    ./manage.py evaluate logs/version_0 --chats held_out.jsonl
    ./manage.py evaluate logs/version_0 --tasks lambada_openai,arc_easy --limit 100

    Each text is scored by itself, from its start token to its end token, every token once. A .txt file is one text.
    Of conversations (.jsonl, .parquet or .arrow, as ChatRecords reads them) the answers are scored, by the checkpoint's
    chat template.
    """
    with one_line_errors("manage.py evaluate", debug=debug):
        report = measure(checkpoint, **options)
        click.echo(json.dumps(report, indent=2) if as_json else "\n".join(_lines(report)))


def measure(
    checkpoint: str,
    *,
    files: tuple[str, ...],
    data: tuple[str, ...],
    chats: tuple[str, ...],
    tasks: tuple[str, ...],
    device: str,
    batch_size: int,
    allow_module: tuple[str, ...],
    **how: Any,
) -> dict[str, Any]:
    """Give ``checkpoint``, and with them ``data`` and ``chats`` (the fields of ``Figures``) and ``tasks``, by task.

    Raises:
        ConfigError: for options that cannot mean anything, or when lm-eval is not installed.
        DataError: for texts that cannot be read.
        CheckpointError: if the checkpoint cannot be read.
    """
    names = [name for given in tasks for name in given.split(",") if name]
    if files and not data and not chats:
        raise ConfigError(f"{files[0]} is neither --data nor --tasks; write --data {files[0]}")
    if files and data and chats:
        raise ConfigError(f"{files[0]} is of --data or of --chats; write one of them before each file")
    if not data and not chats and not names:
        raise ConfigError("there is nothing to measure on; give --data FILES, --chats FILES, or --tasks NAMES")
    for option, belongs in (("stride", data or chats), ("num_fewshot", names), ("limit", names)):
        if how[option] is not None and not belongs:
            other = "--data or --chats" if option == "stride" else "--tasks"
            raise ConfigError(f"--{option.replace('_', '-')} belongs to {other}, which is not given")
    if names:
        _require_lm_eval()

    from xlab import checkpoints
    from xlab.commands.writing import device_of

    for module in allow_module:
        checkpoints.allow_module(module)
    where = device_of(device)
    read = checkpoints.read(checkpoint, map_location=where)
    decoder, tokenizer = checkpoints.restore(read, where)
    report: dict[str, Any] = {"checkpoint": str(read.path)}
    sources = {
        "data": _texts([*data, *files], how["column"] or "text") if data else [],
        "chats": _chats([*chats, *files], how["column"] or "messages") if chats else [],
    }
    template = read.info.get("chat_template")
    settings = {"stride": how["stride"], "batch_size": batch_size}
    settings["chat_template"] = template if isinstance(template, str) else None
    for kind, listed in sources.items():
        if listed:
            report[kind] = asdict(_figures(decoder, tokenizer, listed, settings))
    if names:
        from xlab.evaluation.harness import XLabLM, run_tasks

        model = XLabLM(decoder=decoder, tokenizer=tokenizer, batch_size=batch_size)
        report["tasks"] = run_tasks(model, names, num_fewshot=how["num_fewshot"], limit=how["limit"])
    return report


def _figures(
    decoder: "Decoder", tokenizer: "Tokenizer", sources: list["Source"], settings: dict[str, Any]
) -> "Figures":
    from xlab.evaluation import evaluate

    try:
        return evaluate(decoder, tokenizer, _with_progress(sources), **settings)
    except DataError as error:
        # here the column is an option, not a setting
        raise DataError(_SETTING.sub("Give --column.", str(error))) from error


def _texts(files: list[str], column: str) -> list["Source"]:
    from xlab.data.sources import JsonLines, TextFiles

    lines = [file for file in files if ".jsonl" in Path(file).name]
    texts = [file for file in files if file not in lines]
    plain: list[Source] = [TextFiles(texts)] if texts else []
    return [*plain, JsonLines(lines, text_column=column)] if lines else plain


def _chats(files: list[str], column: str) -> list["Source"]:
    from xlab.data.sources import ChatRecords

    return [ChatRecords(files, messages_column=column)]


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
    kinds = [kind for kind in ("data", "chats") if kind in report]
    for kind in kinds:
        figures = report[kind]
        if len(kinds) > 1:
            yield kind
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
