"""./serve.py: a checkpoint as a service."""

from typing import Any

import click

from xlab.commands.console import DEBUG_OPTION, one_line_errors
from xlab.serving.telegram.command import telegram


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 110})
def main() -> None:
    """Serve a model: over HTTP, or to Telegram."""


main.add_command(telegram)


@main.command("http")
@click.argument("checkpoint")
@click.option("--host", default="127.0.0.1", help="Address to listen on; beyond this machine only with a key.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, help="0 takes any free one.")
@click.option("--api-key-file", help="File with an API key in each line; or set XLAB_API_KEY to keys between commas.")
@click.option("--no-auth", is_flag=True, help="Let everyone in, even beyond this machine.")
@click.option("--cors", "origins", multiple=True, metavar="ORIGIN", help="Let the pages of another site in.")
@click.option("--name", help="What clients call the model.  [default: the run's folder]")
@click.option("--max-rows", type=click.IntRange(1, 1024), default=16, help="Texts that are written side by side.")
@click.option("--max-queue", type=click.IntRange(0, 100_000), default=128, help="Texts that may wait.")
@click.option("--max-tokens", type=click.IntRange(1), help="New tokens of a text at most.  [default: the context]")
@click.option("--deadline", type=click.FloatRange(0.1), default=300.0, help="Seconds that a request may take.")
@click.option("--drain", type=click.FloatRange(0), default=30.0, help="Seconds after SIGTERM in which texts may end.")
@click.option("--log-prompts", is_flag=True, help="Log prompts and texts too.")
@click.option("-d", "--device", default="cpu", help="cpu, cuda, cuda:1, mps.")
@click.option("--int8", is_flag=True, help="Hold weights in a byte each.")
@click.option("--bf16", is_flag=True, help="Hold weights and activations in two bytes.")
@click.option("--compile", is_flag=True, help="Compile the step of decoding: slow to start, faster to write.")
@click.option("--allow-module", multiple=True, help="Trust the classes of this module that the checkpoint names.")
@click.option(DEBUG_OPTION, is_flag=True, help="Show the traceback of an error.")
def http(checkpoint: str, debug: bool, **options: Any) -> None:
    """Serve CHECKPOINT (a .ckpt, a .pt, or a run folder: its best) over HTTP, as OpenAI's clients speak it.

    \b
    ./serve.py http logs/version_0                                   http://127.0.0.1:8000, with a page to try it on
    XLAB_API_KEY=… ./serve.py http logs/version_0 --host 0.0.0.0     for others, with a key
    """
    with one_line_errors("serve.py http", debug=debug):
        from xlab.commands.writing import device_of  # torch and FastAPI, which --help does not need
        from xlab.serving.start import start

        start(checkpoint, options | {"device": str(device_of(options["device"]))})
