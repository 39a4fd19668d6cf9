"""./manage.py: what is done with data, checkpoints and experiments beside training and writing."""

import click

from xlab.commands.ablate import ablate
from xlab.commands.batch_size import batch_size
from xlab.commands.compare import compare
from xlab.commands.data_report import data_report
from xlab.commands.evaluate import evaluate
from xlab.commands.export_checkpoint import export_checkpoint
from xlab.commands.import_checkpoint import import_checkpoint
from xlab.commands.inspect_checkpoint import inspect
from xlab.commands.mup_check import mup_check
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
OF_RUNS = (plan, batch_size, ablate, sweep, scaling, mup_check, compare, runs, report, verify_resume)
OF_CHECKPOINTS = (evaluate, inspect, export_checkpoint, import_checkpoint)
for command in (*OF_DATA, *OF_RUNS, *OF_CHECKPOINTS):
    main.add_command(command)
