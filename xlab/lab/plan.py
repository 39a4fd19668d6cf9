"""What a run will take and see, before anything expensive: counted, computed, measured on a few steps, or estimated."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from xlab import checkpoints, factories
from xlab.errors import ConfigError
from xlab.lab.parameters import by_part
from xlab.lab.plan_course import Course, Settings, make_course, max_seconds
from xlab.lab.plan_data import DataPlan, data_plan
from xlab.lab.plan_lint import Finding, lint
from xlab.lab.plan_memory import StepMemory, step_memory
from xlab.lab.plan_steps import batch_shape
from xlab.lab.plan_time import Spread, StepTimes, measure
from xlab.training.compiling import eager_seconds, pays
from xlab.training.peak import PeakFlops
from xlab.training.precision import device_of
from xlab.training.run_length import RunLength
from xlab.training.schedules import Schedule
from xlab.transformer.flops import flops_per_token
from xlab.transformer.footprint import refuse_beyond_memory
from xlab.transformer.unfilled import unfilled

__all__ = ["Course", "Finding", "Plan", "Settings", "Spread", "StepTimes", "make_plan", "measure"]

OPTIMAL_TOKENS = 20  # per parameter: Hoffmann et al. 2022, arXiv 2203.15556, table 3


@dataclass(frozen=True)
class Plan:
    """A run before it is one. What is None is not known, or was not measured.

    Args:
        settings: what was planned.
        parameters: by part, as ``by_part`` gives them.
        flops_per_token: of training.
        course: steps, tokens, validations.
        data: the corpus.
        memory: of a step, reckoned.
        memory_unknown: why it is not.
        times: of a few real steps.
        schedule: of the learning rate.
        schedule_error: why there can be none.
        findings: of the lint.
    """

    settings: Settings
    parameters: dict[str, int]
    flops_per_token: int
    course: Course
    data: DataPlan
    memory: StepMemory | None = None
    memory_unknown: str | None = None
    times: StepTimes | None = None
    schedule: Schedule | None = None
    schedule_error: str | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def n_parameters(self) -> int:
        """All of them."""
        return sum(self.parameters.values())

    @property
    def non_embedding(self) -> int:
        """All but the embedding and an output projection of its own, as run.json counts them."""
        return self.n_parameters - self.parameters["embedding"] - self.parameters["output"]

    @property
    def training_seconds(self) -> float | None:
        """Of the steps alone."""
        return None if self.times is None or self.course.steps is None else self.times.step.median * self.course.steps

    @property
    def validation_seconds(self) -> float | None:
        """Of all validations."""
        course = self.course
        if self.times is None or course.validations is None or course.validation_batches is None:
            return None
        batch = self.times.validation_batch
        return course.validations * course.validation_batches * (0.0 if batch is None else batch.median)

    @property
    def checkpoint_seconds(self) -> float | None:
        """Of best and last with every validation: what a disk takes comes on top."""
        if self.times is None or self.course.validations is None:
            return None
        return 2 * self.course.validations * self.times.checkpoint

    @property
    def seconds(self) -> Spread | None:
        """Of the whole run, from the process' start, without any preparation of data; by the quartiles of a step."""
        training, validation, checkpoints = self.training_seconds, self.validation_seconds, self.checkpoint_seconds
        if self.times is None or self.course.steps is None or training is None:
            return None
        if validation is None or checkpoints is None:
            return None  # a sum that leaves out what is not known would be no figure
        rest = self.times.start + validation + checkpoints
        step, n = self.times.step, self.course.steps
        return Spread(training + rest, step.low * n + rest, step.high * n + rest, step.n)

    @property
    def checkpoint_bytes(self) -> int | None:
        """Of one checkpoint: weighed where it was measured, else reckoned."""
        if self.times is not None:
            return self.times.checkpoint_bytes
        return None if self.memory is None else self.memory.weights + self.memory.optimizer

    @property
    def optimal_tokens(self) -> int:
        """What a model of this size is best trained on where compute is what limits (Hoffmann et al. 2022)."""
        return OPTIMAL_TOKENS * self.n_parameters


def make_plan(settings: Settings, *, seconds: float | None = 10.0, token_batch: int | None = None) -> Plan:
    """Plan a run; train nothing but a few steps that are forgotten, and write nothing.

    Args:
        settings: the run's.
        seconds: how long to time steps; None times none.
        token_batch: the tokens of a step that are asked for.

    Raises:
        ConfigError: when the settings make no model, or no step of it can be trained.
        DataError: when the corpus is missing.
    """
    with unfilled():
        refuse_beyond_memory(settings.model, checkpoints.build_decoder)
        decoder = checkpoints.build_decoder(settings.model)
    parameters = by_part((name, weight.numel()) for name, weight in decoder.named_parameters())
    flops = flops_per_token(decoder, int(settings.data["seq_len"]))
    data = data_plan(settings.datamodule, settings.root)
    memory, unknown = _memory(settings)
    times = None
    if seconds is not None:
        steps = make_course(settings, data, None).scheduled_steps
        arguments = [*settings.arguments, f"--compile={str(_compiles(settings, flops, steps)).lower()}"]
        times = measure(arguments, seconds=seconds, modules=settings.modules)
    course = make_course(settings, data, times)
    schedule, schedule_error = _schedule(settings, course)
    plan = Plan(settings, parameters, flops, course, data, memory, unknown, times, schedule, schedule_error)
    plan.findings.extend(lint(plan, token_batch=token_batch))
    return plan


def _compiles(settings: Settings, flops_per_token: int, steps: int | None) -> bool:
    """Tell whether the run will be compiled, as far as its length decides."""
    device = device_of(settings.trainer.get("accelerator", "auto"))
    if isinstance(settings.compile, bool) or device is None:
        return settings.compile is True
    rows, seq_len = batch_shape(settings.data)
    tokens = math.inf if steps is None else float(steps * settings.accumulated * rows * seq_len)
    peak = PeakFlops().measured(device, str(settings.trainer.get("precision")))["flops_per_s"]
    limit = max_seconds(settings.trainer.get("max_time"))
    seconds = min(eager_seconds(flops_per_token * tokens, peak), math.inf if limit is None else limit)
    return pays(seconds, int(settings.model["n_layers"]))


def _schedule(settings: Settings, course: Course) -> tuple[Schedule | None, str | None]:
    if course.scheduled_steps is None:
        return None, None
    try:
        length = RunLength(course.scheduled_steps, course.tokens_per_step)
        return factories.build(settings.model["schedule"], length), None
    except (ConfigError, TypeError, ValueError) as error:
        return None, str(error)


def _memory(settings: Settings) -> tuple[StepMemory | None, str | None]:
    try:
        return step_memory(dict(settings.model), dict(settings.data), dict(settings.trainer)), None
    except ConfigError:
        raise
    except Exception as error:  # of a part of the model's own, that must look into its tensors
        return None, f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def as_json(plan: Plan) -> dict[str, Any]:
    """Give a plan as plain data."""
    seconds = plan.seconds
    return {
        "parameters": {**plan.parameters, "total": plan.n_parameters, "non_embedding": plan.non_embedding},
        "flops_per_token": plan.flops_per_token,
        "run": {**asdict(plan.course), "tokens": plan.course.tokens, "epochs": plan.course.epochs},
        "data": asdict(plan.data),
        "memory": {
            "computed": None if plan.memory is None else asdict(plan.memory),
            "measured_peak": None if plan.times is None else plan.times.peak_bytes,
            "not_computed_because": plan.memory_unknown,
        },
        "disk": {"data": plan.data.disk_bytes, "checkpoint": plan.checkpoint_bytes, "checkpoints": 2},
        "time": {
            "measured": None if plan.times is None else plan.times.as_json(),
            "training": plan.training_seconds,
            "validations": plan.validation_seconds,
            "checkpoints": plan.checkpoint_seconds,
            "whole": None if seconds is None else asdict(seconds),
        },
        "compute_optimal_tokens": plan.optimal_tokens,
        "findings": [asdict(finding) for finding in plan.findings],
    }
