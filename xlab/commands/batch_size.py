"""./manage.py batch-size: the largest batch that memory has room for, and the accumulation that keeps the step."""

import math
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from xlab.commands.console import DEBUG_OPTION, one_line_errors
from xlab.commands.data_settings import PASSED_ON
from xlab.errors import ConfigError

if TYPE_CHECKING:
    from xlab.lab.batch_size import Finding
    from xlab.lab.plan import Settings


@click.command("batch-size", context_settings=PASSED_ON)
@click.option("--margin", default=0.1, show_default=True, help="Share of the free memory that is to stay free.")
@click.option("--memory", "gib", type=float, help="GiB to reckon with in place of the free memory.")
@click.option("--allow-module", multiple=True, help="Trust the classes of this module that a checkpoint names.")
@click.option(DEBUG_OPTION, is_flag=True, help="Show the traceback of an error.")
@click.argument("settings", nargs=-1, type=click.UNPROCESSED)
def batch_size(
    settings: tuple[str, ...], margin: float, gib: float | None, allow_module: tuple[str, ...], debug: bool
) -> None:
    """Find the largest data.batch_size that a run with these SETTINGS has memory for; train and write nothing.

    \b
    ./manage.py batch-size
    ./manage.py batch-size -c my.yaml --margin 0.2
    ./manage.py batch-size -c my.yaml -c conf/extra/activation_checkpointing.yaml

    SETTINGS are those of fit: -c FILE and --key value, over conf/defaults.yaml. A few steps and a validation on random
    tokens are made at small sizes, each in a process of its own, and then at the size that they let expect. What is
    printed last can be added to the settings: a step then reads as many tokens as before.
    """
    with one_line_errors("manage.py batch-size", debug=debug):
        if not 0 <= margin < 1:
            raise ConfigError(f"--margin must be in [0, 1), got {margin:g}")
        if gib is not None and not 0 < gib < math.inf:
            raise ConfigError(f"--memory must be above 0, got {gib:g}")
        from xlab import checkpoints
        from xlab.commands.plan import settings_of

        for module in allow_module:
            checkpoints.allow_module(module)
        for line in _search(settings_of(settings, allow_module), margin=margin, gib=gib):
            click.echo(line)


def _search(settings: "Settings", *, margin: float, gib: float | None) -> Iterator[str]:
    from xlab.lab.batch_size import find
    from xlab.lab.plan_steps import packing_of
    from xlab.lab.plan_time import MemoryShortageError, measure_memory
    from xlab.training.precision import device_of
    from xlab.training.throughput import resident_memory
    from xlab.transformer.footprint import free_memory

    asked = int(settings.data["batch_size"])
    if packing_of(settings.data).batch_size(asked) != asked:
        raise ConfigError(
            "data.packing makes whole batches, whatever data.batch_size is; lower or raise its max_tokens"
        )
    device = device_of(settings.trainer.get("accelerator", "auto"))
    free = free_memory(device) if gib is None else int(gib * 2**30)
    if device is None or device.type != "cuda":  # ranks share it, and each has imports, as many as this process has
        free = free // settings.world_size - resident_memory()
    if free <= 0:
        raise ConfigError(
            f"no memory is left for training: {settings.world_size} x {resident_memory() / 2**30:.2f} GiB go to what a "
            "process imports; close other programs, or raise --memory"
        )
    limit, accumulated = int((1 - margin) * free), settings.accumulated

    def try_out(windows: int) -> int:
        words = [
            *settings.arguments,
            f"--data.batch_size={windows}",
            # the second micro-batch of a step has the gradients of the first beside it
            f"--trainer.accumulate_grad_batches={2 if accumulated * asked > windows else 1}",
            f"--compile={str(settings.compile is True).lower()}",
        ]
        print(f"{windows} windows:", end="", file=sys.stderr, flush=True)
        try:
            n_bytes = measure_memory(words, modules=settings.modules)
        except MemoryShortageError:
            print(" no memory", file=sys.stderr, flush=True)
            raise
        print(f" {n_bytes / 2**30:.2f} GiB", file=sys.stderr, flush=True)
        return n_bytes

    found = find(try_out, limit=limit, windows_per_step=asked * accumulated)
    yield from _lines(found, settings)


def _lines(found: "Finding", settings: "Settings") -> Iterator[str]:
    tokens = int(settings.data["seq_len"]) * found.batch_size * found.accumulate * settings.world_size
    yield f"largest that was trained within {found.limit / 2**30:.2f} GiB: {found.largest} windows"
    yield f"a step stays at {tokens:,} tokens with:"
    yield f"--data.batch_size {found.batch_size} --trainer.accumulate_grad_batches {found.accumulate}"
