"""The parts of examples/own_part.py are causal, equal with a cache and without, trained by fit, and named in files."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.conftest import ROOT
from xlab import checkpoints, trusted_classes
from xlab.errors import CheckpointError
from xlab.transformer.decoder import Decoder

PARTS: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "own_part.yaml").read_text(encoding="utf-8"))["model"]
SIZES = {"vocab_size": 23, "max_len": 12, "d_model": 16, "n_layers": 2, "n_heads": 2}


@pytest.fixture(params=[*PARTS, "all"])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    """A model with one of the parts, or with all of them, whose weights are large enough to matter."""
    torch.manual_seed(0)
    own = PARTS if request.param == "all" else {request.param: PARTS[request.param]}
    made = checkpoints.build_decoder(SIZES | own).eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter += 0.3 * torch.randn_like(parameter)
    return made


def test_a_token_changes_nothing_before_it(decoder: Decoder) -> None:
    ids = torch.randint(23, (2, 12))
    other = ids.clone()
    other[:, 7] = (ids[:, 7] + 1) % 23
    before, after = decoder(ids), decoder(other)
    torch.testing.assert_close(before[:, :7], after[:, :7], rtol=0, atol=1e-5)
    assert not torch.allclose(before[:, 7:], after[:, 7:], atol=1e-3)


def test_decoding_with_a_cache_is_one_pass(decoder: Decoder) -> None:
    ids = torch.randint(23, (2, 12))
    cache = decoder.make_cache(2)
    steps = [decoder(ids[:, :5], cache), *(decoder(ids[:, i : i + 1], cache) for i in range(5, 12))]
    torch.testing.assert_close(torch.cat(steps, dim=1), decoder(ids), rtol=1e-4, atol=1e-4)


def test_packed_documents_are_as_if_alone(decoder: Decoder) -> None:
    ids = torch.randint(23, (1, 12))
    documents = torch.tensor([[0] * 5 + [1] * 7])
    packed = decoder(ids, documents=documents)
    alone = torch.cat([decoder(ids[:, :5]), decoder(ids[:, 5:])], dim=1)
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-4)


def test_what_was_made_without_content_fills_itself(decoder: Decoder) -> None:
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.fill_(float("nan"))
    decoder.reset_parameters()
    assert torch.isfinite(decoder(torch.randint(23, (1, 4)))).all()


def test_fit_trains_them_and_a_checkpoint_asks_for_its_reader_s_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text("".join(f"The {i}th line of {i * i} says {i % 7}.\n\n" for i in range(300)))
    command = [sys.executable, str(ROOT / "xlab.py"), "fit", "-c", "examples/own_part.yaml"]
    command += ["--data.source=TextFiles", f"--data.source.paths={tmp_path / 'text.txt'}"]
    command += ["--data.source.section_chars=64", f"--data.cache_dir={tmp_path / 'cache'}", "--data.vocab_size=280"]
    command += ["--data.seq_len=16", "--data.batch_size=4", "--model.d_model=16", "--model.n_layers=2"]
    command += ["--model.n_heads=2", "--model.schedule.warmup_steps=1", "--trainer.max_steps=4"]
    command += ["--trainer.val_check_interval=2", f"--trainer.default_root_dir={tmp_path}", "--trainer.accelerator=cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    run = tmp_path / "logs" / "version_0"
    monkeypatch.setattr(trusted_classes, "_allowed", set(trusted_classes._allowed))
    with pytest.raises(CheckpointError, match=r"examples\.own_part\.\w+, whose code is not XLab's.*--allow-module"):
        checkpoints.load(run)
    checkpoints.allow_module("examples.own_part")
    decoder, tokenizer = checkpoints.load(run)
    assert torch.isfinite(decoder(torch.tensor([tokenizer.encode("The line")]))).all()
    assert {type(block).__name__ for block in decoder.blocks} == {"ReZeroBlock"}
