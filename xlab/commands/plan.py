"""./manage.py plan: what a run will take and see, and what looks wrong about it, before anything expensive."""

import json
import sys
from typing import TYPE_CHECKING

import click

from xlab.commands.console import DEBUG_OPTION, one_line_errors
from xlab.commands.data_settings import PASSED_ON, data_from, settings_only
from xlab.errors import ConfigError

if TYPE_CHECKING:
    from xlab.lab.plan import Settings


@click.command("plan", context_settings=PASSED_ON)
@click.option("--token-batch", type=click.IntRange(1), help="Tokens of an optimiser step that are meant to be.")
@click.option("--seconds", default=10.0, show_default=True, help="How long to time steps.")
@click.option("--no-steps", is_flag=True, help="Time no steps: what a run takes is then not known.")
@click.option("--strict", is_flag=True, help="End with status 1 where there is a warning or an error.")
@click.option("--json", "as_data", is_flag=True, help="Print JSON.")
@click.option("--allow-module", multiple=True, help="Trust the classes of this module that a checkpoint names.")
@click.option(DEBUG_OPTION, is_flag=True, help="Show the traceback of an error.")
@click.argument("settings", nargs=-1, type=click.UNPROCESSED)
def plan(
    settings: tuple[str, ...],
    token_batch: int | None,
    seconds: float,
    no_steps: bool,
    strict: bool,
    as_data: bool,
    allow_module: tuple[str, ...],
    debug: bool,
) -> None:
    """Say what a run with these SETTINGS takes and sees, and what looks wrong about it; train and write nothing.

    \b
    ./manage.py plan
    ./manage.py plan -c my.yaml --trainer.max_steps 20000 --token-batch 65536
    ./manage.py plan -c conf/xlab.yaml --no-steps

    SETTINGS are those of fit: -c FILE and --key value, over conf/defaults.yaml. A few real steps on random tokens are
    timed in a process of their own. Every figure says whether it was counted, computed, measured or estimated. Status
    0; with --strict 1 where there is a warning.
    """
    with one_line_errors("manage.py plan", debug=debug):
        if seconds <= 0:
            raise ConfigError(f"--seconds must be above 0, got {seconds:g}; --no-steps times none")
        from xlab import checkpoints
        from xlab.lab.plan import as_json, make_plan
        from xlab.lab.plan_text import lines

        for module in allow_module:
            checkpoints.allow_module(module)
        made = make_plan(
            settings_of(settings, allow_module), seconds=None if no_steps else seconds, token_batch=token_batch
        )
        click.echo(json.dumps(as_json(made), indent=2) if as_data else "\n".join(lines(made)))
        if strict and any(finding.severity != "note" for finding in made.findings):
            sys.exit(1)


def settings_of(arguments: tuple[str, ...], modules: tuple[str, ...] = ()) -> "Settings":
    """Read the settings of fit, and make of them nothing but the datamodule; no corpus is read.

    Raises:
        ConfigError: for settings that cannot be.
    """
    from xlab import factories
    from xlab.lab.plan import Settings

    cli = settings_only(arguments)
    config = cli.config["fit"]
    datamodule = data_from(cli)
    model = factories.plain(config.model.as_dict(), "model") | {"vocab_size": datamodule.vocab_size}
    return Settings(arguments, model, config.trainer.as_dict(), datamodule, modules, config.compile)
