"""./infer.py: text from a checkpoint."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from xlab.commands.console import DEBUG_OPTION, one_line_errors

if TYPE_CHECKING:
    import torch

    from xlab.data.tokenizers import Tokenizer
    from xlab.transformer.decoder import Decoder

NUCLEUS = 0.95


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("checkpoint")
@click.argument("prompt", default="")
@click.option("-l", "--limit", type=int, default=128, help="How many tokens to add at most.")
@click.option("-n", "--runs", type=int, default=1, help="How many texts to write.")
@click.option(
    "-T", "--temperature", type=float, default=None, help="Divisor of the logits; 0 is greedy.  [default: 0.8]"
)
@click.option("-k", "--top-k", type=int, default=None, help="Draw from the k likeliest tokens only.")
@click.option(
    "-p", "--top-p", type=float, default=None, help=f"Draw from a nucleus of this mass.  [default: {NUCLEUS}]"
)
@click.option("-s", "--seed", type=int, default=None, help="Makes the draws repeatable.")
@click.option("-g", "--greedy", is_flag=True, help="Take the likeliest token every time.")
@click.option("-b", "--beam-search", is_flag=True, help="Look for the likeliest text.")
@click.option("-w", "--beam-width", type=int, default=None, help="Beams of -b.  [default: 4]")
@click.option("-z", "--length-penalty", type=float, default=None, help="Exponent of the length of -b.  [default: 0]")
@click.option("-d", "--device", default="cpu", help="cpu, cuda, cuda:1, mps.")
@click.option("-c", "--continue-text", is_flag=True, help="Continue a text's middle: no start token before the prompt.")
@click.option("--allow-module", multiple=True, help="Trust the classes of this module that the checkpoint names.")
@click.option(DEBUG_OPTION, is_flag=True, help="Show the traceback of an error.")
def main(checkpoint: str, prompt: str, debug: bool, **options: Any) -> None:
    """Write text after PROMPT with the model of CHECKPOINT: a .ckpt, a .pt, or a run folder (its best).

    \b
    ./infer.py logs/version_0 "The module"                 sample
    ./infer.py logs/version_0 "The module" -T 0.7 -s 1 -n 3
    ./infer.py logs/version_0 "The module" -b -w 8         beam search
    """
    with one_line_errors("infer.py", debug=debug):
        for text in texts(checkpoint, prompt, **options):
            click.echo(text)


def texts(
    checkpoint: str, prompt: str, *, runs: int, device: str, allow_module: tuple[str, ...], **how: Any
) -> Iterator[str]:
    """Write ``runs`` texts: each the prompt and what the model adds.

    Raises:
        GenerationError: for options that cannot mean anything, or contradict each other.
        CheckpointError: if the checkpoint cannot be read.
    """
    from xlab.errors import GenerationError

    _refuse_contradictions(how)
    if runs < 1:
        raise GenerationError(f"-n must be at least 1, got {runs}")

    import torch

    from xlab import checkpoints

    for module in allow_module:
        checkpoints.allow_module(module)
    decoder, tokenizer = checkpoints.load(checkpoint, _device(device))
    ids = ([] if how["continue_text"] else [tokenizer.sos_id]) + tokenizer.encode(prompt)
    if not ids:
        raise GenerationError("an empty prompt has nothing to continue; write some text, or leave out -c")
    generator = torch.Generator(device)
    if how["seed"] is not None:
        generator.manual_seed(how["seed"])
    else:
        generator.seed()
    for _ in range(runs):
        new = _generate(decoder, tokenizer, torch.tensor(ids, device=device), generator, how)
        yield tokenizer.decode(ids + new.tolist())


def _generate(
    decoder: "Decoder", tokenizer: "Tokenizer", ids: "torch.Tensor", generator: "torch.Generator", how: dict[str, Any]
) -> "torch.Tensor":
    from xlab import inference

    # a text never holds a second start, nor padding
    never = [tokenizer.sos_id, tokenizer.pad_id]
    common: dict[str, Any] = {"eos_class": tokenizer.eos_id, "exclude_classes": never}
    if how["beam_search"]:
        width = 4 if how["beam_width"] is None else how["beam_width"]
        penalty = how["length_penalty"] or 0.0
        return inference.beam_search(
            decoder, ids, width, how["limit"], decoder.max_len, length_penalty=penalty, **common
        )
    if how["greedy"]:
        return inference.greedy_search(decoder, ids, how["limit"], decoder.max_len, **common)
    temperature = 0.8 if how["temperature"] is None else how["temperature"]
    draws = {"temperature": temperature, "top_k": how["top_k"], "generator": generator}
    nucleus = NUCLEUS if how["top_p"] is None else how["top_p"]
    return inference.sample(decoder, ids, how["limit"], decoder.max_len, top_p=nucleus, **draws, **common)


def _refuse_contradictions(how: dict[str, Any]) -> None:
    from xlab.errors import GenerationError

    sampling = [name for name in ("temperature", "top_k", "top_p", "seed") if how[name] is not None]
    beams = [name for name in ("beam_width", "length_penalty") if how[name] is not None]
    searching = "-g" if how["greedy"] else "-b" if how["beam_search"] else None
    if how["greedy"] and how["beam_search"]:
        raise GenerationError("-g and -b are two ways to search; give one of them")
    if searching and sampling:
        option = f"--{sampling[0].replace('_', '-')}"
        raise GenerationError(f"{searching} draws nothing, so {option} has no meaning with it; leave one of them out")
    if beams and not how["beam_search"]:
        raise GenerationError(f"--{beams[0].replace('_', '-')} belongs to beam search; add -b")


def _device(name: str) -> "torch.device":
    import torch

    from xlab.errors import GenerationError

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise GenerationError(f"the device {name!r} is not to be had here: {str(error).splitlines()[0]}") from error
    return device
