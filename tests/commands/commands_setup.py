"""A corpus of a few pages and the options of a run of seconds."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


SMALL = {
    "data.source": "JsonLines",
    "data.vocab_size": 300,
    "data.seq_len": 16,
    "data.batch_size": 8,
    "data.prompt_len": 4,
    "data.max_new_tokens": 3,
    "model.d_model": 16,
    "model.n_layers": 1,
    "model.n_heads": 2,
    "model.schedule.warmup_steps": 1,
    # what fit would choose depends on the machine, and losses are compared to fp32 rounding
    "trainer.precision": "32-true",
    "compile": "false",
    "trainer.max_steps": 6,
    "trainer.val_check_interval": 3,
}


def write_corpus(path: Path, n_documents: int = 120) -> Path:
    """Write short, all different documents that a small model can learn from."""
    lines = [
        f'{{"text": "Document {number}: the module counts {number} words, and returns the {number % 7}th of them."}}'
        for number in range(n_documents)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def options(settings: dict[str, object]) -> list[str]:
    return [f"--{key}={value}" for key, value in settings.items()]


def small(corpus: Path, **changes: object) -> list[str]:
    """Give the options of a run of seconds."""
    return options({**SMALL, "data.source.paths": corpus, **{k.replace("__", "."): v for k, v in changes.items()}})
