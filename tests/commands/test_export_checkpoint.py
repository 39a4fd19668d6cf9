"""export-checkpoint: what it prints, what it refuses in one line, and what it leaves."""

import os
import signal
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from xlab import checkpoints
from xlab.commands.export_checkpoint import export_checkpoint
from xlab.interop import export as exports
from xlab.interop.proof import Proof

sys.path.append(str(Path(__file__).parents[1] / "interop"))
import small_models

FAILED = Proof("a library", 9, 0.5, 2e-5, 0.0, 0.0, "", 3, None)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small Llama."""
    folder = tmp_path_factory.mktemp("llama")
    return small_models.write(folder / "a.pt", small_models.settings_of("llama"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(export_checkpoint, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("manage.py export-checkpoint: error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_without_a_format_it_writes_a_pt_named_by_content(llama: Path, tmp_path: Path) -> None:
    result = run(llama, "-o", tmp_path, "--no-verify")
    assert result.exit_code == 0, result.output
    path = Path(result.stdout.splitlines()[-1])
    assert os.listdir(tmp_path) == [path.name]
    assert checkpoints.content_hash(checkpoints.read(path)) == checkpoints.content_hash(checkpoints.read(llama))
    again = run(llama, "-o", tmp_path, "--no-verify")
    assert again.stdout.splitlines() == ["the same content is already there", str(path)]


def test_the_proof_is_printed_and_then_the_path(llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="the proof reads the export with it")
    result = run(
        llama, "--format", "safetensors", "-o", tmp_path / "made", "--dtype", "bf16", "--max-shard-size", "20kB"
    )
    assert result.exit_code == 0, result.output
    proof, path = result.stdout.splitlines()
    assert proof.startswith("read again by safetensors")
    assert "limit 0.062" in proof
    assert path == str(tmp_path / "made")
    assert len(list((tmp_path / "made").glob("model-*.safetensors"))) > 1


def test_a_failed_proof_is_status_1_and_leaves_nothing(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "prove", lambda *_, **__: FAILED)
    result = run(llama, "--format", "safetensors", "-o", tmp_path / "made")
    assert result.exit_code == 1
    assert "the export is not the model, and was removed" in result.stderr
    assert os.listdir(tmp_path) == []


def test_sigterm_leaves_nothing(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "prove", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    assert run(llama, "--format", "safetensors", "-o", tmp_path / "made").exit_code == 143
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--dtype", "bf16"], "are for other formats"),
        (["--max-shard-size", "1GB"], "are for other formats"),
        (["--format", "gguf", "--max-shard-size", "1GB"], "a GGUF is one file"),
        (["--format", "hf", "--max-shard-size", "much"], "'much' is no size"),
    ],
)
def test_options_that_mean_nothing_are_refused(llama: Path, tmp_path: Path, options: list[str], said: str) -> None:
    assert said in refused(llama, "-o", tmp_path / "made", *options)
    assert os.listdir(tmp_path) == []


def test_what_is_there_is_not_touched(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "made").write_text("mine")
    assert "made exists; remove it" in refused(llama, "--format", "hf", "-o", tmp_path / "made")
    assert (tmp_path / "made").read_text() == "mine"


def test_a_pickle_is_refused_without_being_run(tmp_path: Path) -> None:
    import pickle

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "a.ckpt").write_bytes(pickle.dumps({"state_dict": Payload()}))
    assert "would have to be unpickled" in refused(tmp_path / "a.ckpt", "--format", "gguf", "-o", tmp_path / "made")
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_parts_without_an_equal_are_named(tmp_path: Path) -> None:
    small_models.write(
        tmp_path / "a.pt", {**small_models.settings_of("llama"), "feed_forward": "ReLUSquaredFeedForward"}
    )
    said = refused(tmp_path / "a.pt", "--format", "hf", "-o", tmp_path / "made", "--no-verify")
    assert "nearest is Llama" in said
    assert "feed_forward ReLUSquaredFeedForward" in said
