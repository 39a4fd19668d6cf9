"""./manage.py import-checkpoint: an XLab checkpoint of a model that someone published."""

import click

from xlab.commands.console import DEBUG_OPTION, one_line_errors


@click.command("import-checkpoint")
@click.argument("source")
@click.option("-o", "--output", default="imports", help="Folder to write to.")
@click.option(
    "--max-len", type=click.IntRange(min=1), help="Context of the model, in tokens; its own if not given.", default=None
)
@click.option("--no-verify", is_flag=True, help="Skip the proof: reading both again, and comparing their logits.")
@click.option(DEBUG_OPTION, is_flag=True, help="Show the traceback of an error.")
def import_checkpoint(source: str, output: str, max_len: int | None, no_verify: bool, debug: bool) -> None:
    """Write a .pt of SOURCE, which ./infer.py, ./serve.py and --model.init_from take.

    SOURCE is a model's folder (config.json, safetensors and tokenizer), its name on the Hugging Face hub, a GGUF file,
    or a folder that export-checkpoint --format safetensors made. The file is named by a hash of its content, and its
    path is the last line printed. It is proved first: the model's own library reads SOURCE again in a fresh process,
    and its logits and tokens are compared.
    """
    with one_line_errors("manage.py import-checkpoint", debug=debug):
        from xlab import checkpoints
        from xlab.interop import huggingface, import_proof

        if not no_verify:
            import_proof.check_libraries(source)
        path, was_there = checkpoints.store(huggingface.import_checkpoint(source, max_len), output)
        if was_there:
            click.echo("the same content is already there")
        if not no_verify:
            try:
                click.echo(import_proof.prove(path, huggingface.local(source)))
            except BaseException:
                if not was_there:
                    path.unlink()
                raise
        click.echo(path)
