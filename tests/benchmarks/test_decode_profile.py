"""The profile adds up: its parts are within the step, and its bytes are the model's."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.decode_profile import main
from benchmarks.decode_shape import TINY


def test_a_quick_run_measures_parts_and_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    written = tmp_path / "figures" / "profile.json"
    assert main(["--quick", "--threads", "1", "--only", "fp32", "int8", "--json", str(written)]) == 0
    torch.set_num_threads(threads)
    engines = json.loads(written.read_text())["shapes"]["tiny"]
    assert list(engines) == ["fp32", "int8"]
    for found in engines.values():
        assert found["step"] > 0
        assert found["products"] > 0
        assert found["attention"] > 0
        assert found["bare"] > 0
    matrices = TINY.n_layers * sum(n * k for n, k in TINY.layer_products)
    assert engines["fp32"]["weights"] >= 4 * matrices
    assert matrices <= engines["int8"]["weights"] < engines["fp32"]["weights"]
    head_dim = TINY.d_model // TINY.n_heads
    assert engines["fp32"]["cache"] == 4 * 2 * TINY.n_layers * TINY.n_kv_heads * head_dim * TINY.max_len
    assert "fp32" in capsys.readouterr().out
