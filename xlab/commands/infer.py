"""./infer.py: text from a checkpoint."""

import re
from typing import Any

import click

from xlab.commands.console import DEBUG_OPTION, one_line_errors

TEMPERATURE, NUCLEUS, BEAMS = 0.8, 0.95, 4


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 110})
@click.argument("checkpoint")
@click.argument("prompt", required=False)
@click.option("-f", "--prompts", default=None, help="File with a prompt in each line; - is standard input.")
@click.option("-l", "--limit", type=int, default=128, help="How many tokens to add at most.")
@click.option("--min-tokens", type=int, default=0, help="How many tokens to add at least.")
@click.option("-n", "--runs", type=int, default=1, help="How many texts to write for each prompt.")
@click.option("-T", "--temperature", type=float, help=f"Divisor of the logits; 0 is greedy.  [default: {TEMPERATURE}]")
@click.option("-k", "--top-k", type=int, help="Draw from the k likeliest tokens only.")
@click.option("-p", "--top-p", type=float, help=f"Draw from a nucleus of this mass.  [default: {NUCLEUS}]")
@click.option("--min-p", type=float, help="Draw from tokens at least so many times as likely as the best.")
@click.option("--typical-p", type=float, help="Draw from the tokens of typical surprise that hold this mass.")
@click.option("--repetition-penalty", type=float, default=1.0, help="Divides the logits of tokens seen before.")
@click.option("--presence-penalty", type=float, default=0.0, help="Subtracted from the logits of tokens generated.")
@click.option("--frequency-penalty", type=float, default=0.0, help="Subtracted for each time they were.")
@click.option("--no-repeat-ngram", type=int, help="No sequence of so many tokens occurs twice.")
@click.option("--stop", multiple=True, help="End the text before this string; may be repeated.")
@click.option("--regex", help="The text must match this regular expression; needs llguidance.")
@click.option("--json-schema", help="The text must be JSON that this file's schema allows; needs llguidance.")
@click.option("-s", "--seed", type=int, help="Makes the draws repeatable.")
@click.option("-g", "--greedy", is_flag=True, help="Take the likeliest token every time.")
@click.option("-b", "--beam-search", is_flag=True, help="Look for the likeliest text.")
@click.option("-w", "--beam-width", type=int, help=f"Beams of -b.  [default: {BEAMS}]")
@click.option("-z", "--length-penalty", type=float, help="Exponent of the length of -b.  [default: 0]")
@click.option("-c", "--continue-text", is_flag=True, help="Continue a text's middle: no start token before the prompt.")
@click.option("--meta", help="What is known about the text, for models that were trained with it.")
@click.option("--ask", is_flag=True, help="PROMPT is what a user says: the model's chat template goes around it.")
@click.option("--truncate", is_flag=True, help="Keep the end of a prompt that is longer than the context.")
@click.option("--rolling", is_flag=True, help="Go on past the context's end, seeing the last tokens.")
@click.option("--chat", is_flag=True, help="Write on together, turn by turn; /help tells more.")
@click.option("--json", "as_json", is_flag=True, help="A JSON line for each prompt: ids, log-probabilities, timings.")
@click.option("--logprobs", type=int, help="With --json: the likeliest tokens to report at each place.")
@click.option("-d", "--device", default="cpu", help="cpu, cuda, cuda:1, mps.")
@click.option("--int8", is_flag=True, help="Hold weights in a byte each.")
@click.option("--bf16", is_flag=True, help="Hold weights and activations in two bytes.")
@click.option(
    "--lookup", type=int, help="Guess so many tokens from what stands before: the same text, in fewer passes."
)
@click.option("--draft", help="Checkpoint of a smaller model that guesses: the same text, in fewer passes.")
@click.option("--draft-tokens", type=int, help="How many tokens --draft guesses at a time.  [default: 4]")
@click.option("--compile", is_flag=True, help="Compile the step of decoding: slow to start, faster to write.")
@click.option("--allow-module", multiple=True, help="Trust the classes of this module that the checkpoint names.")
@click.option(DEBUG_OPTION, is_flag=True, help="Show the traceback of an error.")
def main(checkpoint: str, debug: bool, **options: Any) -> None:
    """Write text after PROMPT with the model of CHECKPOINT: a .ckpt, a .pt, or a run folder (its best).

    \b
    ./infer.py logs/version_0 "The module"                        sample, word by word
    ./infer.py logs/version_0 "The module" -T 0.7 -s 1 -n 3       three texts of a seed
    ./infer.py logs/version_0 "The module" -b -w 8                beam search
    ./infer.py logs/version_0 -f prompts.txt --json               many prompts at once
    ./infer.py logs/version_0 --chat                              by turns
    ./infer.py logs/version_0 --ask "Who are you?"                of a model that was fine-tuned on conversations
    """
    with one_line_errors("infer.py", debug=debug):
        refuse_contradictions(options)
        from xlab.commands.writing import write  # torch, which --help does not need

        write(checkpoint, options)


def refuse_contradictions(options: dict[str, Any]) -> None:
    """Refuse options that cannot go together, before anything is loaded.

    Raises:
        GenerationError: naming both.
    """
    from xlab.errors import GenerationError

    search = "-g" if options["greedy"] else "-b" if options["beam_search"] else None
    if options["greedy"] and options["beam_search"]:
        raise GenerationError("-g and -b are two ways to search; give one of them")
    for name in ("temperature", "top_k", "top_p", "min_p", "typical_p", "seed"):
        if search and options[name] is not None:
            raise GenerationError(f"{search} draws nothing, so {_option(name)} has no meaning with it; leave one out")
    for name in ("beam_width", "length_penalty"):
        if options[name] is not None and not options["beam_search"]:
            raise GenerationError(f"{_option(name)} belongs to beam search; add -b")
    for name in ("regex", "json_schema", "stop"):
        if options[name] and options["beam_search"]:
            raise GenerationError(f"{_option(name)} has no meaning in a beam search; leave -b out")
    if options["regex"] is not None and options["json_schema"] is not None:
        raise GenerationError("--regex and --json-schema are two grammars; give one of them")
    if options["meta"] is not None and options["continue_text"]:
        raise GenerationError("--meta stands at a text's beginning, and -c continues its middle; leave one out")
    if options["logprobs"] is not None and not options["as_json"]:
        raise GenerationError("--logprobs belongs to the JSON lines; add --json")
    for name in ("meta", "continue_text", "chat"):
        if options["ask"] and options[name]:
            raise GenerationError(f"--ask puts the chat template around the prompt, so {_option(name)} has no meaning")
    _refuse_guesses(options)
    if options["int8"] and options["bf16"]:
        raise GenerationError("--int8 and --bf16 are two ways to hold the weights; give one of them")
    if options["prompt"] is not None and options["prompts"] is not None:
        raise GenerationError("a prompt on the command line and --prompts are two sources; give one of them")
    if options["seed"] is not None and not 0 <= options["seed"] < 2**63:
        raise GenerationError(f"-s must be from 0 to 2**63 - 1, got {options['seed']}")
    if options["runs"] < 1:
        raise GenerationError(f"-n must be at least 1, got {options['runs']}")
    if options["runs"] > 1 and (options["greedy"] or options["temperature"] == 0):
        raise GenerationError(
            f"the likeliest tokens make one text, not {options['runs']}; draw, search, or leave -n out"
        )
    if options["beam_search"] and options["runs"] > (options["beam_width"] or BEAMS):
        raise GenerationError(
            f"-n {options['runs']} is more than there are beams; ask for fewer texts, or give -w more"
        )
    if "" in options["stop"]:
        raise GenerationError("--stop is empty, and every text ends before that; give it a text, or leave it out")
    for name in ("prompts", "as_json", "beam_search"):
        if options["chat"] and options[name]:
            raise GenerationError(f"--chat writes turn by turn, so {_option(name)} has no meaning with it")
    if options["chat"] and options["prompt"] is not None:
        raise GenerationError("--chat asks for what you write; leave the prompt out")
    if options["chat"] and options["runs"] > 1:
        raise GenerationError("--chat writes one text; leave -n out")


def _refuse_guesses(options: dict[str, Any]) -> None:
    from xlab.errors import GenerationError

    if options["draft_tokens"] is not None and options["draft"] is None:
        raise GenerationError("--draft-tokens belongs to a draft model; add --draft CHECKPOINT")
    if options["lookup"] is not None and options["draft"] is not None:
        raise GenerationError("--lookup and --draft are two ways to guess; give one of them")
    for name in ("lookup", "draft"):
        if options[name] is not None and (options["beam_search"] or options["runs"] > 1):
            several = "-b" if options["beam_search"] else "-n"
            raise GenerationError(f"{_option(name)} follows one text at a time; leave {several} out")
    for name in ("lookup", "draft_tokens"):
        if options[name] is not None and options[name] < 1:
            raise GenerationError(f"{_option(name)} must be at least 1, got {options[name]}")


def in_options(message: str) -> str:
    """A message of the engine's, in the words of this script: ``--limit`` for ``max_new_tokens``."""
    return _SETTINGS.sub(lambda setting: _OPTIONS[setting.group()], message)


def _option(name: str) -> str:
    return "--" + name.removeprefix("as_").replace("_", "-")


# what the engine's user sets in Python, where it is not a plain word of its messages
_OPTIONS = {
    "max_new_tokens": "--limit",
    "min_new_tokens": "--min-tokens",
    "truncate=True": "--truncate",
    "rolling=True": "--rolling",
    **{name: _option(name) for name in ("top_k", "top_p", "min_p", "typical_p", "no_repeat_ngram", "logprobs")},
    **{name: _option(name) for name in ("repetition_penalty", "presence_penalty", "frequency_penalty")},
    **{name: _option(name) for name in ("beam_width", "length_penalty")},
    "beams.width": "--beam-width",
}
_SETTINGS = re.compile(r"(?<!\w)(" + "|".join(map(re.escape, _OPTIONS)) + r")(?!\w)")
