"""One contender of ``serve_load`` in a process of its own: clients of a server, or the engine without one.

Started by ``serve_load``. Clients live apart from their server, and import nothing heavy.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.decode_shape import Shape
from benchmarks.serve_clients import exchange, reply_of
from benchmarks.serve_dialects import DIALECTS, Dialect
from benchmarks.serve_shape import FULL, Load
from benchmarks.turns import Answer, serve

WARM_UPS = 2  # waves
PROBES = 5  # prompts fed alone, in a turn of the engine's


def main() -> None:
    """Read contender, shape and load from the command line, and take turns until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="offline, or the dialect of a server")
    parser.add_argument("folder", type=Path, help="with what serve_models wrote")
    parser.add_argument("--shape", type=json.loads, required=True, help="the fields of Shape as JSON")
    parser.add_argument("--load", type=json.loads, required=True, help="the fields of Load as JSON")
    parser.add_argument("--port", type=int, help="of the server, on 127.0.0.1")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--patience", type=float, default=600.0, help="seconds that a wave may take")
    args = parser.parse_args()
    shape, load = Shape(**args.shape), Load(**args.load)
    prompts = json.loads((args.folder / "prompts.json").read_text())[: load.clients]
    if args.name == "offline":
        serve(lambda: prepare_offline(args.folder / "xlab.pt", shape, load, prompts, args.precision, args.threads))
    else:
        address, dialect = ("127.0.0.1", args.port), DIALECTS[args.name]
        serve(lambda: prepare_clients(address, dialect, shape, load, prompts, args.patience))


def prepare_clients(
    address: tuple[str, int], dialect: Dialect, shape: Shape, load: Load, prompts: list[Any], patience: float
) -> tuple[Answer, Callable[[], Answer]]:
    """Clients that each send one streaming request in every wave."""
    requests = [dialect.request(prompt, new_tokens=shape.new_tokens) for prompt in prompts]

    def wave() -> Answer:
        used = _cpu_seconds()
        exchanges = exchange(address, requests, at_once=load.clients, seconds=patience)
        used = _cpu_seconds() - used
        began, texts = min(one.started for one in exchanges), [dialect.read(reply_of(one)) for one in exchanges]
        lengths = {len(text.times) for text in texts}
        if lengths != {shape.new_tokens}:
            raise RuntimeError(f"the server wrote texts of {sorted(lengths)} tokens, not of {shape.new_tokens}")
        return {
            "seconds": max(text.times[-1] for text in texts) - began,
            "client_seconds": used,
            "first": [text.times[0] - one.started for one, text in zip(exchanges, texts, strict=True)],
            "per_token": [(text.times[-1] - text.times[0]) / (len(text.times) - 1) for text in texts],
        }

    started = time.perf_counter()
    for _ in range(WARM_UPS):
        wave()
    return {"warm_up_seconds": time.perf_counter() - started}, lambda: _turn(wave, load)


def prepare_offline(
    checkpoint: Path, shape: Shape, load: Load, prompts: list[Any], precision: str, threads: int
) -> tuple[Answer, Callable[[], Answer]]:
    """The service's engine, which is given the requests of all clients together."""
    import torch

    from benchmarks.serve_models import greedy
    from benchmarks.train_worker import versions
    from xlab import checkpoints
    from xlab.inference import Engine

    torch.set_num_threads(threads)
    decoder, tokenizer = checkpoints.load(checkpoint)
    engine = Engine(decoder, tokenizer, max_rows=FULL.max_rows, dtype="keep" if precision == "fp32" else precision)
    requests = [greedy(prompt["ids"], tokenizer, new_tokens=shape.new_tokens) for prompt in prompts]
    alone = greedy(prompts[0]["ids"], tokenizer, new_tokens=1)

    def wave() -> Answer:
        started = time.perf_counter()
        results = engine.generate(requests)
        seconds = time.perf_counter() - started
        lengths = {len(result.tokens) for result in results}
        if lengths != {shape.new_tokens}:
            raise RuntimeError(f"the engine wrote texts of {sorted(lengths)} tokens, not of {shape.new_tokens}")
        times = [result.timings for result in results]
        return {
            "seconds": seconds,
            "first": [time.first_token for time in times],
            "per_token": [(time.finished - time.first_token) / (shape.new_tokens - 1) for time in times],
        }

    def probe() -> float:
        started = time.perf_counter()
        engine.generate([alone])
        return time.perf_counter() - started

    def turn() -> Answer:
        return {**_turn(wave, load), "prefill": [probe() for _ in range(PROBES)]}

    started = time.perf_counter()
    for _ in range(WARM_UPS):
        wave()
    warm_up = time.perf_counter() - started
    parameters = sum(parameter.numel() for parameter in decoder.parameters())
    return {"parameters": parameters, "warm_up_seconds": warm_up, "versions": versions("xlab")}, turn


def _turn(wave: Callable[[], Answer], load: Load) -> Answer:
    """A contender's figures: seconds add up, and every text keeps its own.

    A wave goes before them: the others' turns have left caches cold, and who sleeps is slow to wake.
    """
    wave()
    waves = [wave() for _ in range(load.waves)]
    return {
        name: sum(wave[name] for wave in waves)
        if isinstance(value, float)
        else [x for wave in waves for x in wave[name]]
        for name, value in waves[0].items()
    }


def _cpu_seconds() -> float:
    """Of this process, in the kernel's work for it too."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
