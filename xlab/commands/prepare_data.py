"""./manage.py prepare-data: a corpus as a numbered dataset of tokens, whole or in shards."""

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from xlab.commands.console import DEBUG_OPTION, one_line_errors
from xlab.commands.data_settings import PASSED_ON, data_of, recipe_and_meta, refuse_prefixes
from xlab.errors import ConfigError, DataError

if TYPE_CHECKING:
    from xlab.data.encoding import Shard
    from xlab.data.prepared import PreparedData
    from xlab.datamodules import XLabDataModule


_LISTED = 8  # shards


@click.command("prepare-data", context_settings=PASSED_ON)
@click.option("--name", default="corpus", show_default=True, help="What the dataset is called.")
@click.option("--datasets-root", default="datasets", show_default=True, help="Folder of all datasets.")
@click.option("--shard", metavar="I/N", help="Prepare part I, from 0 on, of N; the last job makes them one dataset.")
@click.option("--allow-module", multiple=True, help="Trust the classes of this module that a checkpoint names.")
@click.option(DEBUG_OPTION, is_flag=True, help="Show the traceback of an error.")
@click.argument("settings", nargs=-1, type=click.UNPROCESSED)
def prepare_data(
    settings: tuple[str, ...],
    name: str,
    datasets_root: str,
    shard: str | None,
    allow_module: tuple[str, ...],
    debug: bool,
) -> None:
    """Store the tokens of a corpus as DATASETS_ROOT/NAME/N, and print its description.

    \b
    ./manage.py prepare-data -c conf/data/text.yaml --data.source.paths my.txt --name mine
    ./xlab.py fit --data.train_data_prefix datasets/mine/1/train --data.val_data_prefix datasets/mine/1/val

    SETTINGS are those of fit: -c FILE and --key value, over conf/defaults.yaml. N is the next number; what is there
    already is found again by its content.
    """
    with one_line_errors("manage.py prepare-data", debug=debug):
        from xlab import checkpoints
        from xlab.data.encoding import Shard

        for module in allow_module:
            checkpoints.allow_module(module)
        folder = _folder(datasets_root, name)
        datamodule = data_of(settings)
        refuse_prefixes(datamodule)
        if shard is None:
            prepared, is_new = prepare(datamodule, folder)
        else:
            part = Shard.from_text(shard)
            whole, missing = prepare_part(datamodule, folder, part)
            if whole is None:
                click.echo(f"shard {shard} is there; missing yet: {_listed(missing, part.of)}")
                return
            prepared, is_new = whole, True
        click.echo(json.dumps(prepared.description, indent=2))
        if not is_new:
            click.echo("the same content is already there")
        click.echo(f"train with  {_how_to_train(prepared)}")
        click.echo(prepared.directory)


def _listed(missing: list[int], n_shards: int) -> str:
    names = [f"{index}/{n_shards}" for index in missing]
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def prepare(datamodule: "XLabDataModule", folder: Path) -> tuple["PreparedData", bool]:
    """Make a numbered dataset of a datamodule's corpus, or find it; tell whether it is new.

    Raises:
        DataError: when the corpus cannot be read, or the disk is full.
    """
    from xlab.data.prepared_dataset import prepare_dataset

    recipe, meta = recipe_and_meta(datamodule)
    return prepare_dataset(
        datamodule.corpus,
        recipe,
        folder=folder,
        vocab_size=datamodule.vocab_size,
        meta=meta,
        chat=datamodule.chat,
        tell=partial(samples, settings=datamodule.hparams),
    )


def prepare_part(datamodule: "XLabDataModule", folder: Path, shard: "Shard") -> tuple["PreparedData | None", list[int]]:
    """Make a shard of a numbered dataset; return the dataset if it is complete, or which shards are missing.

    Raises:
        ConfigError: when the tokenizer is still to be trained.
        DataError: when the corpus cannot be read, or the disk is full.
    """
    from xlab.data.prepared_dataset import prepare_shard

    recipe, meta = recipe_and_meta(datamodule)
    return prepare_shard(
        datamodule.corpus,
        recipe,
        shard,
        folder=folder,
        vocab_size=datamodule.vocab_size,
        meta=meta,
        chat=datamodule.chat,
        tell=partial(samples, settings=datamodule.hparams),
    )


def samples(prepared: "PreparedData", settings: Mapping[str, Any]) -> dict[str, Any]:
    """Count the windows that training and evaluation take out of each split, and the prompts of predict.

    Args:
        prepared: The stores.
        settings: The datamodule's: ``packing`` and ``seq_len``.

    Returns:
        ``samples`` by split, and the ``packing`` and ``seq_len`` that they were counted with.
    """
    from xlab import factories
    from xlab.data.packing import Layout

    tokenizer, packing = prepared.tokenizer, factories.build(settings["packing"])
    counts = {}
    with TemporaryDirectory() as plans:
        for split in prepared.description["splits"]:
            layout = Layout(
                settings["seq_len"],
                pad_id=tokenizer.pad_id,
                sos_id=tokenizer.sos_id,
                byte_lengths=tokenizer.byte_lengths(),
                split=split,
                is_evaluation=split != "train",
                cache_dir=plans,
            )
            if split == "predict":
                counts[split] = prepared.n_documents(split)
                continue
            try:
                counts[split] = len(packing.windows(prepared.store(split), layout))
            except DataError:  # too little for a window of this length, which is no reason not to have the tokens
                counts[split] = 0
    return {"samples": counts, "packing": settings["packing"], "seq_len": settings["seq_len"]}


def _folder(datasets_root: str, name: str) -> Path:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(f"--name {name} is no name of a folder; take letters, digits, '-', '_' and '.'")
    return Path(datasets_root).expanduser() / name


def _how_to_train(prepared: "PreparedData") -> str:
    prefixes = [
        f"--data.{split}_data_prefix {prepared.directory / split}"
        for split in ("train", "val", "test")
        if prepared.n_documents(split)
    ]
    told = prepared.description  # tokens that were framed are opened only by settings that say so
    framing = [f"--data.meta.{name} {told['meta'][name]}" for name in ("max_meta_len", "drop") if "meta" in told]
    framing += ["--data.chat.prompt_in_loss false"] if "chat" in told else []
    return " ".join(["./xlab.py fit --data.vocab_size null", *prefixes, *framing])
