"""./manage.py report: a run's model card."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xlab.commands.console import DEBUG_OPTION, one_line_errors
from xlab.errors import ConfigError, DataError

if TYPE_CHECKING:
    from xlab.lab.runs import Run

_PAGE, _TEXT = "model_card.html", "model_card.md"


@click.command("report")
@click.argument("run", metavar="RUN")
@click.option("-o", "--output", metavar="FOLDER", help="Where to write it.  [default: card in the run's folder]")
@click.option("--test", is_flag=True, help="Measure the checkpoint on the test split first, as ./xlab.py test does.")
@click.option("--figures", metavar="FILE", help="What ./xlab.py test --json wrote, instead of --test.")
@click.option("--samples", type=int, default=2, show_default=True, help="Texts that the model writes.")
@click.option("--prompt", default="", help="What these texts begin with.")
@click.option("--allow-module", multiple=True, help="Trust the classes of this module that a checkpoint names.")
@click.option(DEBUG_OPTION, is_flag=True, help="Show the traceback of an error.")
def report(run: str, debug: bool, **options: Any) -> None:
    """Write the model card of RUN, a run's folder: data, recipe, figures, curves, samples, and how to make it again.

    \b
    ./manage.py report logs/version_0
    ./manage.py report logs/version_0 --test --prompt "The module" -o cards/first

    The card is model_card.md, with its plots beside it, and model_card.html, which needs no file but itself.
    """
    with one_line_errors("manage.py report", debug=debug):
        _write(run, **options)


def _write(
    place: str,
    *,
    output: str | None,
    test: bool,
    figures: str | None,
    samples: int,
    prompt: str,
    allow_module: tuple[str, ...],
) -> None:
    if test and figures is not None:
        raise ConfigError("--test measures what --figures brings; give one of them")
    if samples < 0:
        raise ConfigError(f"--samples {samples} cannot be; give how many texts to write, or 0")

    from xlab.commands.pages import page_place, write_whole
    from xlab.lab import model_card_text
    from xlab.lab.model_card import describe
    from xlab.lab.run_removal import CARD
    from xlab.lab.runs import find_runs

    found = find_runs([place])
    if len(found) > 1:
        raise DataError(f"there are {len(found)} runs under {place}; name one of them, such as {found[0].folder}")
    run = found[0]
    folder = run.folder / CARD if output is None else Path(output).expanduser()
    path = folder / _PAGE
    if folder.exists():
        page_place(str(path), model_card_text.MARK, _PAGE)
    header = _header(run, allow_module)
    if test and run.checkpoint is None:
        raise DataError(f"{run.name} kept no checkpoint to --test")
    measured = _test(run) if test else None if figures is None else _read_figures(figures)
    texts = _texts(run, samples, prompt) if samples and run.checkpoint is not None else []
    card = describe(run, test=measured, samples=texts, header=header)
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in model_card_text.pictures(card).items():
        write_whole(picture, folder / name)
    write_whole(model_card_text.markdown(card), folder / _TEXT)
    write_whole(model_card_text.page(card), path)
    for line in card.missing:
        click.echo(f"! {line}")
    click.echo(f"written to {folder / _TEXT} and {path}")


def _header(run: "Run", allow_module: tuple[str, ...]) -> Mapping[str, Any] | None:
    if run.checkpoint is None:
        return None
    from xlab import checkpoints

    for module in allow_module:
        checkpoints.allow_module(module)
    checkpoint = checkpoints.read(run.checkpoint)
    return {"data": checkpoint.data, "info": checkpoint.info}


def _texts(run: "Run", n: int, prompt: str) -> list[tuple[str, str]]:
    from xlab.lab.exhibits import texts

    assert run.checkpoint is not None
    return [(prompt, text) for text in texts(run.checkpoint, n=n, prompt=prompt)]


def _test(run: "Run") -> Mapping[str, float]:
    from xlab.commands.lightning_cli import run as run_command

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "figures.json"
        run_command("test", [f"--ckpt_path={run.checkpoint}", f"--json={path}"])
        return _read_figures(str(path))


def _read_figures(file: str) -> Mapping[str, float]:
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is no JSON ({error}); give what ./xlab.py test --json wrote") from error
    if not isinstance(found, dict) or found.get("split") != "test":
        raise DataError(f"{file} holds no figures of a test; give what ./xlab.py test --json wrote")
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}
