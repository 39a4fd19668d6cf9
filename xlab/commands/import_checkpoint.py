"""./manage.py import-checkpoint: an XLab checkpoint of a model that someone published."""

from pathlib import Path

import click

from xlab.commands.console import DEBUG_OPTION, ended_by_signals, one_line_errors


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
    with one_line_errors("manage.py import-checkpoint", debug=debug), ended_by_signals():
        from xlab.interop import export, huggingface, import_proof

        if not no_verify:
            import_proof.check_libraries(source)

        def proved(made: Path) -> str | None:
            return None if no_verify else import_proof.prove(made, huggingface.local(source))

        path, was_there, proof = export.store_proved(huggingface.import_checkpoint(source, max_len), output, proved)
        if was_there:
            click.echo("the same content is already there")
        if proof is not None:
            click.echo(proof)
        click.echo(path)
