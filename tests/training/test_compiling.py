"""A compiled pass gives what the uncompiled one does, fails into it, and is taken where a run is long enough."""

import copy
import errno
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_compiler
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._inductor.exc import InvalidCxxCompiler

from tests.tiny import make_model
from xlab.models import XLabModel
from xlab.training import compiling
from xlab.training.activation_checkpointing import recompute
from xlab.training.compiling import CompiledPass, TrainingPass, eager_seconds, obstacle, pays

CPU = torch.device("cpu")


def batch_of(rows: int, length: int, *, documents: bool = False) -> dict[str, Tensor]:
    ids = torch.randint(300, (rows, length + 1), generator=torch.Generator().manual_seed(rows * length))
    batch = {"inputs": ids[:, :-1].contiguous(), "targets": ids[:, 1:].contiguous()}
    if documents:
        batch["documents"] = (torch.arange(length) // 5).expand(rows, -1).contiguous()
    return batch


def compiled(model: XLabModel, **settings: Any) -> tuple[CompiledPass, list[str]]:
    """A pass whose graphs are traced and differentiated, and run without the compiler's own kernels."""
    torch._dynamo.reset()
    said: list[str] = []
    settings = {"backend": "aot_eager", "say": said.append, **settings}
    return CompiledPass(model.decoder, model.objective, **settings), said


def gradients(model: XLabModel, step: TrainingPass, batch: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
    model.zero_grad()
    loss = step(batch)
    loss.backward()
    return loss.detach(), [weight.grad for weight in model.parameters() if weight.grad is not None]


MODELS: dict[str, dict[str, Any]] = {
    "plain": {"n_layers": 1},
    "windows": {"attention": {"class_path": "MultiHeadAttention", "init_args": {"windows": [4, None]}}},
    "ALiBi": {"position": "ALiBi", "n_layers": 1},
    "values": {"block": "EmbeddingShortcutBlock", "value_mix": "ValueResidual"},
}


@pytest.mark.parametrize("documents", [False, True], ids=["one text", "documents"])
@pytest.mark.parametrize("kind", MODELS)
def test_one_graph_gives_the_same_loss_and_gradients(kind: str, documents: bool) -> None:
    model = make_model(**MODELS[kind]).train()
    step, said = compiled(model)
    batch = batch_of(2, 16, documents=documents)
    expected, found = gradients(model, model.training_pass, batch), gradients(model, step, batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert said == []
    graphs = torch._dynamo.explain(step._loss)(batch)
    assert (graphs.graph_count, graphs.graph_break_count) == (1, 0), graphs.break_reasons


# of the compiler's own making, where it traces a function with a backward pass of its own
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("ragged", [False, True])
def test_mixed_precision_is_compiled_with_its_own_attention(ragged: bool) -> None:
    model = make_model(n_layers=1).train()
    step, said = compiled(model, ragged=ragged)
    with torch.autocast("cpu", torch.bfloat16):
        for batch in (batch_of(2, 16), batch_of(3, 12))[: 1 + ragged]:
            expected, found = gradients(model, model.training_pass, batch), gradients(model, step, batch)
            torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
    assert said == []


def test_logits_that_are_made_in_chunks_stay_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "CHUNK_BYTES", 1000)
    monkeypatch.setattr("xlab.training.objectives.CHUNK_BYTES", 10_000)
    model = make_model().train()
    step, said = compiled(model)
    batch = batch_of(2, 16)
    expected, found = gradients(model, model.training_pass, batch), gradients(model, step, batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert said == []


def test_ragged_batches_share_a_graph() -> None:
    model = make_model(n_layers=1).train()
    step, said = compiled(model, ragged=True)
    torch._dynamo.utils.counters.clear()
    for rows, length in ((3, 16), (4, 12), (7, 6)):
        batch = batch_of(rows, length)
        torch.testing.assert_close(step(batch), model.training_pass(batch))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert said == []


def test_recomputed_activations_are_compiled_as_well() -> None:
    model = make_model(n_layers=3).train()
    again = copy.deepcopy(model)
    recompute(again.decoder, every=2)
    step, said = compiled(again)
    batch = batch_of(2, 16)
    expected = gradients(model, model.training_pass, batch)
    torch.testing.assert_close(gradients(again, step, batch), expected, rtol=1e-4, atol=1e-5)
    assert said == []


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("no such instruction\nand much more"), "no such instruction"),
        (OSError(errno.ENOSPC, "No space left on device"), "set TORCHINDUCTOR_CACHE_DIR to a folder"),
    ],
)
def test_what_cannot_be_compiled_runs_as_it_is_and_says_so_once(error: Exception, says: str) -> None:
    def broken(*_: Any) -> Any:
        raise error

    torch._dynamo.reset()
    model = make_model().train()
    said: list[str] = []
    step = CompiledPass(model.decoder, model.objective, say=said.append, backend=broken)  # type: ignore[arg-type]
    batch = batch_of(2, 16)
    for _ in range(2):
        assert torch.equal(step(batch), model.training_pass(batch))
    assert len(said) == 1
    assert said[0].startswith("note: the run goes on uncompiled: ")
    assert says in said[0]
    assert "\n" not in said[0]
    assert not step.is_compiled


def test_a_pass_back_that_cannot_be_compiled_is_found_on_the_way_forth() -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no such instruction")

    torch._dynamo.reset()
    model = make_model().train()
    said: list[str] = []
    backend = aot_autograd(fw_compiler=make_boxed_compiler(lambda graph, _: graph.forward), bw_compiler=broken)
    step = CompiledPass(model.decoder, model.objective, say=said.append, backend=backend)
    batch = batch_of(2, 16)
    expected = gradients(model, model.training_pass, batch)
    torch.testing.assert_close(gradients(model, step, batch), expected)
    assert len(said) == 1
    assert "no such instruction" in said[0]


def test_long_runs_pay_and_deeper_models_take_longer_to() -> None:
    assert not pays(60, n_layers=4)
    assert pays(3600, n_layers=4)
    assert pays(float("inf"), n_layers=1000)
    least = min(seconds for seconds in range(10_000) if pays(seconds, n_layers=6))
    assert compiling.GAIN * least >= compiling.MARGIN * (compiling.SECONDS + 6 * compiling.SECONDS_PER_LAYER)
    assert not pays(least, n_layers=12)
    assert eager_seconds(1e12, 1e12) == pytest.approx(1 / compiling.EAGER_SHARE)


def test_what_stands_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = make_model().decoder
    assert obstacle(plain, CPU, with_documents=True, ragged=False) is None
    assert "every shape" in str(obstacle(plain, CPU, with_documents=True, ragged=True))
    assert "experts" in str(
        obstacle(make_model(feed_forward="MixtureOfExperts").decoder, CPU, with_documents=False, ragged=False)
    )
    assert "flex_attention" in str(obstacle(plain, torch.device("cuda"), with_documents=True, ragged=False))
    with monkeypatch.context() as environment:
        environment.setenv("TORCHDYNAMO_DISABLE", "1")
        assert "unset it" in str(obstacle(plain, CPU, with_documents=False, ragged=False))
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)
    assert "pip install triton" in str(obstacle(plain, torch.device("cuda"), with_documents=False, ragged=False))

    def nothing() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", nothing)
    assert "install g++" in str(obstacle(plain, CPU, with_documents=False, ragged=False))
