"""What infer.py does once its options are known: load, ask the engine, and print as the text comes."""

import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import click
import torch
from tqdm import tqdm

from xlab import checkpoints
from xlab.commands.chat import Conversation, OneText, Talk, chat
from xlab.commands.infer import BEAMS, NUCLEUS, TEMPERATURE, in_options
from xlab.data.chat_template import ChatTemplate
from xlab.data.meta import prompt_ids
from xlab.data.tokenizers import Tokenizer
from xlab.errors import DataError, GenerationError
from xlab.inference import BeamSettings, DraftModel, Engine, Handle, PromptLookup, Request, Result, TokenLogprob
from xlab.inference.constraints import JsonSchemaConstraint, RegexConstraint
from xlab.inference.requests import Timings
from xlab.inference.shaping import Constraint
from xlab.inference.speculation import Guesser
from xlab.inference.weights import Precision

Options = dict[str, Any]
ROWS_AT_ONCE = 16
_UTF8 = "utf-8-sig"  # some editors put a mark before the first line


def write(checkpoint: str, options: Options) -> None:
    """Write what infer.py's ``options`` ask for to standard output.

    Raises:
        GenerationError: for options that cannot be, named as infer.py does.
        CheckpointError: if the checkpoint cannot be read.
        DataError: if the file of prompts cannot be read.
    """
    try:
        _write(checkpoint, options)
    except GenerationError as error:
        raise GenerationError(in_options(str(error))) from error


def _write(checkpoint: str, options: Options) -> None:
    for module in options["allow_module"]:
        checkpoints.allow_module(module)
    device = device_of(options["device"])
    read = checkpoints.read(checkpoint, map_location=device)
    decoder, tokenizer = checkpoints.restore(read, device)
    if options["meta"] is not None:
        options = options | {"max_meta_len": known_meta_len(read)}
    # -c and --meta speak of a text, which goes on
    is_answered = options["ask"] or (options["chat"] and not options["continue_text"] and options["meta"] is None)
    template = template_of(read, tokenizer) if is_answered else None
    if options["ask"] and template is None:
        raise GenerationError(
            "--ask is for models that know a chat template, and this one was never shown a conversation; leave it out"
        )
    # one prompt alone is taken as it is; a file has one in each line
    prompts = [options["prompt"] or ""] if options["prompts"] is None else read_prompts(options["prompts"])
    requests = [] if options["chat"] else [_first(prompt, template, tokenizer, options) for prompt in prompts]
    rows = max([1, *(request.n_rows for request in requests)])
    dtype: Precision = "int8" if options["int8"] else "bf16" if options["bf16"] else "keep"
    engine = Engine(
        decoder,
        tokenizer,
        max_rows=rows if len(requests) < 2 else max(rows, ROWS_AT_ONCE),
        dtype=dtype,
        compile=options["compile"],
        guesser=guesser_of(tokenizer, options, dtype),
    )
    if options["chat"]:
        chat(engine, _talk(template, tokenizer, options | {"rolling": True}, decoder.max_len))
    elif len(requests) == 1 and rows == 1 and not options["as_json"] and not options["beam_search"]:
        stream(engine, "" if options["ask"] else prompts[0], requests[0])
    else:
        n_failed = 0
        for prompt, request, result in answered(engine, prompts, requests):
            n_failed += result.error is not None
            if result.error is not None and len(requests) == 1:
                raise result.error
            if options["as_json"]:
                line = as_json(prompt, request, result, tokenizer) | {"cache_bytes": engine.cache_bytes}
                click.echo(json.dumps(line, ensure_ascii=False))
            elif result.error is not None:
                click.echo(f"{_short(prompt)!r}: {in_options(str(result.error))}", err=True)
            else:
                for completion in result.completions:
                    click.echo(completion.text if options["ask"] else prompt + completion.text)
        if n_failed:
            raise GenerationError(f"{n_failed} of {len(requests)} prompts could not be continued")


def stream(engine: Engine, prompt: str, request: Request) -> None:
    """Print a text as its tokens come: whole characters only, so a terminal never shows half of one."""
    pieces = engine.stream(request)  # refuses what it cannot answer before anything is printed
    click.echo(prompt, nl=False)
    try:
        for piece in pieces:
            click.echo(piece.text, nl=False)
    except (KeyboardInterrupt, GenerationError):
        click.echo()  # what is said of it stands on a line of its own
        raise
    click.echo()


def answered(
    engine: Engine, prompts: Sequence[str], requests: Sequence[Request]
) -> Iterator[tuple[str, Request, Result]]:
    """Answer many requests side by side, in their order, with a progress bar on a terminal."""
    handles = [_submitted(engine, request) for request in requests]
    tokens = sum(request.max_new_tokens * request.n_texts for request in requests)
    with tqdm(total=tokens, desc="Writing", unit="token", leave=False, disable=None) as bar:
        for prompt, request, handle in zip(prompts, requests, handles, strict=True):
            if isinstance(handle, GenerationError):  # of this prompt alone, such as one too long
                yield prompt, request, Result((), len(request.prompt), Timings(0.0, 0.0, 0.0), error=handle)
                continue
            while handle.result is None:
                bar.update(len(engine.step()))
            yield prompt, request, handle.result


def _submitted(engine: Engine, request: Request) -> Handle | GenerationError:
    try:
        return engine.submit(request)
    except GenerationError as error:
        return error


def known_meta_len(checkpoint: checkpoints.Checkpoint) -> int:
    """Tell how many tokens of meta a model was trained with.

    Raises:
        GenerationError: for one that knows no meta.
    """
    found = checkpoints.max_meta_len(checkpoint)
    if found is None:
        raise GenerationError(
            "--meta is for models that were trained with data.meta, and this one was not; leave it out"
        )
    return found


def template_of(checkpoint: checkpoints.Checkpoint, tokenizer: Tokenizer) -> ChatTemplate | None:
    """Make the chat template that a model was fine-tuned with; None for one that knows none."""
    source = checkpoint.info.get("chat_template")
    return ChatTemplate(source, tokenizer) if isinstance(source, str) else None


def _first(prompt: str, template: ChatTemplate | None, tokenizer: Tokenizer, options: Options) -> Request:
    if template is None:
        return request_of(prompt, tokenizer, options)
    return answer_request([("user", prompt)], template, tokenizer, options)


def _talk(template: ChatTemplate | None, tokenizer: Tokenizer, options: Options, max_len: int) -> Talk:
    if template is None:
        return OneText(lambda text: request_of(text, tokenizer, options))
    room = max_len - min(options["limit"], max_len // 2)  # an answer goes on past the context's end, but not at once
    return Conversation(lambda messages: answer_request(messages, template, tokenizer, options), room=room)


def request_of(prompt: str, tokenizer: Tokenizer, options: Options) -> Request:
    """Put a prompt that is continued, and infer.py's options, into the engine's words."""
    _refuse_surrogates(prompt)
    if options["continue_text"]:
        ids = tokenizer.encode(prompt)
    else:
        ids = prompt_ids(tokenizer, prompt, meta=options["meta"], max_meta_len=options.get("max_meta_len"))
    if not ids:
        raise GenerationError("an empty prompt has nothing to continue; write some text, or leave out -c")
    return _request(ids, (), tokenizer, options)


def answer_request(
    messages: Sequence[tuple[str, str]], template: ChatTemplate, tokenizer: Tokenizer, options: Options
) -> Request:
    """Put messages that are answered, each a role and a content, and infer.py's options into the engine's words.

    Raises:
        DataError: when the template does not take them.
    """
    for _, content in messages:
        _refuse_surrogates(content)
    ids, _ = template.prompt_ids(messages)
    return _request(ids, template.turn_ends(), tokenizer, options)


def _refuse_surrogates(prompt: str) -> None:
    if not prompt.isprintable() and any("\ud800" <= character <= "\udfff" for character in prompt):
        raise GenerationError("the prompt is not UTF-8; check your terminal's encoding")


def _request(ids: list[int], ends: Sequence[int], tokenizer: Tokenizer, options: Options) -> Request:
    how: Options = {
        "max_new_tokens": options["limit"],
        "min_new_tokens": options["min_tokens"],
        "n": options["runs"],
        "eos_ids": list(dict.fromkeys([tokenizer.eos_id, *ends])),
        "banned_ids": tokenizer.marker_ids,
        "logprobs": options["logprobs"],
        "stop": options["stop"],
    }
    for name in ("truncate", "rolling", "no_repeat_ngram"):
        how[name] = options[name]
    for name in ("repetition_penalty", "presence_penalty", "frequency_penalty"):
        how[name] = options[name]
    if options["beam_search"]:
        width = BEAMS if options["beam_width"] is None else options["beam_width"]
        how["beams"] = BeamSettings(width=width, length_penalty=options["length_penalty"] or 0.0)
    elif options["greedy"]:
        how["temperature"] = 0.0
    else:
        how["temperature"] = TEMPERATURE if options["temperature"] is None else options["temperature"]
        how["top_p"] = NUCLEUS if options["top_p"] is None else options["top_p"]
        for name in ("top_k", "min_p", "typical_p", "seed"):
            how[name] = options[name]
    return Request(ids, constraint=constraint_of(tokenizer, options), **how)


def guesser_of(tokenizer: Tokenizer, options: Options, dtype: Precision) -> Guesser | None:
    """What guesses ahead, if the options name something.

    Raises:
        CheckpointError: if the draft cannot be read.
        GenerationError: if it speaks another vocabulary.
    """
    if options["lookup"] is not None:
        return PromptLookup(options["lookup"])
    if options["draft"] is None:
        return None
    draft, its_tokenizer = checkpoints.load(options["draft"], device_of(options["device"]))
    if its_tokenizer.fingerprint != tokenizer.fingerprint:
        raise GenerationError(
            f"{options['draft']} has another tokenizer than the model, so its guesses mean something else; take a "
            "draft that was trained with the model's tokenizer"
        )
    return DraftModel(draft, options["draft_tokens"] or 4, dtype=dtype)


def constraint_of(tokenizer: Tokenizer, options: Options) -> Constraint | None:
    """Make the grammar that the text must follow, if one is asked for.

    Raises:
        GenerationError: if it cannot be followed, or llguidance is missing.
        DataError: if the schema cannot be read.
    """
    if options["regex"] is not None:
        return RegexConstraint(options["regex"], tokenizer)
    if options["json_schema"] is not None:
        try:
            schema = Path(options["json_schema"]).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read the schema {options['json_schema']}: {error}") from error
        return JsonSchemaConstraint(schema, tokenizer)
    return None


def as_json(prompt: str, request: Request, result: Result, tokenizer: Tokenizer) -> Options:
    """Give a result as plain data."""
    if result.error is not None:
        return {"prompt": prompt, "error": in_options(str(result.error))}
    texts = [
        {
            "text": completion.text,
            "ids": list(completion.tokens),
            "finish_reason": completion.finish_reason,
            "score": completion.score,
            "logprobs": None
            if completion.logprobs is None
            else [_logprob(token, tokenizer) for token in completion.logprobs],
        }
        for completion in result.completions
    ]
    n_tokens = sum(len(completion.tokens) for completion in result.completions)
    timings = {
        "queued_s": result.timings.started,
        "first_token_s": result.timings.first_token,
        "total_s": result.timings.finished,
        "tokens_per_s": n_tokens / result.timings.finished if result.timings.finished else None,
    }
    return {"prompt": prompt, "prompt_ids": list(request.prompt), "texts": texts, "timings": timings}


def _logprob(token: TokenLogprob, tokenizer: Tokenizer) -> Options:
    return {
        "id": token.token,
        "token": tokenizer.decode([token.token]),
        "logprob": token.logprob,
        "top": [{"id": number, "token": tokenizer.decode([number]), "logprob": value} for number, value in token.top],
    }


def read_prompts(name: str) -> list[str]:
    """Read a prompt from each line that is not empty.

    Raises:
        DataError: if the file cannot be read, is no UTF-8, or has no prompt.
    """
    where = "standard input" if name == "-" else name
    try:
        if name == "-":
            if isinstance(sys.stdin, io.TextIOWrapper):
                sys.stdin.reconfigure(encoding=_UTF8, errors="strict")  # whatever the terminal's encoding is
            lines = _lines(sys.stdin or io.StringIO())  # None where it is closed
        else:
            with open(Path(name).expanduser(), encoding=_UTF8) as file:
                lines = _lines(file)
    except OSError as error:
        raise DataError(f"cannot read the prompts in {where}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8: byte {error.object[error.start]:#04x} at {error.start}") from error
    if not lines:
        raise DataError(f"{where} has no prompts; write one in each line")
    return lines


def _lines(file: TextIO) -> list[str]:
    return [line.rstrip("\r\n") for line in file if line.strip()]


def _short(prompt: str) -> str:
    return prompt if len(prompt) <= 60 else f"{prompt[:60]}…"


def device_of(name: str) -> torch.device:
    """Give the device of that name.

    Raises:
        GenerationError: if it is not to be had here.
    """
    try:
        device = torch.device(name)
        if device.type == "cpu" and device.index:
            raise RuntimeError("there is one cpu, of all cores")
        torch.empty(1, device=device).item()  # the meta device holds nothing
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise GenerationError(f"the device {name!r} is not to be had here: {str(error).splitlines()[0]}") from error
    return torch.device("cpu") if device.type == "cpu" else device  # checkpoints know no cpu:0
