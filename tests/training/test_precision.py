"""A run takes bf16 where the device has it, and a precision that it lacks is refused in one line."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from xlab.errors import ConfigError
from xlab.training.precision import device_of, fast_dtype, fast_precision, refuse_imitated

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def has(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a processor of some instructions, or a GPU of a generation."""

    def give(*instructions: str, capability: tuple[int, int] = (7, 0)) -> None:
        known = dict.fromkeys(instructions, True)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")

    return give


@pytest.mark.parametrize("instructions", ["avx512_bf16", "amx_bf16", "bf16"])
def test_bf16_where_the_processor_has_it(has: Any, instructions: str) -> None:
    has(instructions)
    assert fast_precision(CPU) == "bf16-mixed"
    assert fast_dtype(CPU) == torch.bfloat16
    refuse_imitated("bf16-mixed", CPU)
    has("avx512_f", "avx2")
    assert fast_precision(CPU) == "32-true"
    assert fast_dtype(CPU) == torch.float32


def test_bf16_from_ampere_on(has: Any) -> None:
    has(capability=(8, 0))
    assert fast_precision(GPU) == "bf16-mixed"
    has(capability=(7, 5))
    assert fast_precision(GPU) == "32-true"
    assert fast_precision(torch.device("mps")) == "32-true"


@pytest.mark.parametrize(
    ("precision", "device", "says"),
    [
        ("bf16-mixed", CPU, "this processor has no instructions for it"),
        ("bf16", CPU, "trainer.precision bf16-mixed is bf16"),
        ("bf16-true", GPU, "this Tesla V100 has no instructions for it"),
        ("16-mixed", CPU, "a processor trains in no fp16"),
        ("16", CPU, "trainer.precision 16-mixed is fp16"),
        ("transformer-engine", CPU, "fp8, and that needs a GPU"),
        ("transformer-engine-float16", GPU, "fp8, and that needs a GPU"),
    ],
)
def test_what_a_device_lacks_is_refused(has: Any, precision: str, device: torch.device, says: str) -> None:
    has()
    with pytest.raises(ConfigError, match=says) as caught:
        refuse_imitated(precision, device)
    assert "take 32-true, or leave it out" in str(caught.value)


@pytest.mark.parametrize(("precision", "device"), [("32-true", CPU), ("64", CPU), ("16-mixed", GPU), ("32", GPU)])
def test_what_a_device_has_passes(has: Any, precision: str, device: torch.device) -> None:
    has()
    refuse_imitated(precision, device)


def test_the_device_that_lightning_would_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends, "mps", SimpleNamespace(is_available=lambda: False))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == device_of("cpu") == CPU
    assert device_of("gpu") is device_of("tpu") is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert device_of("auto") == device_of("gpu") == GPU
    assert device_of("cpu") == CPU
