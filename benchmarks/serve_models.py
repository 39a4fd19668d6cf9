"""One model with random weights for ``serve_load``: XLab's checkpoint, its tokenizer, and prompts for both sides.

Run as a process of its own, since ``serve_load`` itself does without torch. The folder then holds ``xlab.pt``,
``tokenizer.json``, ``prompts.json``, and ``expected.json`` where right answers are asked for. ``serve_litgpt`` makes
litgpt's checkpoint over the same tokenizer.
"""

import argparse
import json
import random
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.decode_shape import Shape
from benchmarks.serve_shape import FULL, PRECISIONS
from xlab import checkpoint_writing, checkpoints
from xlab.data.tokenizers import ByteLevelBPE, Tokenizer
from xlab.inference import Engine, Request, Result

N_PROMPTS = 64
CANDIDATES = 8  # prompts tried for each that is kept for its clear text


def main() -> None:
    """Read folder and shape from the command line, and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", type=json.loads, required=True, help="the fields of Shape as JSON")
    parser.add_argument("--expect", type=int, metavar="N", help="also write right answers of N tokens")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the engine that gives them")
    args = parser.parse_args()
    shape = Shape(**args.shape)
    tokenizer = write_checkpoint(args.folder, shape)
    prompts = make_prompts(tokenizer, shape, N_PROMPTS)
    (args.folder / "prompts.json").write_text(
        json.dumps([{"ids": prompt, "text": tokenizer.decode(prompt)} for prompt in prompts])
    )
    if args.expect:
        expected = clear_answers(args.folder / "xlab.pt", shape, precision=args.precision, new_tokens=args.expect)
        (args.folder / "expected.json").write_text(json.dumps(expected))


def write_checkpoint(folder: Path, shape: Shape) -> Tokenizer:
    """Write a checkpoint as ``export-checkpoint`` would, of a model that was never trained."""
    tokenizer = ByteLevelBPE().make(_texts(shape.vocab_size), shape.vocab_size)
    settings: dict[str, Any] = {
        "vocab_size": shape.vocab_size,
        "max_len": shape.max_len,
        "d_model": shape.d_model,
        "n_layers": shape.n_layers,
        "n_heads": shape.n_heads,
        "d_ff": shape.d_ff,
        "tie_embeddings": shape.tied,
    }
    if shape.n_kv_heads != shape.n_heads:
        attention = "xlab.transformer.attention.GroupedQueryAttention"
        settings["attention"] = {"class_path": attention, "init_args": {"n_kv_heads": shape.n_kv_heads}}
    torch.manual_seed(0)
    decoder = checkpoints.build_decoder(settings)
    _scatter(decoder)
    head = checkpoints.header(model=settings, data={}, tokenizer=tokenizer.to_json(), info={"step": 0})
    weights = {checkpoints.DECODER_PREFIX + name: weight for name, weight in decoder.state_dict().items()}
    checkpoint_writing.write({"xlab": head, "state_dict": weights}, folder / "xlab.pt")
    tokenizer.save(folder / "tokenizer.json")
    return tokenizer


def make_prompts(tokenizer: Tokenizer, shape: Shape, n: int) -> list[list[int]]:
    """Draw prompts of whole words, which come back as the same tokens when another tokenizes their text."""
    words = [token for token in range(len(tokenizer)) if _is_word(tokenizer.token_bytes(token))]
    words = [token for token in words if tokenizer.encode(tokenizer.decode([token])) == [token]]
    draw = random.Random(1)
    prompts = [draw.choices(words, k=shape.prompt_len) for _ in range(n)]
    if any(tokenizer.encode(tokenizer.decode(prompt)) != prompt for prompt in prompts):
        raise RuntimeError("a prompt's text is not tokenized as the prompt")
    return prompts


def clear_answers(checkpoint: Path, shape: Shape, *, precision: str, new_tokens: int) -> list[dict[str, Any]]:
    """Write texts offline, and keep those whose every token won by the most.

    Where two tokens are nearly as likely, who wins depends on who else is in the batch, and no answer is wrong.
    """
    decoder, tokenizer = checkpoints.load(checkpoint)
    engine = Engine(decoder, tokenizer, max_rows=FULL.max_rows, dtype="keep" if precision == "fp32" else precision)
    prompts = make_prompts(tokenizer, shape, N_PROMPTS * CANDIDATES)
    results = engine.generate([greedy(prompt, tokenizer, new_tokens=new_tokens, logprobs=2) for prompt in prompts])
    answers = [
        {"prompt": prompt, "ids": list(result.tokens), "text": result.text, "margin": _margin(result)}
        for prompt, result in zip(prompts, results, strict=True)
    ]
    answers.sort(key=lambda answer: -answer["margin"])
    return answers[:N_PROMPTS]


def greedy(prompt: list[int], tokenizer: Tokenizer, *, new_tokens: int, logprobs: int | None = None) -> Request:
    """The request that the service makes of such a body: greedy, and not ended by EOS."""
    return Request(
        prompt,
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        temperature=0.0,
        eos_ids=[tokenizer.eos_id],
        banned_ids=[tokenizer.sos_id, tokenizer.pad_id],
        logprobs=logprobs,
    )


def _margin(result: Result) -> float:
    """By how much, in nats, the closest of all choices was won."""
    if result.error is not None:
        raise result.error
    margins = []
    for scored in result.best.logprobs or ():
        others = [logprob for token, logprob in scored.top if token != scored.token]
        margins.append(scored.logprob - max(others))
    return min(margins)


def _scatter(decoder: nn.Module) -> None:
    """Draw every matrix anew, so that texts wander and hang on the whole prompt.

    An untrained model's last projections are zero, and it says one token again and again.
    """
    for weight in decoder.parameters():
        if weight.dim() == 2:
            nn.init.normal_(weight, std=weight.size(1) ** -0.5)


def _texts(vocab_size: int) -> Iterator[str]:
    """Words drawn at random, enough of them for a vocabulary."""
    draw = random.Random(0)
    for _ in range(max(vocab_size, 500)):
        word = "".join(draw.choices(string.ascii_lowercase, k=draw.randint(1, 7)))
        yield f" {word} {word}"


def _is_word(token: bytes) -> bool:
    return len(token) > 1 and token[:1] == b" " and token[1:].isalpha() and token.isascii()


if __name__ == "__main__":
    main()
