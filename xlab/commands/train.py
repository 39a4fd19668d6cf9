"""./xlab.py: train a model, measure it, let it continue documents."""

from typing import Any

import click

from xlab.commands.console import DEBUG_OPTION, one_line_errors

PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}

SUMMARIES = {
    "fit": "Train; keep the best and the last checkpoint.",
    "validate": "Measure a checkpoint on the validation split.",
    "test": "Measure a checkpoint on the test split.",
    "predict": "Continue the documents of the predict split.",
}


# a script of one's own that trains another class than XLabModel calls main(obj=TheClass)
@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Train transformer language models from YAML.

    Without -c, every command starts from conf/defaults.yaml; each -c FILE and each --key value goes on top.

    \b
    ./xlab.py fit                                  train the default model on the embedded corpus
    ./xlab.py fit -c conf/data/text.yaml --data.source.paths my.txt
    ./xlab.py fit --ckpt_path logs/version_0       go on where a run stopped
    ./xlab.py validate --ckpt_path logs/version_0  repeat a run's validation figures
    ./xlab.py fit --print_config                   show every setting and its value
    """


def _add(subcommand: str, summary: str) -> None:
    @main.command(subcommand, help=summary, context_settings=PASSED_ON)
    @click.option("--allow-module", multiple=True)
    @click.option(DEBUG_OPTION, is_flag=True)
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    @click.pass_obj
    def command(model: Any, arguments: tuple[str, ...], allow_module: tuple[str, ...], debug: bool) -> None:
        with one_line_errors(f"xlab.py {subcommand}", debug=debug):
            from xlab import checkpoints
            from xlab.commands.lightning_cli import run  # seconds of imports that --help does not need

            for module in allow_module:
                checkpoints.allow_module(module)
            run(subcommand, list(arguments), model=model)


for _name, _summary in SUMMARIES.items():
    _add(_name, _summary)
