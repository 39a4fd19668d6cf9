"""How the learning rate moves over a run: a factor of the optimiser's own rate, per optimiser step.

Every schedule knows the number of steps of the run it is in, and ends where the run ends. A resumed run that was made
longer follows, from the step where it goes on, the schedule of the longer run: the factor depends on the step and the
total alone, never on what came before.
"""

import math

from xlab.errors import ConfigError


class Schedule:
    """A linear warm-up, then what the subclass decides."""

    def __init__(self, total_steps: int, warmup_steps: int = 0, final_factor: float = 0.0) -> None:
        """Set the course.

        Args:
            total_steps: optimiser steps of the whole run.
            warmup_steps: steps over which the factor rises linearly to 1.
            final_factor: what the factor has come down to when the run is over, where the schedule decays.

        Raises:
            ConfigError: if the warm-up does not fit into the run, or the final factor is not in [0, 1].
        """
        if not 0 <= warmup_steps < max(total_steps, 1):
            raise ConfigError(
                f"model.schedule.warmup_steps is {warmup_steps}, which does not fit into a run of {total_steps} steps; "
                "lower it or lengthen the run (trainer.max_steps)"
            )
        if not 0 <= final_factor <= 1:
            raise ConfigError(f"model.schedule.final_factor must be between 0 and 1, got {final_factor}")
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.final_factor = final_factor

    def __call__(self, step: int) -> float:
        """Give the factor for optimiser step ``step``, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        return self.after_warmup(step)

    def after_warmup(self, step: int) -> float:
        """Give the factor for a step behind the warm-up."""
        raise NotImplementedError

    def progress(self, step: int) -> float:
        """Give the share of the decay that is behind ``step``: 0 after the warm-up, 1 when the run is over."""
        return min((step - self.warmup_steps) / (self.total_steps - self.warmup_steps), 1.0)

    def down_to_final(self, share: float) -> float:
        """Map 1 … 0 onto 1 … ``final_factor``."""
        return self.final_factor + (1 - self.final_factor) * share


class Cosine(Schedule):
    """Half a cosine from 1 to ``final_factor`` (Loshchilov & Hutter 2017, arXiv 1608.03983, without restarts)."""

    def after_warmup(self, step: int) -> float:
        return self.down_to_final((1 + math.cos(math.pi * self.progress(step))) / 2)


class Linear(Schedule):
    """A straight line from 1 to ``final_factor``."""

    def after_warmup(self, step: int) -> float:
        return self.down_to_final(1 - self.progress(step))


class Polynomial(Schedule):
    """``(1 - progress) ** power`` from 1 to ``final_factor``."""

    def __init__(self, total_steps: int, warmup_steps: int = 0, final_factor: float = 0.0, power: float = 2.0) -> None:
        """Set the course.

        Args:
            total_steps: optimiser steps of the whole run.
            warmup_steps: steps over which the factor rises linearly to 1.
            final_factor: what the factor has come down to when the run is over.
            power: exponent, > 0; 1 is a straight line.
        """
        super().__init__(total_steps, warmup_steps, final_factor)
        if power <= 0:
            raise ConfigError(f"model.schedule.power must be above 0, got {power}")
        self.power = power

    def after_warmup(self, step: int) -> float:
        return self.down_to_final((1 - self.progress(step)) ** self.power)


class Constant(Schedule):
    """The full rate from the warm-up to the end."""

    def __init__(self, total_steps: int, warmup_steps: int = 0) -> None:
        """Set the course.

        Args:
            total_steps: optimiser steps of the whole run.
            warmup_steps: steps over which the factor rises linearly to 1.
        """
        super().__init__(total_steps, warmup_steps)

    def after_warmup(self, step: int) -> float:
        return 1.0


class InverseSquareRoot(Schedule):
    """``sqrt(warmup / step)`` (Vaswani et al. 2017, arXiv 1706.03762, section 5.3): no end is built in."""

    def __init__(self, total_steps: int, warmup_steps: int = 1) -> None:
        """Set the course.

        Args:
            total_steps: optimiser steps of the whole run.
            warmup_steps: steps over which the factor rises linearly to 1, ≥ 1; the decay is measured in them.
        """
        super().__init__(total_steps, warmup_steps)
        if warmup_steps < 1:
            raise ConfigError("model.schedule.warmup_steps must be at least 1 for InverseSquareRoot, got 0")

    def after_warmup(self, step: int) -> float:
        return math.sqrt((self.warmup_steps + 1) / (step + 1))


class WarmupStableDecay(Schedule):
    """The full rate, then a straight line down over the last part of the run (Hu et al. 2024, arXiv 2404.06395)."""

    def __init__(
        self, total_steps: int, warmup_steps: int = 0, final_factor: float = 0.0, decay_fraction: float = 0.2
    ) -> None:
        """Set the course.

        Args:
            total_steps: optimiser steps of the whole run.
            warmup_steps: steps over which the factor rises linearly to 1.
            final_factor: what the factor has come down to when the run is over.
            decay_fraction: share of the run, in (0, 1], that the decay takes at its end.
        """
        super().__init__(total_steps, warmup_steps, final_factor)
        if not 0 < decay_fraction <= 1:
            raise ConfigError(f"model.schedule.decay_fraction must be in (0, 1], got {decay_fraction}")
        self.decay_fraction = decay_fraction

    def after_warmup(self, step: int) -> float:
        decay_steps = min(round(self.total_steps * self.decay_fraction), self.total_steps - self.warmup_steps)
        left = max(self.total_steps - step, 0)
        return self.down_to_final(min(left / max(decay_steps, 1), 1.0))
