"""What goes on beside training, by name: each callback stands in a file of its own."""

from xlab.training.checkpointing import BestAndLast
from xlab.training.learning_rates import LearningRates
from xlab.training.progress import Progress
from xlab.training.samples import SampleWriter
from xlab.training.spikes import SkipSpikes, SpikePolicy, StopAtSpike
from xlab.training.stopping import ValidateAtEnd
from xlab.training.throughput import Throughput

__all__ = [
    "BestAndLast",
    "LearningRates",
    "Progress",
    "SampleWriter",
    "SkipSpikes",
    "SpikePolicy",
    "StopAtSpike",
    "Throughput",
    "ValidateAtEnd",
]
