"""./manage.py train-tokenizer: the tokenizer of a run, alone, as a tokenizer.json."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from xlab.commands.console import DEBUG_OPTION, one_line_errors
from xlab.commands.data_settings import PASSED_ON, data_of, recipe_and_meta, refuse_prefixes
from xlab.commands.pages import write_whole
from xlab.errors import ConfigError, DataError

if TYPE_CHECKING:
    from xlab.data.splits import Corpus
    from xlab.data.tokenizers import Tokenizer
    from xlab.datamodules import XLabDataModule

_MEASURED = 1 << 23  # bytes of text
_CHARACTERS_AT_ONCE = 1 << 20


@click.command("train-tokenizer", context_settings=PASSED_ON)
@click.option("-o", "--output", default="tokenizer.json", show_default=True, help="File to write to.")
@click.option("--allow-module", multiple=True, help="Trust the classes of this module that a checkpoint names.")
@click.option(DEBUG_OPTION, is_flag=True, help="Show the traceback of an error.")
@click.argument("settings", nargs=-1, type=click.UNPROCESSED)
def train_tokenizer(output: str, settings: tuple[str, ...], allow_module: tuple[str, ...], debug: bool) -> None:
    """Make the tokenizer that ./xlab.py fit would make with these SETTINGS, and write it to a file.

    \b
    ./manage.py train-tokenizer -c conf/data/text.yaml --data.source.paths my.txt --data.vocab_size 8192
    ./manage.py train-tokenizer --data.tokenizer TiktokenEncoding --data.tokenizer.name gpt2 --data.vocab_size null

    SETTINGS are those of fit: -c FILE and --key value, over conf/defaults.yaml. The file is read again by
    --data.tokenizer TokenizerFile --data.tokenizer.path FILE, and by Hugging Face's tokenizers.
    """
    with one_line_errors("manage.py train-tokenizer", debug=debug):
        from xlab import checkpoints

        for module in allow_module:
            checkpoints.allow_module(module)
        path = _place(output)
        datamodule = data_of(settings)
        refuse_prefixes(datamodule)
        tokenizer = train(datamodule)
        n_bytes, n_tokens = fertility(tokenizer, datamodule.corpus)
        write(tokenizer, path)
        click.echo(f"tokens           {len(tokenizer):,}")
        click.echo(f"bytes per token  {n_bytes / n_tokens:.3f} (of the corpus' first {n_bytes:,} bytes)")
        click.echo(f"written to       {path}")


def train(datamodule: "XLabDataModule") -> "Tokenizer":
    """Make a datamodule's tokenizer from its training documents.

    Raises:
        DataError: when the corpus, or a file, cannot give it.
    """
    from xlab.data.preparation import train_tokenizer

    recipe, _ = recipe_and_meta(datamodule)
    return train_tokenizer(recipe, datamodule.corpus, datamodule.vocab_size)


def fertility(tokenizer: "Tokenizer", corpus: "Corpus") -> tuple[int, int]:
    """Encode the beginning of a corpus; return its bytes and its tokens, one of each at least.

    Raises:
        DataError: when the corpus cannot be read, or has no text.
    """
    n_bytes = n_tokens = 0
    for texts in _batches(corpus):
        n_bytes += sum(len(text.encode()) for text in texts)
        n_tokens += sum(map(len, tokenizer.encode_batch(texts)))
        if n_bytes >= _MEASURED:
            break
    if not n_tokens:
        raise DataError("The corpus is empty: its source gives no document with text. Check data.source.")
    return n_bytes, n_tokens


def _batches(corpus: "Corpus") -> Iterator[list[str]]:
    from xlab.data.text_pieces import pieces

    waiting: list[str] = []
    n_waiting = 0
    for assigned in corpus.documents():
        for piece in pieces(assigned.document.text):
            waiting.append(piece)
            n_waiting += len(piece)
            if n_waiting >= _CHARACTERS_AT_ONCE:
                yield waiting
                waiting, n_waiting = [], 0
    yield waiting


def _place(output: str) -> Path:
    """Refuse what cannot be written to, before hours of work for it."""
    path = Path(output).expanduser()
    if path.is_dir():
        raise ConfigError(f"--output {output} is a folder; name a file, such as {path / 'tokenizer.json'}")
    if not path.parent.is_dir():
        raise ConfigError(f"--output {output} is in a folder that does not exist; make {path.parent} first")
    if path.exists():
        raise ConfigError(f"{path} is there already, and stays; remove it, or give --output another name")
    return path


def write(tokenizer: "Tokenizer", path: Path) -> None:
    """Write a tokenizer.json whole or not at all."""
    write_whole(tokenizer.to_json(), path)
