"""Time and memory of ``manage.py compare`` on many long runs: the mark is 100 runs of 10,000 points, 5 s and 500 MB.

    python benchmarks/compare_scale.py

The runs are made up: folders with the files that a run leaves, curves that fall, and some noise.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def write_run(folder: Path, *, variant: int, seed: int, n_points: int) -> None:
    """Write a run of ``n_points`` logged steps, one in twenty of them a validation."""
    draw = random.Random(f"{variant} {seed}")
    folder.mkdir(parents=True)
    settings = yaml.safe_load((ROOT / "conf" / "defaults.yaml").read_text(encoding="utf-8"))
    settings["seed_everything"] = settings["data"]["seed"] = seed
    settings["model"]["optimizer"]["init_args"]["lr"] = 1e-3 * (1 + variant)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    record = {"status": "finished", "commit": "0" * 12, "data_fingerprint": "1" * 32, "flops_per_token": 2_000_000}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    with open(folder / "metrics.jsonl", "w", encoding="utf-8") as file:
        for step in range(n_points):
            loss = 3 + variant / 100 + 5 / (1 + step / 100) + draw.gauss(0, 0.02)
            row = {"step": step, "train/loss": loss, "lr": 1e-3, "tokens_per_s": 9e3 + draw.random(), "epoch": 0}
            if step % 20 == 19:
                row = {"step": step, "val/loss": loss, "val/bits_per_byte": loss / 2, "val/accuracy": 1 / loss}
                row |= {"tokens": 2048.0 * (step + 1), "train_seconds": 0.2 * (step + 1), "epoch": 0}
            file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--variants", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for number in range(given.runs):
            variant, seed = number % given.variants, number // given.variants
            folder = root / "logs" / f"version_{number}"
            write_run(folder, variant=variant, seed=seed, n_points=given.points)
        wanted = ["compare", str(root / "logs"), "-o", str(root / "page.html")]
        command = [sys.executable, str(ROOT / "manage.py"), *wanted]
        seconds = []
        for _ in range(given.repeats):
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - began)
        page = (root / "page.html").stat().st_size
    # of children the greatest; on Linux in KiB, on macOS in bytes
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"{given.runs} runs of {given.points:,} points, {given.variants} variants, {given.repeats} times")
    print(f"seconds, process start included   {min(seconds):.2f} to {max(seconds):.2f}")
    print(f"peak memory                       {peak / 1e6:.0f} MB")
    print(f"page                              {page / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
