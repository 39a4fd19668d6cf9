"""import-checkpoint, and fit from a published model: weights and tokenizer go along, and the folder need not."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from commands_setup import ROOT, options

from tests.interop.folders import change_config, write_folder
from xlab import checkpoints, inference
from xlab.commands.lightning_cli import run
from xlab.commands.manage import main
from xlab.data.tokenizers import Tokenizer
from xlab.errors import ConfigError, XLabError
from xlab.interop import huggingface, import_proof
from xlab.interop.errors import ConversionError
from xlab.models import XLabModel

pytest.importorskip("transformers", reason="the folders are made by transformers, which also proves the import")

RUN = {
    "data.source": "JsonLines",
    "data.seq_len": 16,
    "data.batch_size": 8,
    "model.schedule.warmup_steps": 1,
    "trainer.max_steps": 6,
    "trainer.val_check_interval": 3,
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "gpt2"
    write_folder(folder)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def import_it(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["import-checkpoint", *map(str, arguments)])


def fit(corpus: Path, *given: str, **changes: object) -> None:
    settings = {**RUN, "data.source.paths": corpus, **{key.replace("__", "."): value for key, value in changes.items()}}
    run("fit", [*options(settings), *given])


def restored(checkpoint: checkpoints.Checkpoint) -> Tokenizer:
    return checkpoints.restore_tokenizer(checkpoint)


def last(number: int = 0) -> checkpoints.Checkpoint:
    return checkpoints.read(f"logs/version_{number}/checkpoints/last.ckpt")


class TestImport:
    def test_a_file_named_by_content_and_proved(self, published: Path, here: Path) -> None:
        done = import_it(published)
        assert done.exit_code == 0, done.output
        proof, path = done.output.splitlines()[-2:]
        assert "read by transformers" in proof
        assert Path(path).parent.name == "imports"
        model = XLabModel.load_from_checkpoint(path).eval()
        assert len(inference.sample(model, torch.tensor([0]), 3, model.max_len)) == 3
        again = import_it(published, "--no-verify")
        assert again.output.splitlines()[0] == "the same content is already there"
        assert again.output.splitlines()[-1] == path
        size = sum(weight.nbytes for weight in checkpoints.read(path).weights.values())
        tokenizer = len(checkpoints.read(path).tokenizer.encode())
        assert Path(path).stat().st_size < 1.02 * (size + tokenizer) + 20_000  # a header, and each tensor's name

    def test_padded_rows_and_a_start_among_them(self, here: Path) -> None:
        write_folder(here / "model", "qwen2", n_rows=320, shard="20KB", tie_word_embeddings=True)
        done = import_it("model", "--max-len", 32)
        assert done.exit_code == 0, done.output
        assert checkpoints.read(done.output.splitlines()[-1]).model["max_len"] == 32

    @pytest.mark.parametrize("kind", ["gguf", "safetensors"])
    def test_other_formats(self, published: Path, here: Path, kind: str) -> None:
        if kind == "gguf":
            pytest.importorskip("gguf", reason="GGUF files are written with its package")
            pytest.importorskip("accelerate", reason="transformers reads GGUF files with it")
        from xlab.interop import gguf_writing, xlab_folder

        made = huggingface.import_checkpoint(published)
        source = here / f"model.{kind}"
        if kind == "gguf":
            gguf_writing.write(made, source)
        else:
            source.mkdir()
            xlab_folder.write(made, source, dtype=None, max_shard_bytes=10**9)
        done = import_it(source)
        assert done.exit_code == 0, done.output
        found = checkpoints.read(done.output.splitlines()[-1])
        assert all(weight.equal(found.weights[name]) for name, weight in made.weights.items())
        texts = ["the cat sees", "Zoë\n 3"]
        assert restored(found).encode_batch(texts) == restored(made).encode_batch(texts)

    def test_what_fails_its_proof_is_removed(
        self, published: Path, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        honest = huggingface.import_checkpoint

        def flipped(source: str, max_len: int | None = None) -> checkpoints.Checkpoint:
            made = honest(source, max_len)
            made.weights["blocks.1.feed_forward.down.weight"][3, 5] += 1.0
            return made

        monkeypatch.setattr(huggingface, "import_checkpoint", flipped)
        done = import_it(published)
        assert done.exit_code == 2
        assert "is not the model" in done.output
        assert list((here / "imports").iterdir()) == []
        assert import_it(published, "--no-verify").exit_code == 0

    def test_sigterm_leaves_nothing_and_no_name_before_the_proof(
        self, published: Path, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def ended(checkpoint: Path, source: str) -> str:
            assert [path.name.startswith(".") for path in (here / "imports").iterdir()] == [True]
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("it went on")

        monkeypatch.setattr(import_proof, "prove", ended)
        assert import_it(published).exit_code == 143
        assert list((here / "imports").iterdir()) == []

    def test_bad_input_is_one_line_and_writes_nothing(self, published: Path, here: Path) -> None:
        shutil.copytree(published, here / "bert")
        change_config(here / "bert", model_type="bert")
        shutil.copytree(published, here / "pickled")
        (here / "pickled" / "model.safetensors").rename(here / "pickled" / "pytorch_model.bin")
        for source, said in (
            ("bert", "does not know the model_type"),
            ("pickled", "unpickled"),
            ("x/y/z", "no folder"),
        ):
            done = import_it(source)
            assert (done.exit_code, len(done.output.splitlines())) == (2, 1)
            assert said in done.output
        assert not (here / "imports").exists()


class TestFit:
    def test_from_published_weights_and_their_tokenizer(self, published: Path, corpus: Path, here: Path) -> None:
        gently = ["-c", str(ROOT / "conf" / "extra" / "finetune.yaml")]
        short = {"trainer.max_steps": 2, "trainer.val_check_interval": 2}
        fit(corpus, *gently, f"--model.pretrained={published}", **short)
        made, before = last(), huggingface.import_checkpoint(published, 16)
        assert made.tokenizer == before.tokenizer
        assert made.model["vocab_size"] == before.model["vocab_size"]
        near = (made.weights["embedding.weight"] - before.weights["embedding.weight"]).abs().max()
        assert near < 0.01  # two steps away
        assert str(published) not in json.dumps([made.model, made.data])

    def test_it_learns_and_goes_on_without_the_folder(
        self, published: Path, corpus: Path, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = Path(shutil.copytree(published, here / "gpt2"))
        (folder / "chat_template.jinja").write_text("{{ messages }}")
        (here / "run.yaml").write_text("model: {pretrained: gpt2}\n")
        fit(corpus, "-c", "run.yaml")
        lines = [json.loads(line) for line in Path("logs/version_0/metrics.jsonl").read_text().splitlines()]
        losses = [line["val/loss"] for line in lines if "val/loss" in line]
        assert losses[-1] < losses[0]
        fit(corpus, "-c", "logs/version_0/config.yaml")  # the run's own settings repeat it
        assert all(weight.equal(last(1).weights[name]) for name, weight in last(0).weights.items())
        shutil.rmtree(folder)
        fit(corpus, "-c", "run.yaml", "--ckpt_path=logs/version_0", **{"trainer.max_steps": 8})
        assert last(2).info["step"] == 8
        assert last(2).info["chat_template"] == "{{ messages }}"
        fit(corpus, "--model.init_from=logs/version_2", **{"trainer.max_steps": 3})
        assert last(3).info["chat_template"] == "{{ messages }}"
        run("validate", ["--ckpt_path=logs/version_2", f"--data.source.paths={corpus}"])
        assert "val loss" in capsys.readouterr().out

    def test_settings_that_contradict_it(self, published: Path, corpus: Path, here: Path) -> None:
        start = f"--model.pretrained={published}"
        with pytest.raises(ConfigError, match=r"data\.tokenizer is ByteLevelBPE, but .* brings its own tokenizer"):
            fit(corpus, start, "--data.tokenizer=ByteLevelBPE")
        with pytest.raises(ConfigError, match="has learned 64 places, no more"):
            fit(corpus, start, **{"data.seq_len": 65})
        with pytest.raises(ConfigError, match=r"model\.pretrained and model\.config say each what the model is"):
            fit(corpus, start, f"--model.config={published}")
        assert not Path("logs").exists()

    def test_what_the_model_decides_is_said(
        self, published: Path, corpus: Path, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fit(corpus, f"--model.pretrained={published}", **{"model.d_model": 64, "trainer.max_steps": 3})
        assert "note: model.d_model stays 32" in capsys.readouterr().err

    def test_meta_add_a_token_to_the_vocabulary(self, published: Path, corpus: Path, here: Path) -> None:
        settings: dict[str, Any] = {"data.meta.max_meta_len": 4, "trainer.max_steps": 3}
        fit(corpus, f"--model.pretrained={published}", **settings)
        assert last().model["vocab_size"] == huggingface.import_checkpoint(published).model["vocab_size"] + 1

    def test_an_untrained_model_of_a_configuration(self, published: Path, corpus: Path, here: Path) -> None:
        fit(corpus, f"--model.config={published / 'config.json'}", **{"data.vocab_size": 290, "trainer.max_steps": 3})
        made = last().model
        assert (made["d_model"], made["n_layers"], made["vocab_size"], made["max_len"]) == (32, 2, 290, 16)
        assert made["config"] is None
        config = yaml.safe_load(Path("logs/version_0/config.yaml").read_text())
        assert config["model"]["position"]["class_path"].endswith(".LearnedPosition")

    def test_an_import_is_a_start_too(self, published: Path, corpus: Path, here: Path) -> None:
        path = import_it(published, "--no-verify").output.splitlines()[-1]
        fit(corpus, f"--model.init_from={path}", **{"trainer.max_steps": 3, "data.seq_len": 64})
        assert last().tokenizer == checkpoints.read(path).tokenizer


def test_python_gives_the_settings_too(published: Path) -> None:
    settings = huggingface.model_settings(published)
    vocab_size = huggingface.import_checkpoint(published).model["vocab_size"]
    model = XLabModel(**{**settings, "vocab_size": vocab_size}, pretrained=str(published))
    assert model.decoder.embedding.weight.equal(huggingface.import_checkpoint(published).weights["embedding.weight"])
    with pytest.raises(ConfigError, match="these settings are not its own"):
        XLabModel(vocab_size=vocab_size, pretrained=str(published))
    with pytest.raises(XLabError, match="no folder"):
        XLabModel(vocab_size=vocab_size, pretrained="./nowhere")
    with pytest.raises(ConversionError):
        huggingface.fill(XLabModel(**{**settings, "vocab_size": 100}).decoder, published)
