"""./manage.py: what is done with data, checkpoints and experiments beside training and writing."""

import click

from xlab.commands.ablate import ablate
from xlab.commands.compare import compare
from xlab.commands.console import DEBUG_OPTION, one_line_errors
from xlab.commands.data_report import data_report
from xlab.commands.evaluate import evaluate
from xlab.commands.plan import plan
from xlab.commands.prepare_data import prepare_data
from xlab.commands.report import report
from xlab.commands.runs import runs
from xlab.commands.scaling import scaling
from xlab.commands.sweep import sweep
from xlab.commands.tokenizer import train_tokenizer
from xlab.commands.validate_data import validate_data
from xlab.commands.verify_resume import verify_resume


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def main() -> None:
    """Manage data, checkpoints and experiments."""


OF_DATA = (train_tokenizer, prepare_data, validate_data, data_report)
OF_RUNS = (plan, ablate, sweep, scaling, compare, runs, report, verify_resume)
for command in (*OF_DATA, *OF_RUNS, evaluate):
    main.add_command(command)


@main.command("export-checkpoint")
@click.argument("checkpoint")
@click.option("-o", "--output", default="exports", help="Folder to write to.")
@click.option("--allow-module", multiple=True, help="Trust the classes of this module that the checkpoint names.")
@click.option(DEBUG_OPTION, is_flag=True, help="Show the traceback of an error.")
def export_checkpoint(checkpoint: str, output: str, allow_module: tuple[str, ...], debug: bool) -> None:
    """Write a clean .pt of CHECKPOINT: weights, settings and tokenizer, without the optimiser.

    CHECKPOINT is a .ckpt, a .pt, or a run folder (its best). The file is named by a hash of its content, and its path
    is the last line printed.
    """
    with one_line_errors("manage.py export-checkpoint", debug=debug):
        from xlab import checkpoints

        for module in allow_module:
            checkpoints.allow_module(module)
        path, was_there = checkpoints.export(checkpoint, output)
        if was_there:
            click.echo("the same content is already there")
        click.echo(path)
