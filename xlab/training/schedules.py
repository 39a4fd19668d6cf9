"""How the learning rate moves over a run: a factor of the optimiser's own rate, per optimiser step.

Every schedule knows the number of steps of the run it is in, and does not end before it. A resumed run that was made
longer follows, from the step where it goes on, the schedule of the longer run: the factor depends on the step and the
total alone, never on what came before.

A warm-up and a decay are as long as ``warmup_steps``, ``warmup_fraction`` (of the run) or ``warmup_tokens`` say, and
``decay_steps``, ``decay_fraction`` or ``decay_tokens``; one of the three at a time.
"""

import math
from typing import ClassVar

from xlab.errors import ConfigError
from xlab.training.run_length import in_steps


class Schedule:
    """A linear warm-up, then what the subclass decides."""

    # a course that is set knows its lengths in steps
    warmup_fraction: ClassVar[None] = None
    warmup_tokens: ClassVar[None] = None
    decay_fraction: ClassVar[None] = None
    decay_tokens: ClassVar[None] = None

    def __init__(
        self,
        total_steps: int,
        warmup_steps: int | None = None,
        final_factor: float = 0.0,
        *,
        warmup_fraction: float | None = None,
        warmup_tokens: int | None = None,
    ) -> None:
        """Set the course.

        Args:
            total_steps: optimiser steps of the whole run; a ``RunLength`` where tokens are to be counted.
            warmup_steps: steps over which the factor rises linearly to 1; none if not given.
            final_factor: what the factor has come down to when the run is over, where the schedule decays.
            warmup_fraction: the warm-up as a share of the run.
            warmup_tokens: the warm-up in tokens.

        Raises:
            ConfigError: if the warm-up does not fit into the run, or the final factor is not in [0, 1].
        """
        self.total_steps = int(total_steps)
        self.warmup_steps = (
            in_steps("warmup", total_steps, steps=warmup_steps, fraction=warmup_fraction, tokens=warmup_tokens) or 0
        )
        if not 0 <= self.warmup_steps < max(total_steps, 1):
            given = "warmup_steps is"
            if warmup_steps is None:  # as it was given, not as it was reckoned
                name, value = ("tokens", warmup_tokens) if warmup_fraction is None else ("fraction", warmup_fraction)
                given = f"warmup_{name} is {value}, in steps"
            raise ConfigError(
                f"model.schedule.{given} {self.warmup_steps}, which does not fit into a run of {total_steps} steps; "
                "lower it or lengthen the run (trainer.max_steps)"
            )
        if not 0 <= final_factor <= 1:
            raise ConfigError(f"model.schedule.final_factor must be between 0 and 1, got {final_factor}")
        self.final_factor = final_factor

    def __call__(self, step: int) -> float:
        """Give the factor for optimiser step ``step``, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        return self.after_warmup(step)

    def after_warmup(self, step: int) -> float:
        """Give the factor for a step behind the warm-up."""
        raise NotImplementedError

    def down_to_final(self, share: float) -> float:
        """Map 1 … 0 onto 1 … ``final_factor``."""
        return self.final_factor + (1 - self.final_factor) * share


class Decay(Schedule):
    """A warm-up, then down to ``final_factor``, along a curve that the subclass decides.

    The decay lasts until the run ends. Where it is given a length of its own, it may be longer than what is left of the
    run, as of one that is to be lengthened later; a shorter one would leave steps whose rate nobody meant.
    """

    def __init__(
        self,
        total_steps: int,
        warmup_steps: int | None = None,
        final_factor: float = 0.0,
        *,
        warmup_fraction: float | None = None,
        warmup_tokens: int | None = None,
        decay_steps: int | None = None,
        decay_fraction: float | None = None,
        decay_tokens: int | None = None,
    ) -> None:
        """Set the course.

        Args:
            total_steps: optimiser steps of the whole run; a ``RunLength`` where tokens are to be counted.
            warmup_steps: steps over which the factor rises linearly to 1; none if not given.
            final_factor: what the factor has come down to when the decay is over.
            warmup_fraction: the warm-up as a share of the run.
            warmup_tokens: the warm-up in tokens.
            decay_steps: steps of the decay; if not given, all behind the warm-up.
            decay_fraction: the decay as a share of the run.
            decay_tokens: the decay in tokens.

        Raises:
            ConfigError: as ``Schedule``, and if the decay is over before the run.
        """
        super().__init__(
            total_steps, warmup_steps, final_factor, warmup_fraction=warmup_fraction, warmup_tokens=warmup_tokens
        )
        left = self.total_steps - self.warmup_steps
        asked = in_steps("decay", total_steps, steps=decay_steps, fraction=decay_fraction, tokens=decay_tokens)
        if asked is not None and asked < left:
            raise ConfigError(
                f"model.schedule's decay of {asked} steps ends at step {self.warmup_steps + asked}, before the run of "
                f"{total_steps}; lengthen it, leave it out, or shorten the run (trainer.max_steps)"
            )
        self.decay_steps = left if asked is None else asked

    def after_warmup(self, step: int) -> float:
        return self.down_to_final(self.curve(min((step - self.warmup_steps) / max(self.decay_steps, 1), 1.0)))

    def curve(self, progress: float) -> float:
        """Give what is left, 1 … 0, when a share ``progress`` of the decay, 0 … 1, is behind."""
        raise NotImplementedError


class Cosine(Decay):
    """Half a cosine from 1 to ``final_factor`` (Loshchilov & Hutter 2017, arXiv 1608.03983, without restarts)."""

    def curve(self, progress: float) -> float:
        return (1 + math.cos(math.pi * progress)) / 2


class Linear(Decay):
    """A straight line from 1 to ``final_factor``."""

    def curve(self, progress: float) -> float:
        return 1 - progress


class Polynomial(Decay):
    """``(1 - progress) ** power`` from 1 to ``final_factor``."""

    def __init__(
        self,
        total_steps: int,
        warmup_steps: int | None = None,
        final_factor: float = 0.0,
        power: float = 2.0,
        *,
        warmup_fraction: float | None = None,
        warmup_tokens: int | None = None,
        decay_steps: int | None = None,
        decay_fraction: float | None = None,
        decay_tokens: int | None = None,
    ) -> None:
        """Set the course.

        Args:
            total_steps: optimiser steps of the whole run; a ``RunLength`` where tokens are to be counted.
            warmup_steps: steps over which the factor rises linearly to 1; none if not given.
            final_factor: what the factor has come down to when the decay is over.
            power: exponent, > 0; 1 is a straight line.
            warmup_fraction: the warm-up as a share of the run.
            warmup_tokens: the warm-up in tokens.
            decay_steps: steps of the decay; if not given, all behind the warm-up.
            decay_fraction: the decay as a share of the run.
            decay_tokens: the decay in tokens.
        """
        super().__init__(
            total_steps,
            warmup_steps,
            final_factor,
            warmup_fraction=warmup_fraction,
            warmup_tokens=warmup_tokens,
            decay_steps=decay_steps,
            decay_fraction=decay_fraction,
            decay_tokens=decay_tokens,
        )
        if power <= 0:
            raise ConfigError(f"model.schedule.power must be above 0, got {power}")
        self.power = power

    def curve(self, progress: float) -> float:
        return float((1 - progress) ** self.power)


class CosineWithRestarts(Cosine):
    """``num_cycles`` half cosines, each back at 1 where the one before came down (arXiv 1608.03983, section 3).

    The cycles are equally long (T_mult = 1), and all end at ``final_factor``.
    """

    def __init__(
        self,
        total_steps: int,
        warmup_steps: int | None = None,
        final_factor: float = 0.0,
        num_cycles: int = 2,
        *,
        warmup_fraction: float | None = None,
        warmup_tokens: int | None = None,
        decay_steps: int | None = None,
        decay_fraction: float | None = None,
        decay_tokens: int | None = None,
    ) -> None:
        """Set the course.

        Args:
            total_steps: optimiser steps of the whole run; a ``RunLength`` where tokens are to be counted.
            warmup_steps: steps over which the factor rises linearly to 1; none if not given.
            final_factor: what the factor has come down to when a cycle is over.
            num_cycles: how many there are, ≥ 1; each has at least a step.
            warmup_fraction: the warm-up as a share of the run.
            warmup_tokens: the warm-up in tokens.
            decay_steps: steps of all cycles; if not given, all behind the warm-up.
            decay_fraction: all cycles as a share of the run.
            decay_tokens: all cycles in tokens.
        """
        super().__init__(
            total_steps,
            warmup_steps,
            final_factor,
            warmup_fraction=warmup_fraction,
            warmup_tokens=warmup_tokens,
            decay_steps=decay_steps,
            decay_fraction=decay_fraction,
            decay_tokens=decay_tokens,
        )
        if not 1 <= num_cycles <= max(self.decay_steps, 1):
            raise ConfigError(
                f"model.schedule.num_cycles must be between 1 and {self.decay_steps}, the decay's steps, got "
                f"{num_cycles}"
            )
        self.num_cycles = num_cycles

    def curve(self, progress: float) -> float:
        return super().curve(self.num_cycles * progress % 1.0) if progress < 1 else 0.0


class Constant(Schedule):
    """The full rate from the warm-up to the end."""

    def __init__(
        self,
        total_steps: int,
        warmup_steps: int | None = None,
        *,
        warmup_fraction: float | None = None,
        warmup_tokens: int | None = None,
    ) -> None:
        """Set the course.

        Args:
            total_steps: optimiser steps of the whole run; a ``RunLength`` where tokens are to be counted.
            warmup_steps: steps over which the factor rises linearly to 1; none if not given.
            warmup_fraction: the warm-up as a share of the run.
            warmup_tokens: the warm-up in tokens.
        """
        super().__init__(total_steps, warmup_steps, warmup_fraction=warmup_fraction, warmup_tokens=warmup_tokens)

    def after_warmup(self, step: int) -> float:
        return 1.0


class InverseSquareRoot(Schedule):
    """``sqrt(warmup / step)`` (Vaswani et al. 2017, arXiv 1706.03762, section 5.3): no end is built in."""

    def __init__(
        self,
        total_steps: int,
        warmup_steps: int | None = None,
        *,
        warmup_fraction: float | None = None,
        warmup_tokens: int | None = None,
    ) -> None:
        """Set the course.

        Args:
            total_steps: optimiser steps of the whole run; a ``RunLength`` where tokens are to be counted.
            warmup_steps: steps over which the factor rises linearly to 1, ≥ 1; the decay is measured in them. One if
                no length is given.
            warmup_fraction: the warm-up as a share of the run.
            warmup_tokens: the warm-up in tokens.
        """
        if warmup_steps is None and warmup_fraction is None and warmup_tokens is None:
            warmup_steps = 1
        super().__init__(total_steps, warmup_steps, warmup_fraction=warmup_fraction, warmup_tokens=warmup_tokens)
        if self.warmup_steps < 1:
            raise ConfigError("model.schedule.warmup_steps must be at least 1 for InverseSquareRoot, got 0")

    def after_warmup(self, step: int) -> float:
        return math.sqrt((self.warmup_steps + 1) / (step + 1))


class WarmupStableDecay(Schedule):
    """The full rate, then a straight line down over the last part of the run (Hu et al. 2024, arXiv 2404.06395)."""

    def __init__(
        self,
        total_steps: int,
        warmup_steps: int | None = None,
        final_factor: float = 0.0,
        decay_fraction: float | None = None,
        *,
        warmup_fraction: float | None = None,
        warmup_tokens: int | None = None,
        decay_steps: int | None = None,
        decay_tokens: int | None = None,
    ) -> None:
        """Set the course.

        Args:
            total_steps: optimiser steps of the whole run; a ``RunLength`` where tokens are to be counted.
            warmup_steps: steps over which the factor rises linearly to 1; none if not given.
            final_factor: what the factor has come down to when the run is over.
            decay_fraction: share of the run, in (0, 1], that the decay takes at its end; 0.5 if no length is given.
            warmup_fraction: the warm-up as a share of the run.
            warmup_tokens: the warm-up in tokens.
            decay_steps: the decay in steps.
            decay_tokens: the decay in tokens.

        Raises:
            ConfigError: as ``Schedule``, and if warm-up and decay are longer than the run.
        """
        super().__init__(
            total_steps, warmup_steps, final_factor, warmup_fraction=warmup_fraction, warmup_tokens=warmup_tokens
        )
        if decay_fraction is None and decay_steps is None and decay_tokens is None:
            decay_fraction = 0.5
        if decay_fraction is not None and not 0 < decay_fraction <= 1:
            raise ConfigError(f"model.schedule.decay_fraction must be in (0, 1], got {decay_fraction}")
        asked = in_steps("decay", total_steps, steps=decay_steps, fraction=decay_fraction, tokens=decay_tokens) or 0
        left = self.total_steps - self.warmup_steps
        if decay_fraction is not None:  # of a whole run, of which the warm-up has had its part
            asked = min(max(asked, 1), left)
        if not 0 < asked <= max(left, 1):
            raise ConfigError(
                f"model.schedule's decay of {asked} steps does not fit behind a warm-up of {self.warmup_steps} into a "
                f"run of {total_steps}; it must be between 1 and {left}"
            )
        self.decay_steps = max(asked, 1)

    def after_warmup(self, step: int) -> float:
        left = max(self.total_steps - step, 0)
        return self.down_to_final(min(left / self.decay_steps, 1.0))
