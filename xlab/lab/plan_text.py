"""A plan in words, for a terminal: a line a figure, and where it comes from."""

from collections.abc import Iterator

from xlab.lab.plan import OPTIMAL_TOKENS, Plan
from xlab.lab.units import size

_WIDTH = 26
UNKNOWN = "not known"


def lines(plan: Plan) -> Iterator[str]:
    """Lay a plan out."""
    for title, rows in (
        ("model", _model(plan)),
        ("run", _run(plan)),
        ("memory of a rank, above what a process takes to start", _memory(plan)),
        ("disk", _disk(plan)),
        ("time", _time(plan)),
    ):
        yield title
        for label, value, source in rows:
            yield f"  {label:<{_WIDTH}}{value:<22}{source}".rstrip()
        yield ""
    for finding in plan.findings:
        yield f"{finding.severity}: {finding.what}: {finding.value}; {finding.remedy}"
    if not plan.findings:
        yield "nothing to remark"


def _model(plan: Plan) -> Iterator[tuple[str, str, str]]:
    for part, count in plan.parameters.items():
        if count:
            yield part, f"{count:,}", ""
    yield "parameters", f"{plan.n_parameters:,}", f"{plan.non_embedding:,} without embeddings; counted"
    yield "FLOPs per token", f"{plan.flops_per_token:.3g}", "of training; counted"


def _run(plan: Plan) -> Iterator[tuple[str, str, str]]:
    course, train = plan.course, plan.data.train
    yield "data", plan.data.origin, plan.data.how
    yield "training tokens", _count(train.tokens), "in the corpus"
    if train.waste is not None:
        yield "packing waste", f"{train.waste:.2%}", "of the positions are padding; counted"
    yield "tokens per step", f"{course.tokens_per_step:,}", "batch × accumulation × ranks × seq_len"
    yield "steps", _count(course.steps), f"{_count(course.steps_per_epoch)} in an epoch"
    epochs = UNKNOWN if course.epochs is None else f"{course.epochs:.2f}"
    yield "epochs", epochs, ""
    yield "tokens seen", _count(course.tokens), _per_parameter(plan)
    if course.tokens is not None:
        yield "FLOPs of the run", f"{course.tokens * plan.flops_per_token:.3g}", ""
    times = _count(course.validations)
    yield "validations", times, f"of {_count(course.validation_batches)} micro-batches"


def _per_parameter(plan: Plan) -> str:
    optimal = f"{OPTIMAL_TOKENS} would be compute-optimal (Hoffmann et al. 2022): {plan.optimal_tokens:,}"
    if plan.course.tokens is None:
        return optimal
    return f"{plan.course.tokens / plan.n_parameters:.2f} per parameter; {optimal}"


def _memory(plan: Plan) -> Iterator[tuple[str, str, str]]:
    memory = plan.memory
    if memory is None:
        yield "computed", UNKNOWN, "a part of the model must see values; --json tells where"
    else:
        yield "weights", size(memory.weights), "computed"
        yield "gradients", size(memory.gradients), "computed"
        yield "optimiser", size(memory.optimizer), "computed"
        masked = ", without the document mask" if plan.settings.data["document_mask"] else ""
        kept = f"kept for the backward pass of a micro-batch; computed{masked}"
        yield "activations", size(memory.activations), kept
        yield "tensors at the peak", size(memory.peak), "all of them, computed; a process takes more"
        yield "KV cache", size(memory.kv_cache), "of one text of full length, when generating; computed"
    if plan.times is None:
        return
    told = UNKNOWN if plan.times.peak_bytes is None else size(plan.times.peak_bytes)
    yield "peak", told, f"measured on {plan.times.device}"


def _disk(plan: Plan) -> Iterator[tuple[str, str, str]]:
    yield "prepared data", _size(plan.data.disk_bytes), plan.data.origin
    one = plan.checkpoint_bytes
    how = "computed" if plan.times is None else "measured"
    yield "checkpoints", _size(None if one is None else 2 * one), f"best and last, {_size(one)} each; {how}"


def _time(plan: Plan) -> Iterator[tuple[str, str, str]]:
    times = plan.times
    if times is None:
        yield "a step", "not measured", ""
        return
    step = times.step
    spread = f"{_seconds(step.low)}–{_seconds(step.high)}, half of {step.n} steps measured on {times.device}"
    yield "a step", _seconds(step.median), spread
    yield "tokens per second", f"{times.tokens_per_second:,.0f}", "measured on random tokens; reading data is left out"
    yield "training", _seconds(plan.training_seconds), ""
    yield "validations", _seconds(plan.validation_seconds), ""
    yield "checkpoints", _seconds(plan.checkpoint_seconds), "without what the disk takes"
    whole = plan.seconds
    if whole is None:
        yield "the run", UNKNOWN, ""
        return
    more = "" if plan.data.origin == "prepared" else "; preparing the data comes on top"
    span = f"{_seconds(whole.low)}–{_seconds(whole.high)}, {_seconds(times.start)} of it to start{more}"
    yield "the run", _seconds(whole.median), span


def _size(n_bytes: int | None) -> str:
    return UNKNOWN if n_bytes is None else size(n_bytes)


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _count(number: int | None) -> str:
    return UNKNOWN if number is None else f"{number:,}"
