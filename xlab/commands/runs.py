"""./manage.py runs: a table of runs, and what people say of them."""

from pathlib import Path
from typing import Any

import click

from xlab.commands.console import DEBUG_OPTION, one_line_errors


@click.command("runs")
@click.argument("folders", nargs=-1, metavar="[FOLDER]…")
@click.option("--sort", default="name", show_default=True, help="By this key; with a - before it the greatest first.")
@click.option("--filter", "filters", multiple=True, metavar="EXPR", help="KEY=VALUE, KEY<VALUE …; may be repeated.")
@click.option("--tag", "tags", nargs=2, multiple=True, metavar="RUN TAG", help="Give a run a tag.")
@click.option("--untag", "untags", nargs=2, multiple=True, metavar="RUN TAG", help="Take a tag from a run.")
@click.option("--note", "notes", nargs=2, multiple=True, metavar="RUN TEXT", help='Say something of a run; "" nothing.')
@click.option("--remove", "removed", multiple=True, metavar="RUN", help="Remove a run and its checkpoints.")
@click.option("--yes", is_flag=True, help="Remove without asking.")
@click.option(DEBUG_OPTION, is_flag=True, help="Show the traceback of an error.")
def runs(folders: tuple[str, ...], debug: bool, **options: Any) -> None:
    """List the runs under FOLDERs (logs, if none is given).

    \b
    ./manage.py runs
    ./manage.py runs logs --filter status=finished --filter "val/loss<3.2" --sort -val/accuracy
    ./manage.py runs --filter model.position=ALiBi --filter tag=keep
    ./manage.py runs --tag logs/version_3 keep --note logs/version_3 "wider, same tokens"
    ./manage.py runs --remove logs/version_1

    A KEY is name, status, tag, note, seed, step, size, minutes, a metric, a setting, or a field of run.json.
    A run is killed when it should be running on this machine and its process has gone.
    """
    with one_line_errors("manage.py runs", debug=debug):
        if options["tags"] or options["untags"] or options["notes"] or options["removed"]:
            _change(**{name: options[name] for name in ("tags", "untags", "notes", "removed", "yes")})
        else:
            _list(folders, sort=options["sort"], filters=options["filters"])


def _list(folders: tuple[str, ...], *, sort: str, filters: tuple[str, ...]) -> None:
    from xlab.errors import DataError
    from xlab.lab import run_table
    from xlab.lab.runs import Run, run_folders
    from xlab.lab.terminal import table

    conditions = [run_table.parse_filter(text) for text in filters]
    roots = [Path(folder) for folder in folders or ("logs",)]
    if missing := [root for root in roots if not root.is_dir()]:
        raise DataError(f"there is no folder {missing[0]}; name one with runs under it")
    found = [Run(folder) for root in roots for folder in run_folders(root)]
    if not found:
        raise DataError(f"there is no run under {', '.join(map(str, roots))}")
    kept = [run for run in found if all(holds(run) for holds in conditions)]
    if not kept:
        click.echo(f"none of {len(found)} runs is such")
        return
    in_order = {"name": kept, "-name": kept[::-1]}  # version_9 before version_10
    ordered = in_order[sort] if sort in in_order else run_table.sort(kept, sort)
    for line in table("run", *run_table.rows(ordered), left=("status", "tags", "note")):
        click.echo(line)


def _change(
    *,
    tags: tuple[tuple[str, str], ...],
    untags: tuple[tuple[str, str], ...],
    notes: tuple[tuple[str, str], ...],
    removed: tuple[str, ...],
    yes: bool,
) -> None:
    from xlab.lab.run_notes import change_notes
    from xlab.lab.run_removal import check_removable, remove
    from xlab.lab.run_table import written_size
    from xlab.lab.runs import Run

    for folder, tag in tags:
        click.echo(f"{folder}: {', '.join(change_notes(_run(folder), add=[tag]).tags)}")
    for folder, tag in untags:
        click.echo(f"{folder}: {', '.join(change_notes(_run(folder), remove=[tag]).tags) or 'no tag'}")
    for folder, text in notes:
        click.echo(f"{folder}: {change_notes(_run(folder), note=text).note or 'no note'}")
    for folder in removed:  # all are looked at before one goes
        check_removable(Path(folder))
    for folder in removed:
        run = Run(Path(folder))
        what = f"{folder}, {run.status} at step {run.step:,}, {written_size(run)}"
        if yes or click.confirm(f"remove {what}, checkpoints and all?"):
            remove(Path(folder))
            click.echo(f"removed {what}")


def _run(folder: str) -> Path:
    from xlab.errors import DataError
    from xlab.lab.runs import is_run

    path = Path(folder)
    if not is_run(path):
        raise DataError(f"{folder} is no run: it has no metrics.jsonl and no run.json")
    return path
