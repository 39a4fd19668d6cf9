"""What looks wrong about a run before it is one: a function for each thing, which says what, and what to do."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from xlab import checkpoints
from xlab.data.packing import BestFit, ContiguousWindows
from xlab.lab.plan_steps import of_a_step, packing_of
from xlab.training.schedules import Constant

if TYPE_CHECKING:
    from xlab.lab.plan import Plan

TOKENS_PER_ENTRY = 50  # of the vocabulary, below which the rarest entries are hardly seen
EPOCHS = 4  # up to here, repeated data are nearly worth new ones: Muennighoff et al. 2023, arXiv 2305.16264
WASTE = 0.1
WARM_UP_SHARE = 0.2
STILL_HIGH = 0.5  # of the peak rate, at the end of a run whose schedule was to come down
# a rate of 6e-4 at a width of 768 (Brown et al. 2020, table 2.1), in inverse proportion to the width (Yang et al. 2022,
# arXiv 2203.03466, for Adam), is taken as usual; recipes lie this factor around it. Muon's falls with the root of the
# width (its updates have a spectral norm), from between Moonlight's (Liu et al. 2025) and that of conf/defaults.yaml
USUAL_RATE, USUAL_WIDTH, HIGHEST_USUAL = 6e-4, 768, 1e-2
USUAL_MUON_RATE = 2.5e-3
RATE_FACTOR = 8
FINE_TUNING = 1e-3  # above it, weights that were trained before are soon lost
_ADAMS = ("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "MuonAdamW")


@dataclass(frozen=True)
class Finding:
    """A line of the lint.

    Args:
        severity: ``error`` (the run would end), ``warning`` or ``note``.
        what: is to be looked at.
        value: that it has.
        remedy: what to do.
    """

    severity: str
    what: str
    value: str
    remedy: str


def lint(plan: "Plan", *, token_batch: int | None = None) -> list[Finding]:
    """Look a plan over; the severest findings come first.

    Args:
        plan: without findings.
        token_batch: the tokens of a step that are asked for.
    """
    found = [finding for rule in _RULES for finding in rule(plan)]
    found += _token_batch(plan, token_batch)
    return sorted(found, key=lambda finding: ("error", "warning", "note").index(finding.severity))


def _end(plan: "Plan") -> Iterator[Finding]:
    trainer = plan.settings.trainer
    if plan.course.scheduled_steps is None and trainer.get("max_epochs") in (None, -1):
        value = f"max_time {trainer['max_time']}" if trainer.get("max_time") else "none"
        yield Finding("error", "end of the run", value, "a schedule needs steps: set trainer.max_steps or max_epochs")


def _warm_up(plan: "Plan") -> Iterator[Finding]:
    if plan.schedule_error is not None:
        yield Finding("error", "model.schedule", plan.schedule_error, "mend the schedule, or lengthen the run")
    schedule, steps = plan.schedule, plan.course.steps
    if schedule is None or not steps:
        return
    warm_up = int(getattr(schedule, "warmup_steps", 0))
    if warm_up >= steps:
        yield Finding(
            "warning",
            "model.schedule.warmup_steps",
            f"{warm_up:,}, and max_time ends the run after some {steps:,} steps",
            "lower it, or give the run more time",
        )
    elif warm_up > WARM_UP_SHARE * steps:
        value = f"{warm_up:,} of {steps:,} steps"
        yield Finding("warning", "model.schedule.warmup_steps", value, "1–10 % of the run is usual: lower it")


def _schedule_end(plan: "Plan") -> Iterator[Finding]:
    schedule, steps = plan.schedule, plan.course.steps
    if schedule is None or not steps:
        return
    if isinstance(schedule, Constant):
        yield Finding("note", "model.schedule", "Constant", "a rate that comes down at the end gives a lower loss")
        return
    peak = max(schedule(step) for step in range(0, steps, max(steps // 1000, 1)))
    last = schedule(steps - 1)
    if steps > 1 and last > STILL_HIGH * peak:
        value = f"at {last / peak:.0%} of its peak when the run ends, at step {steps:,}"
        cut = plan.course.scheduled_steps is not None and steps < plan.course.scheduled_steps
        remedy = (
            f"max_time ends it before its {plan.course.scheduled_steps:,} steps: set trainer.max_steps to {steps}"
            if cut
            else "take a schedule that decays to the end, such as Cosine, or lower final_factor"
        )
        yield Finding("warning", "model.schedule", value, remedy)


def _vocabulary(plan: "Plan") -> Iterator[Finding]:
    size, tokens = plan.settings.datamodule.vocab_size, plan.data.train.tokens
    if tokens is not None and tokens < TOKENS_PER_ENTRY * size:
        value = f"{size:,}, with {tokens:,} tokens to train on: {tokens / size:.0f} for each entry"
        fitting = max(2 ** (max(tokens // TOKENS_PER_ENTRY, 1).bit_length() - 1), 512)
        remedy = f"{fitting:,} or fewer would suit this corpus" if fitting < size else "train on more text"
        yield Finding("warning", "data.vocab_size", value, remedy)


def _rate(plan: "Plan") -> Iterator[Finding]:
    optimizer: Any = plan.settings.model["optimizer"]
    settings: dict[str, Any] = optimizer if isinstance(optimizer, dict) else {"class_path": str(optimizer)}
    name = str(settings.get("class_path", "")).rpartition(".")[2]
    rate = (settings.get("init_args") or {}).get("lr", 1e-3)
    if name not in _ADAMS or not isinstance(rate, int | float):
        return
    width = int(plan.settings.model["d_model"])
    narrowing = USUAL_WIDTH / width
    usual = USUAL_MUON_RATE * narrowing**0.5 if name == "MuonAdamW" else USUAL_RATE * narrowing
    usual = min(usual, HIGHEST_USUAL)
    starts = [key for key in ("init_from", "pretrained") if plan.settings.model.get(key) is not None]
    if starts and rate > FINE_TUNING and plan.settings.model.get("lora") is None:
        value = f"{rate:g}, and model.{starts[0]} gives weights that are trained"
        yield Finding("warning", "model.optimizer.lr", value, "-c conf/extra/finetune.yaml has one for fine-tuning")
        return
    if not usual / RATE_FACTOR <= rate <= usual * RATE_FACTOR:
        side = "above" if rate > usual else "below"
        value = f"{rate:g}, far {side} what is usual at a width of {width}"
        yield Finding("warning", "model.optimizer.lr", value, f"a rule of thumb says {usual:.1e}; try that beside it")


def _token_batch(plan: "Plan", asked: int | None) -> Iterator[Finding]:
    own = plan.course.tokens_per_step
    if asked is None or asked == own:
        return
    settings = plan.settings
    micro_batch = own // settings.accumulated
    value = (
        f"{own:,} tokens ({micro_batch:,} of all ranks × {settings.accumulated} accumulated), and {asked:,} asked for"
    )
    if asked % micro_batch == 0:
        remedy = f"set trainer.accumulate_grad_batches to {asked // micro_batch}"
    else:
        nearest = max(round(asked / micro_batch), 1)
        remedy = f"trainer.accumulate_grad_batches {nearest} gives {nearest * micro_batch:,}; or change data.batch_size"
    yield Finding("warning", "batch × accumulation × ranks", value, remedy)


def _enough_windows(plan: "Plan") -> Iterator[Finding]:
    windows = plan.data.train.windows
    size = packing_of(plan.settings.data).batch_size(int(plan.settings.data["batch_size"]))
    needed = size * (plan.settings.world_size if plan.times is None else plan.times.world_size)
    if windows is not None and windows < needed:
        severity = "error" if plan.data.origin == "prepared" else "warning"
        value = f"{windows:,} windows, and {needed:,} in one micro-batch of all ranks"
        yield Finding(severity, "training data", value, "lower data.batch_size or data.seq_len, or add text")


def _validation_data(plan: "Plan") -> Iterator[Finding]:
    if plan.settings.validates:
        return
    if plan.settings.trainer.get("limit_val_batches") == 0:
        yield Finding("warning", "validation", "trainer.limit_val_batches is 0", "set it to 1.0, or some batches")
    else:
        remedy = "give data.splits.val a share, or set data.val_source"
        yield Finding("warning", "validation data", "none: no best checkpoint, no curve to compare", remedy)


def _validation_time(plan: "Plan") -> Iterator[Finding]:
    training, validation, course = plan.training_seconds, plan.validation_seconds, plan.course
    if training and validation and validation > training:
        value = f"{course.validations} validations take {validation:,.0f} s, and training {training:,.0f} s"
        remedy = "raise trainer.val_check_interval, or set trainer.limit_val_batches"
        yield Finding("warning", "evaluation", value, remedy)


def _interval(plan: "Plan") -> Iterator[Finding]:
    trainer, epoch = plan.settings.trainer, plan.course.steps_per_epoch
    interval = trainer.get("val_check_interval")
    if epoch is None or not isinstance(interval, int) or trainer.get("check_val_every_n_epoch") is None:
        return
    batches = epoch * plan.settings.accumulated
    if plan.settings.validates and interval > batches:
        value = f"{interval:,} micro-batches, and an epoch has {batches:,}"
        remedy = "lower it, or set trainer.check_val_every_n_epoch to null: it then counts through epochs"
        yield Finding("error", "trainer.val_check_interval", value, remedy)


def _checkpoints(plan: "Plan") -> Iterator[Finding]:
    trainer, course = plan.settings.trainer, plan.course
    if trainer.get("enable_checkpointing") is False:
        yield Finding("warning", "checkpoints", "none", "set trainer.enable_checkpointing to true")
    elif plan.settings.validates and course.steps is not None and course.validations is not None:
        if course.validations == 0:
            value = f"trainer.val_check_interval is longer than the run of {course.steps:,} steps"
            yield Finding("warning", "checkpoints", value, "they are written with validations: lower it")
        elif course.validations == 1:
            value = "one, at the end: an interrupted run starts from the beginning"
            yield Finding("warning", "checkpoints", value, "lower trainer.val_check_interval")


def _epochs(plan: "Plan") -> Iterator[Finding]:
    epochs = plan.course.epochs
    if epochs is not None and epochs > EPOCHS:
        value = f"seen {epochs:.1f} times"
        yield Finding(
            "warning", "training data", value, f"beyond {EPOCHS} epochs little is learnt: add text, or end sooner"
        )


def _waste(plan: "Plan") -> Iterator[Finding]:
    waste = plan.data.train.waste
    if waste is not None and waste > WASTE:
        fills = isinstance(packing_of(plan.settings.data), BestFit | ContiguousWindows)
        remedy = "a data.seq_len nearer to the documents' wastes less"
        remedy = remedy if fills else f"data.packing BestFit or ContiguousWindows, or {remedy}"
        yield Finding("warning", "data.packing", f"{waste:.0%} of the positions are padding", remedy)


def _cache(plan: "Plan") -> Iterator[Finding]:
    if plan.data.cache is not None:
        yield Finding("note", "data.cache_dir", plan.data.cache, "the corpus will be prepared when the run starts")


def _context(plan: "Plan") -> Iterator[Finding]:
    """``max_len`` is always ``seq_len``; it may be another than that of the weights a run starts from."""
    path, seq_len = plan.settings.model.get("init_from"), int(plan.settings.data["seq_len"])
    if path is not None:
        trained = int(checkpoints.read(path).model["max_len"])
        if trained != seq_len:
            value = f"{seq_len:,}, and {path} was trained with {trained:,}"
            yield Finding("warning", "data.seq_len", value, f"set it to {trained}, unless other contexts are meant")
    asked = int(plan.settings.data["prompt_len"]) + int(plan.settings.data["max_new_tokens"])
    if asked > seq_len:
        value = f"prompt_len + max_new_tokens is {asked:,}, above seq_len, {seq_len:,}"
        yield Finding("note", "data.max_new_tokens", value, "predict continues on the last seq_len tokens alone")


def _callbacks(plan: "Plan") -> Iterator[Finding]:
    given = plan.settings.trainer.get("callbacks")
    timed = of_a_step(given) or []
    own = [one for one in (given if isinstance(given, list) else [given] if given else []) if one not in timed]
    if own and plan.times is not None:
        paths = (str(one.get("class_path") if isinstance(one, dict) else type(one).__name__) for one in own)
        names = ", ".join(path.rpartition(".")[2] for path in paths)
        yield Finding("note", "trainer.callbacks", names, "not in the figures: steps were timed without them")


def _room(plan: "Plan") -> Iterator[Finding]:
    peak = peak_bytes(plan)
    available = available_bytes(plan)
    if peak is not None and available is not None and peak > available:
        value = f"{peak / 2**30:.1f} GiB, and {available / 2**30:.1f} GiB are free"
        remedy = "lower data.batch_size and raise trainer.accumulate_grad_batches by as much"
        yield Finding("warning", "memory", value, remedy)
    checkpoint = plan.checkpoint_bytes or 0
    needed = 3 * checkpoint + (plan.data.disk_bytes or 0 if plan.data.origin != "prepared" else 0)
    root = next(
        path for path in (plan.settings.root.absolute(), *plan.settings.root.absolute().parents) if path.exists()
    )
    free = shutil.disk_usage(root).free
    if needed > free:  # a new checkpoint is written before an old one goes
        value = f"{needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free in {root}"
        yield Finding("warning", "disk", value, "free some space, or set trainer.default_root_dir")


def peak_bytes(plan: "Plan") -> int | None:
    """The most memory that a rank takes: measured, or else reckoned."""
    if plan.times is not None and plan.times.peak_bytes is not None:
        return plan.times.peak_bytes
    return None if plan.memory is None else plan.memory.peak


def available_bytes(plan: "Plan") -> int | None:
    """Memory that is free for all ranks' needs divided by their number; None where the system does not tell."""
    if plan.times is not None and plan.times.device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(plan.times.device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    free = next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
    return None if free is None else free // plan.settings.world_size


_RULES: list[Callable[["Plan"], Iterator[Finding]]] = [
    _end,
    _warm_up,
    _schedule_end,
    _vocabulary,
    _rate,
    _enough_windows,
    _validation_data,
    _validation_time,
    _interval,
    _checkpoints,
    _epochs,
    _waste,
    _context,
    _cache,
    _callbacks,
    _room,
]
