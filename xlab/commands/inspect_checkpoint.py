"""./manage.py inspect: what a checkpoint holds, and what its model is and costs."""

import json
from typing import Any

import click

from xlab.commands.console import DEBUG_OPTION, one_line_errors

_YAML = (".yaml", ".yml")


@click.command("inspect")
@click.argument("checkpoint")
@click.option("--json", "as_data", is_flag=True, help="Print JSON.")
@click.option("--allow-module", multiple=True, help="Trust the classes of this module that the checkpoint names.")
@click.option(DEBUG_OPTION, is_flag=True, help="Show the traceback of an error.")
def inspect(checkpoint: str, as_data: bool, allow_module: tuple[str, ...], debug: bool) -> None:
    """Tell what CHECKPOINT holds: parameters by part, precision, costs per token, tokenizer, metrics, settings.

    \b
    ./manage.py inspect logs/version_0
    ./manage.py inspect exports/xlab-0123456789abcdef.pt --json
    ./manage.py inspect conf/model/llama.yaml

    CHECKPOINT is a .ckpt, a .pt, or a run folder (its best); of a YAML file with settings of fit, the model that they
    make. Nothing is run, and no memory is taken for weights.
    """
    with one_line_errors("manage.py inspect", debug=debug):
        from xlab import checkpoints
        from xlab.lab.inspection import as_json, inspect_checkpoint, inspect_model
        from xlab.lab.inspection_text import lines

        for module in allow_module:
            checkpoints.allow_module(module)
        if checkpoint.endswith(_YAML):
            from xlab.commands.plan import settings_of

            settings = settings_of(("-c", checkpoint), allow_module)
            model, file = inspect_model(settings.model, defaults=_defaults()), None
        else:
            model, file = inspect_checkpoint(checkpoints.read(checkpoint), defaults=_defaults())
        click.echo(json.dumps(as_json(model, file), indent=2) if as_data else "\n".join(lines(model, file)))


def _defaults() -> dict[str, Any]:
    import yaml

    from xlab.commands.conf_folder import conf_folder

    with open(conf_folder() / "defaults.yaml", encoding="utf-8") as file:
        settings: dict[str, Any] = yaml.safe_load(file)["model"]
    return settings
