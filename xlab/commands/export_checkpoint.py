"""./manage.py export-checkpoint: a model for other programs, proved to be the same."""

import sys

import click

from xlab.commands.console import DEBUG_OPTION, ended_by_signals, one_line_errors

FORMATS = ("pt", "hf", "safetensors", "gguf")
DTYPES = ("keep", "fp32", "bf16", "fp16")
PROOF_FAILED = 1


@click.command("export-checkpoint")
@click.argument("checkpoint")
@click.option("--format", "format_name", type=click.Choice(FORMATS), default="pt", help="What to write.")
@click.option(
    "-o",
    "--output",
    help="File or folder to make; of a pt, the folder to write into. Left out, it is named by content, in exports.",
)
@click.option("--dtype", type=click.Choice(DTYPES), default="keep", help="What to round the weights to; not for pt.")
@click.option(
    "--max-shard-size",
    metavar="SIZE",
    help="Most that a file of weights may hold, such as 5GB (hf's and safetensors' default).",
)
@click.option("--no-verify", is_flag=True, help="Do without the proof.")
@click.option("--allow-module", multiple=True, help="Trust the classes of this module that the checkpoint names.")
@click.option(DEBUG_OPTION, is_flag=True, help="Show the traceback of an error.")
def export_checkpoint(
    checkpoint: str,
    format_name: str,
    output: str | None,
    dtype: str,
    max_shard_size: str | None,
    no_verify: bool,
    allow_module: tuple[str, ...],
    debug: bool,
) -> None:
    """Write a clean copy of CHECKPOINT, for XLab or for other programs, without the optimiser.

    CHECKPOINT is a .ckpt, a .pt, or a run folder (its best). pt is a file of XLab's, named by a hash of its content; hf
    is a folder that transformers and vLLM load; safetensors a folder of XLab's own with nothing to unpickle; gguf a
    file for llama.cpp's family.

    Before an export gets its name, a fresh process reads it again with the other program's own library, and compares
    logits, weights and tokens with those of CHECKPOINT. Where they differ, nothing is left, and the exit status is 1.
    The path is the last line printed.
    """
    with one_line_errors("manage.py export-checkpoint", debug=debug), ended_by_signals():
        from xlab import checkpoints
        from xlab.errors import ConfigError
        from xlab.interop import export
        from xlab.interop.safetensors_writing import size_of

        for module in allow_module:
            checkpoints.allow_module(module)
        try:
            if format_name == "pt":
                if dtype != "keep" or max_shard_size is not None:
                    raise ConfigError(
                        "--dtype and --max-shard-size are for other formats: a pt is the checkpoint's own"
                    )
                path, was_there, proof = export.export_pt(
                    checkpoint, output or "exports", verify=not no_verify, modules=allow_module
                )
                if was_there:
                    click.echo("the same content is already there")
            else:
                options = export.Options(dtype, None if max_shard_size is None else size_of(max_shard_size))
                path, proof = export.export(
                    checkpoint, output, format_name, options=options, verify=not no_verify, modules=allow_module
                )
        except export.ProofError as error:
            click.echo(f"manage.py export-checkpoint: {error}", err=True)
            sys.exit(PROOF_FAILED)
        if proof is not None:
            click.echo(str(proof))
        click.echo(path)
