"""The peer of ``serve_load``: ``litgpt serve`` over a model of the same shape, in the peers' environment.

It runs what the command ``litgpt serve --stream true`` runs, on this machine's own address alone, for which the command
has no option. It answers one request after another: its streams are not batched, and it has no option that would.
"""

import argparse
import functools
import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.decode_shape import Shape

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-true"}
PATIENCE = 600  # seconds that a request may wait for those before it; litgpt's default is 30


def main() -> None:
    """Read folder, shape and port from the command line, write a checkpoint and serve it until a signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with the tokenizer.json that serve_models wrote")
    parser.add_argument("--shape", type=json.loads, required=True, help="the fields of Shape as JSON")
    parser.add_argument("--precision", choices=PRECISIONS, required=True)
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    shape = Shape(**args.shape)
    folder = args.folder / "litgpt"
    write_checkpoint(folder, shape, args.folder / "tokenizer.json")
    serve(folder, precision=args.precision, port=args.port, new_tokens=shape.new_tokens)


def write_checkpoint(folder: Path, shape: Shape, tokenizer: Path) -> None:
    """Write a checkpoint folder as litgpt has them, with random weights."""
    import torch
    from litgpt import GPT
    from litgpt.utils import save_config

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = GPT(config_of(shape))
    model.apply(model._init_weights)
    if shape.tied:  # litgpt's option for it binds them when it loads a checkpoint
        model.lm_head.weight = model.transformer.wte.weight
    torch.save(model.state_dict(), folder / "lit_model.pth")
    save_config(model.config, folder)
    shutil.copy(tokenizer, folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    # an id that no logit stands for: no text ends early
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": shape.vocab_size}))


def config_of(shape: Shape) -> Any:
    """litgpt's description of a Llama of this shape."""
    from litgpt import Config

    return Config(
        name="serve_load",
        block_size=shape.max_len,
        n_layer=shape.n_layers,
        n_embd=shape.d_model,
        n_head=shape.n_heads,
        n_query_groups=shape.n_kv_heads,
        vocab_size=shape.vocab_size,
        padded_vocab_size=shape.vocab_size,
        intermediate_size=shape.d_ff,
        mlp_class_name="LLaMAMLP",
        norm_class_name="RMSNorm",
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
    )


def serve(folder: Path, *, precision: str, port: int, new_tokens: int) -> None:
    """Serve as the command does: greedy, streamed, each token as it comes."""
    from litgpt.deploy import serve as deploy

    deploy.LitServer.run = functools.partialmethod(deploy.LitServer.run, host="127.0.0.1")
    deploy.run_server(
        folder,
        precision=PRECISIONS[precision],
        temperature=0.0,
        top_p=0.0,  # with temperature 0: argmax, without a draw
        top_k=None,
        max_new_tokens=new_tokens,
        accelerator="cpu",
        port=port,
        stream=True,
        timeout=PATIENCE,
    )


if __name__ == "__main__":
    main()
