"""./manage.py data-report: what a run's data are, as a page and on the terminal."""

from typing import Any

import click

from xlab.commands.console import DEBUG_OPTION, one_line_errors
from xlab.commands.data_settings import PASSED_ON, data_of
from xlab.commands.pages import page_place, write_whole


@click.command("data-report", context_settings=PASSED_ON)
@click.option("-o", "--output", default="report.html", show_default=True, help="Page to write; replaces an older one.")
@click.option("--allow-module", multiple=True, help="Trust the classes of this module that a checkpoint names.")
@click.option(DEBUG_OPTION, is_flag=True, help="Show the traceback of an error.")
@click.argument("settings", nargs=-1, type=click.UNPROCESSED)
def data_report(output: str, settings: tuple[str, ...], allow_module: tuple[str, ...], debug: bool) -> None:
    """Report on the data that ./xlab.py fit would train on with these SETTINGS.

    \b
    ./manage.py data-report
    ./manage.py data-report -c conf/data/text.yaml --data.source.paths my.txt -o my.html

    Sizes, lengths, the vocabulary's use, packing, duplicates, and what of the other splits is in train: as tables
    here, and with plots in a page that opens offline. SETTINGS are those of fit: -c FILE and --key value. The data
    are prepared if they are not yet.
    """
    with one_line_errors("manage.py data-report", debug=debug):
        from xlab import checkpoints
        from xlab.lab.report_page import MARK

        for module in allow_module:
            checkpoints.allow_module(module)
        path = page_place(output, MARK, "report.html")
        datamodule = data_of(settings)
        datamodule.prepare_data()

        from xlab.lab import report_page, report_terminal
        from xlab.lab.data_report import n_tokens_to_read, report

        with _bar(n_tokens_to_read(datamodule)) as bar:
            found = report(datamodule, advance=bar.update)
        write_whole(report_page.page(found), path)
        for line in report_terminal.lines(found):
            click.echo(line)
        click.echo(f"\nwritten to {path}")


def _bar(n_tokens: int) -> Any:
    from tqdm import tqdm

    # disable=None: the bar is drawn on a terminal, and keeps out of logs
    return tqdm(total=n_tokens, desc="Measuring", unit=" tokens", unit_scale=True, leave=False, disable=None)
