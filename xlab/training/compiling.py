"""The pass of a micro-batch to its loss, as it is or compiled; and whether compiling pays."""

import errno
import os
from collections.abc import Callable

import torch
from torch import Tensor

from xlab.data.packing import Batch
from xlab.training.objectives import CHUNK_BYTES, Objective
from xlab.transformer.decoder import Decoder
from xlab.transformer.documents import DocumentPlacement
from xlab.transformer.mixture_of_experts import mixtures
from xlab.transformer.placements import Placement

# measured on two cores of an AMD EPYC with AVX512-BF16, torch 2.13; see docs/speed.md
EAGER_SHARE = 0.4  # of the peak's arithmetic that an uncompiled step makes
GAIN = 0.3  # share of a step's time that compiling saves
SECONDS, SECONDS_PER_LAYER = 30.0, 2.0  # of a processor that compiling takes
MARGIN = 2.0  # how often the gain must pay for it: the figures are another machine's


class TrainingPass:
    """From a micro-batch to the sum of its losses, operation by operation.

    Args:
        decoder: that is trained.
        objective: what it is trained to do.
    """

    is_compiled = False

    def __init__(self, decoder: Decoder, objective: Objective) -> None:
        self.decoder, self.objective = decoder, objective

    def __call__(self, batch: Batch) -> Tensor:
        """Give the sum in nats, a scalar; ``batch`` is as an Objective takes it."""
        hidden = self.decoder.hidden(batch["inputs"], documents=batch.get("documents"))
        loss: Tensor = self.objective(hidden, self.decoder.head, batch)
        return loss


class CompiledPass(TrainingPass):
    """The same, compiled as a whole: one graph from the token ids to the loss, if the logits are made at once.

    Where there are too many of them (see ``Objective.forward``) the graph ends at the final states. Graphs are kept for
    one shape, or with ``ragged`` for all: what a step computes must not depend on which shapes came before it, or a
    resumed run would round differently. Validation is not compiled: it is another graph, and short.

    Args:
        decoder: that is trained.
        objective: what it is trained to do.
        ragged: whether micro-batches differ in shape.
        say: is told, in one line, when compiling fails and the run goes on without.
        backend: of ``torch.compile``.
    """

    is_compiled = True

    def __init__(
        self,
        decoder: Decoder,
        objective: Objective,
        *,
        ragged: bool = False,
        say: Callable[[str], None] = print,
        backend: str = "inductor",
    ) -> None:
        super().__init__(decoder, objective)
        self._say = say
        self._compiled_hidden = torch.compile(self._hidden, dynamic=ragged, backend=backend)
        self._compiled_loss = torch.compile(self._loss, dynamic=ragged, backend=backend)

    def __call__(self, batch: Batch) -> Tensor:
        if not self.is_compiled:
            return super().__call__(batch)
        try:
            # a checkpointed block notes in its context what it has found out, and need not note it again
            once = torch._dynamo.config.patch(skip_fwd_side_effects_in_bwd_under_checkpoint=True)
            # the graph of the way back is compiled here, where what fails can be made up for, and not when it is run
            both = torch._functorch.config.patch(force_non_lazy_backward_lowering=True)
            with once, both:
                return self._graph(batch)
        except torch._dynamo.exc.TorchDynamoException as error:
            self.is_compiled = False
            self._say(f"note: the run goes on uncompiled: {_cause(error)}")
            return super().__call__(batch)

    def _graph(self, batch: Batch) -> Tensor:
        if 4 * batch["targets"].numel() * self.decoder.vocab_size <= CHUNK_BYTES:
            return self._compiled_loss(batch)
        loss: Tensor = self.objective(self._compiled_hidden(batch), self.decoder.head, batch)
        return loss

    def _hidden(self, batch: Batch) -> Tensor:
        ids, documents = batch["inputs"], batch.get("documents")
        # whether a row has one document only would have to be looked at, and the compiler cannot
        placement = Placement(ids.size(1), ids.device) if documents is None else DocumentPlacement(documents)
        return self.decoder.hidden_at(ids, placement)

    def _loss(self, batch: Batch) -> Tensor:
        loss: Tensor = self.objective(self._hidden(batch), self.decoder.head, batch)
        return loss


def eager_seconds(flops: float, peak: float) -> float:
    """Reckon how long so much arithmetic takes uncompiled, on a device of such a peak in operations a second."""
    return flops / (EAGER_SHARE * peak)


def pays(seconds: float, n_layers: int) -> bool:
    """Tell whether compiling pays in a run that takes so long uncompiled."""
    return GAIN * seconds > MARGIN * (SECONDS + SECONDS_PER_LAYER * n_layers)


def obstacle(decoder: Decoder, device: torch.device, *, with_documents: bool, ragged: bool) -> str | None:
    """Say why a decoder's training cannot be compiled here; None if it can.

    Args:
        decoder: that is trained.
        device: that it is trained on.
        with_documents: whether batches tell documents apart.
        ragged: whether micro-batches differ in shape.
    """
    for name in ("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE"):  # torch would leave the steps as they are, silently
        if os.environ.get(name) == "1":
            return f"{name} is 1 in the environment; unset it"
    if mixtures(decoder):
        return "the experts of a mixture take as many tokens as the data say, which no compiled graph can"
    if with_documents and ragged:
        return "documents are kept apart by masks of blocks, and batches of every shape would be compiled anew"
    if with_documents and device.type != "cpu":
        return "documents are kept apart by flex_attention, which is compiled by itself"
    if device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            return "there is no C++ compiler; install g++, or name one in CXX"
        return None
    from torch.utils._triton import has_triton

    return None if has_triton() else "there is no triton; pip install triton"


_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


def _cause(error: Exception) -> str:
    """Give the first line of what the compiler found wrong, not of how it wraps it up."""
    inner = getattr(error, "inner_exception", None) or error
    if isinstance(inner, OSError) and inner.errno in _UNWRITABLE:  # the folder that compiled code is kept in
        return f"{inner}; set TORCHINDUCTOR_CACHE_DIR to a folder that can be written and has room"
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    return lines[0] if lines else type(inner).__name__
