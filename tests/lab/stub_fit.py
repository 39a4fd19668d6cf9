"""What stands for ``xlab.py fit`` where the training itself is not what is tested: a run's files, in no time.

    python stub_fit.py -c settings.yaml --trainer.default_root_dir=FOLDER [--ckpt_path=FILE]

Without more, wider models and a rate nearer to 0.01 end at a lower loss. The settings' ``stub`` says otherwise:
``loss`` at the end, ``hold_at`` a step to wait at until there is a file ``go``, ``fail_at`` a step to fail at.
"""

import json
import math
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import yaml


def main(arguments: list[str]) -> None:
    """Write what a run would."""
    settings = yaml.safe_load(Path(arguments[arguments.index("-c") + 1]).read_text(encoding="utf-8"))
    told = dict(word.split("=", 1) for word in arguments if "=" in word)
    root, checkpoint = Path(told["--trainer.default_root_dir"]), told.get("--ckpt_path")
    first = json.loads(Path(checkpoint).read_text(encoding="utf-8"))["step"] if checkpoint else 0
    folder = root / "logs" / f"version_{len(list(root.glob('logs/version_*')))}"
    (folder / "checkpoints").mkdir(parents=True)
    record = {"status": "running", "process": os.getpid(), "host": socket.gethostname(), "first_step": first}
    record |= {"resumed_from": checkpoint, "non_embedding_parameters": 100}
    _write(folder / "run.json", record)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    stub, steps = settings.get("stub") or _of(settings["model"]), settings["trainer"]["max_steps"]
    for step in range(first, steps):
        if step == stub.get("hold_at"):
            _wait(Path(stub["go"]))
        if step == stub.get("fail_at"):
            print("step 3/6  loss 9.9\nxlab.py fit: error: the loss is nan", file=sys.stderr)
            _write(folder / "run.json", {**record, "status": "failed", "error": "the loss is nan", "last_step": step})
            sys.exit(2)
        loss = stub["loss"] + (steps - step - 1) / 10 + settings["seed_everything"] % 100 / 1e5
        line = {"step": step, "val/bits_per_byte": loss, "val/loss": 2 * loss, "tokens": step + 1, "train_seconds": 1.0}
        with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        _write(folder / "checkpoints" / "last.ckpt", {"step": step + 1})
    _write(folder / "run.json", {**record, "status": "finished", "last_step": steps})


def _of(model: Any) -> dict[str, float]:
    rate = model["optimizer"]["init_args"]["lr"]
    failing = {"fail_at": 1.0} if rate > 1 else {}
    return {"loss": 1.5 + model["d_model"] ** -0.5 + abs(math.log10(rate) + 2) / 10, **failing}


def _wait(go: Path) -> None:
    until = time.monotonic() + 60  # a test that failed leaves nothing behind for long
    while not go.exists() and time.monotonic() < until:
        time.sleep(0.01)


def _write(path: Path, content: object) -> None:
    scratch = path.with_suffix(".part")
    scratch.write_text(json.dumps(content), encoding="utf-8")
    os.replace(scratch, path)


if __name__ == "__main__":
    main(sys.argv[1:])
