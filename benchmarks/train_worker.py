"""One contender of ``train_speed`` in a process of its own: build, warm up, then time a few steps for every turn.

Started by ``train_speed`` with XLab's interpreter or with the peers'. Letters: B batch, T positions.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks.train_models import contender
from benchmarks.train_shape import Shape
from benchmarks.turns import Answer, serve

WARM_UP_STEPS = 3  # the first compiles, the optimiser makes its buffers in it too; the rest settle the allocator
PRODUCT_SIZE = 2048


def main() -> None:
    """Read the contender's name and shape from the command line, and take turns until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="'matmul', or a model and how it runs: xlab-eager, litgpt-compiled, …")
    parser.add_argument("--shape", type=json.loads, required=True, help="the fields of Shape as JSON")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True, help="timed steps in a turn")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.name == "matmul":
        serve(lambda: prepare_matmul(args.steps))
    else:
        model, mode = args.name.split("-")
        serve(lambda: prepare_training(model, Shape(**args.shape), compiled=mode == "compiled", steps=args.steps))


def prepare_training(
    model_name: str, shape: Shape, *, compiled: bool, steps: int
) -> tuple[Answer, Callable[[], Answer]]:
    """Build and warm up; the work of a turn is one step untimed, for the caches, then ``steps`` timed ones."""
    torch.manual_seed(0)
    model, loss_of = contender(model_name, shape, compiled=compiled)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(shape.vocab_size, (shape.batch_size, shape.seq_len + 1), generator=generator)
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()  # (B, T) each
    dtype = matmul_dtype()

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            loss = loss_of(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    def turn() -> Answer:
        step()
        started = time.perf_counter()
        for _ in range(steps):
            loss = step()
        return {"seconds": (time.perf_counter() - started) / steps, "loss": loss}

    started = time.perf_counter()
    losses = [step() for _ in range(WARM_UP_STEPS)]
    introduction = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "first_loss": losses[0],
        "warm_up_seconds": time.perf_counter() - started,
        "precision": f"{dtype} autocast" if dtype is torch.bfloat16 else str(dtype),
        "versions": versions(model_name),
    }
    return introduction, turn


def prepare_matmul(steps: int) -> tuple[Answer, Callable[[], Answer]]:
    """The machine's own limit: square matrix products in the precision that the contenders run in."""
    dtype = matmul_dtype()
    left, right = (torch.randn(PRODUCT_SIZE, PRODUCT_SIZE, dtype=dtype) for _ in range(2))
    product = torch.empty_like(left)

    def turn() -> Answer:
        torch.mm(left, right, out=product)
        products = 10 * steps  # a product is some ten times shorter than a step
        started = time.perf_counter()
        for _ in range(products):
            torch.mm(left, right, out=product)
        return {"seconds": (time.perf_counter() - started) / products}

    turn()
    return {"flops": 2 * PRODUCT_SIZE**3, "precision": str(dtype), "versions": versions("torch")}, turn


def matmul_dtype() -> torch.dtype:
    """bfloat16 where this processor has instructions for it; emulated, it would be slower than float32."""
    capabilities = torch.cpu.get_capabilities()
    native = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if native else torch.float32


def versions(model_name: str) -> dict[str, str]:
    """Python, PyTorch and the package that the model comes from."""
    package = {"llama": "transformers", "plain": "torch"}.get(model_name, model_name)
    try:
        found = version(package)
    except PackageNotFoundError:  # XLab runs from its folder, uninstalled
        found = __import__(package).__version__
    return {"python": platform.python_version(), "torch": torch.__version__, package: found}


if __name__ == "__main__":
    main()
