"""Checkpoints are complete in themselves: what is in one comes out again, by every road."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.changed_checkpoints import OPENERS, TINIEST, changed, content, logits, with_model
from tests.tiny import LIGHTNING_NOISE, VOCAB_SIZE, Run, make_model, train
from xlab import checkpoints, inference, trusted_classes
from xlab.checkpoint_writing import write
from xlab.checkpoints import Checkpoint, allow_module, export, find, header, load, read
from xlab.data.tokenizers import ByteLevelBPE, Tokenizer
from xlab.datamodules import XLabDataModule
from xlab.errors import CheckpointError, ConfigError
from xlab.models import XLabModel

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("run"))


@pytest.fixture(params=["ckpt", "pt"])
def path(run: Run, request: pytest.FixtureRequest) -> Path:
    return run.trained if request.param == "ckpt" else run.exported


@pytest.fixture(autouse=True)
def own_allow_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trusted_classes, "_allowed", set(trusted_classes._allowed))
    monkeypatch.delenv(trusted_classes.ALLOW_VARIABLE, raising=False)


# --- what is in a checkpoint comes out again


def test_every_road_gives_the_trained_model_s_logits(run: Run, path: Path) -> None:
    expected = logits(run.model.eval())
    decoder, _ = load(path)
    assert torch.equal(logits(decoder), expected)
    assert torch.equal(logits(XLabModel.load_from_checkpoint(path).eval()), expected)
    assert torch.equal(logits(make_model(seed=9, init_from=str(path)).eval()), expected)


def test_every_road_gives_the_tokenizer(run: Run, path: Path) -> None:
    expected = run.datamodule.tokenizer
    for tokenizer in (load(path)[1], XLabDataModule.load_from_checkpoint(path).tokenizer):
        assert tokenizer.to_json() == expected.to_json()
        assert tokenizer.encode("the old king ΩЖ\0 🙂") == expected.encode("the old king ΩЖ\0 🙂")


def test_a_loaded_decoder_is_ready_for_inference(path: Path) -> None:
    decoder, _ = load(path)
    assert not decoder.training
    assert not any(parameter.requires_grad for parameter in decoder.parameters())


def test_the_header_says_what_was_trained(run: Run) -> None:
    trained, exported = read(run.trained), read(run.exported)
    assert (trained.resumable, exported.resumable) == (True, False)
    for field in ("model", "data", "tokenizer", "info"):
        assert getattr(trained, field) == getattr(exported, field)
    assert trained.info["step"] == 20
    assert trained.info["data_fingerprint"] == run.datamodule.fingerprint
    assert trained.info["metrics"]["train/loss"] > 0
    assert json.loads(json.dumps([trained.model, trained.data, trained.info])) == [
        trained.model,
        trained.data,
        trained.info,
    ]


def contract(path: Path, device: str) -> tuple[list[int], str]:
    """The code block of the design, word for word but for the imports above."""
    tokenizer = XLabDataModule.load_from_checkpoint(path, map_location=device).tokenizer
    model = XLabModel.load_from_checkpoint(path, map_location=device).eval().requires_grad_(False)
    inputs = torch.tensor([tokenizer[tokenizer.sos_token]] + tokenizer.encode("april"), device=model.device)  # noqa: RUF005
    outputs = inference.sample(
        model,
        inputs,
        output_length=10,
        block_size=model.hparams["max_len"],
        eos_class=tokenizer[tokenizer.eos_token],
    )
    text = tokenizer.decode(outputs)
    return outputs.tolist(), text


def test_the_contract_gives_the_same_tokens_from_both_kinds_of_file(run: Run) -> None:
    drawn = {}
    for path in (run.trained, run.exported):
        for seed in range(4):
            torch.manual_seed(seed)
            drawn[path, seed] = contract(path, "cpu")
    for seed in range(4):
        assert drawn[run.trained, seed] == drawn[run.exported, seed]
    assert len({str(drawn[run.trained, seed]) for seed in range(4)}) > 1
    assert all(len(ids) <= 10 for ids, _ in drawn.values())


@pytest.mark.parametrize("opener", OPENERS[:4])
def test_opening_a_checkpoint_draws_no_random_number(path: Path, opener: Callable[[Path], Any]) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    opener(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_loading_imports_no_lightning(path: Path) -> None:
    script = (
        f"import sys; from xlab import checkpoints, inference; model, tokenizer = checkpoints.load({str(path)!r}); "
        "import torch; new = inference.greedy_search(model, torch.tensor([tokenizer.sos_id]), 3, 16); "
        "print(*[name for name in ('lightning', 'pytorch_lightning', 'jsonargparse') if name in sys.modules])"
    )
    root = Path(checkpoints.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_settings_can_be_changed_while_loading(path: Path) -> None:
    assert XLabModel.load_from_checkpoint(path, dropout=0.25).hparams["dropout"] == 0.25
    assert XLabDataModule.load_from_checkpoint(path, batch_size=2).hparams["batch_size"] == 2


# --- export


def test_an_export_has_weights_settings_and_tokenizer_and_nothing_else(run: Run) -> None:
    whole = content(run.exported)
    assert whole.keys() == {"xlab", "state_dict"}
    assert whole["xlab"].keys() == {"format", "model", "data", "tokenizer", "info"}
    assert "optimizer_states" in content(run.trained)


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_an_export_is_hardly_larger_than_its_content(run: Run, tmp_path: Path, tie_embeddings: bool) -> None:
    model = make_model(d_model=512, n_layers=3, tie_embeddings=tie_embeddings)
    tokenizer = run.datamodule.tokenizer.to_json()
    head = header(model=model.hparams, data=run.datamodule.hparams, tokenizer=tokenizer, info={"step": 0})
    write(
        {"xlab": head, "state_dict": model.state_dict(), "optimizer_states": [model.state_dict()]}, tmp_path / "a.ckpt"
    )
    exported, _ = export(tmp_path / "a.ckpt", tmp_path)
    weights = sum(weight.nbytes for weight in model.parameters())  # a tied matrix once
    constant = 16_000  # settings, and the archive's entry for each weight
    assert exported.stat().st_size <= 1.02 * (weights + len(tokenizer.encode())) + constant


def test_an_export_is_named_by_its_content(run: Run, tmp_path: Path) -> None:
    copy = shutil.copy(run.trained, tmp_path / "copy.ckpt")
    path, was_there = export(copy, tmp_path / "exports")
    assert path.name == run.exported.name
    assert not was_there
    assert export(run.exported, tmp_path / "again")[0].name == run.exported.name  # an export of an export

    def nudge(whole: dict[str, Any]) -> None:
        next(iter(whole["state_dict"].values())).view(-1)[0] += 1e-3

    other = export(changed(run, tmp_path / "other.pt", nudge), tmp_path / "exports")[0]
    renamed = export(with_model(run, tmp_path / "renamed.pt", dropout=0.5), tmp_path / "exports")[0]
    assert len({path.name, other.name, renamed.name}) == 3


def test_what_is_already_there_is_left_as_it_is(run: Run) -> None:
    before = run.exported.stat()
    assert export(run.trained, run.exported.parent) == (run.exported, True)
    assert run.exported.stat() == before
    assert os.listdir(run.exported.parent) == [run.exported.name]


def _garbage(path: Path, run: Run) -> None:
    path.write_text("my notes")


def _another_model(path: Path, run: Run) -> None:
    with_model(run, path, dropout=0.5)


def _dangling_link(path: Path, run: Run) -> None:
    path.symlink_to(path.parent / "nowhere")


@pytest.mark.parametrize("occupy", [_garbage, _another_model, _dangling_link])
def test_an_export_never_overwrites_other_content(
    run: Run, tmp_path: Path, occupy: Callable[[Path, Run], None]
) -> None:
    target = tmp_path / run.exported.name
    occupy(target, run)
    before = target.read_bytes() if target.exists() else None
    with pytest.raises(CheckpointError, match="exists and holds something else"):
        export(run.trained, tmp_path)
    assert (target.read_bytes() if target.exists() else None) == before


def test_a_checkpoint_that_cannot_be_used_is_not_exported(run: Run, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="do not fit"):
        export(with_model(run, tmp_path / "odd.pt", n_layers=3), tmp_path / "exports")
    assert not (tmp_path / "exports").exists()


# --- what a decoder is made of

PARTS_OF_ONE_S_OWN = """
import torch
from xlab.transformer import MultiHeadAttention, SwiGLU

class Numbers(MultiHeadAttention):  # computed from tensors
    def __init__(self, d_model, n_heads, layer_index):
        super().__init__(d_model, n_heads, layer_index)
        self.scale = [float(share) for share in torch.linspace(0.5, 1.5, 4)][layer_index]

    def forward(self, x, context):
        return self.scale * super().forward(x, context)

class Attribute(Numbers):  # a tensor that is no buffer
    def __init__(self, d_model, n_heads, layer_index):
        MultiHeadAttention.__init__(self, d_model, n_heads, layer_index)
        self.scale = torch.ones(d_model).mul_(3)

class Buffer(Numbers):  # one that no checkpoint holds
    def __init__(self, d_model, n_heads, layer_index):
        MultiHeadAttention.__init__(self, d_model, n_heads, layer_index)
        self.register_buffer("scale", torch.full((d_model,), 2.0), persistent=False)

class Drawing(Numbers):
    def __init__(self, d_model, n_heads, layer_index):
        MultiHeadAttention.__init__(self, d_model, n_heads, layer_index)
        self.register_buffer("scale", torch.randn(d_model, device="cpu"))
"""


@pytest.mark.parametrize("name", ["Numbers", "Attribute", "Buffer", "Drawing"])
def test_a_part_of_one_s_own_is_made_as_it_was_for_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "own_parts.py").write_text(PARTS_OF_ONE_S_OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)
    allow_module("own_parts")
    settings = {**TINIEST, "d_ff": 8, "attention": {"class_path": f"own_parts.{name}"}}
    trained = checkpoints.build_decoder(settings)
    weights = {key: weight.clone() for key, weight in trained.state_dict().items()}
    checkpoint = Checkpoint(Path("own.pt"), settings, {}, "", weights, {}, resumable=False)
    before = torch.get_rng_state()
    restored = checkpoints.restore_decoder(checkpoint)
    assert torch.equal(torch.get_rng_state(), before)
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(restored(ids), trained(ids))


def test_a_loaded_model_outlives_its_file(run: Run, tmp_path: Path) -> None:
    shutil.copy(run.exported, tmp_path / "own.pt")
    checkpoint = read(tmp_path / "own.pt")
    one, other = checkpoints.restore_decoder(checkpoint), checkpoints.restore_decoder(checkpoint)
    expected = logits(load(run.exported)[0])
    with torch.no_grad():
        one.embedding.weight.zero_()
    with open(tmp_path / "own.pt", "r+b") as file:  # as cp does over what is there
        file.write(b"\xff" * (tmp_path / "own.pt").stat().st_size)
    assert torch.equal(logits(other.eval()), expected)


# --- where checkpoints are found


@pytest.mark.parametrize(
    "address", ["https://example.com/a.ckpt", "http://localhost/a.pt", "s3://bucket/a.pt", "hf://a/b"]
)
def test_an_address_is_refused(address: str) -> None:
    for opener in OPENERS:
        with pytest.raises(CheckpointError, match="is an address; download the checkpoint"):
            opener(address)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("there", "names", "found"),
    [
        (["checkpoints/best.ckpt", "checkpoints/last.ckpt"], None, "checkpoints/best.ckpt"),
        (["checkpoints/last.ckpt"], None, "checkpoints/last.ckpt"),
        (["best.ckpt"], None, "best.ckpt"),
        (["checkpoints/best.ckpt", "checkpoints/last.ckpt"], ("last.ckpt", "best.ckpt"), "checkpoints/last.ckpt"),
        (["checkpoints/best.ckpt"], ("last.ckpt", "best.ckpt"), "checkpoints/best.ckpt"),
    ],
)
def test_a_run_folder_stands_for_its_checkpoint(
    tmp_path: Path, there: list[str], names: tuple[str, ...] | None, found: str
) -> None:
    for name in there:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find(tmp_path, **({"names": names} if names else {})) == tmp_path / found
    assert find(tmp_path / found) == tmp_path / found


def test_a_run_folder_can_be_read(run: Run, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(run.trained, tmp_path / "checkpoints" / "last.ckpt")
    assert read(tmp_path).path == tmp_path / "checkpoints" / "last.ckpt"
    assert isinstance(XLabModel.load_from_checkpoint(tmp_path), XLabModel)


def test_nothing_to_find_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*absent"):
        find(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"folder without checkpoints/best\.ckpt or checkpoints/last\.ckpt"):
        find(tmp_path)


# --- what a checkpoint says


def test_a_header_takes_plain_settings_only() -> None:
    with pytest.raises(ConfigError, match=r"model\.norm is "):
        header(model={"norm": lambda width: None}, data={}, tokenizer="", info={})
    made = header(
        model={"norm": torch.nn.LayerNorm}, data={"tokenizer": ByteLevelBPE()}, tokenizer="", info={"step": 3}
    )
    assert made["model"] == {"norm": {"class_path": "torch.nn.modules.normalization.LayerNorm"}}
    assert made["info"]["step"] == 3


def test_the_content_hash_does_not_depend_on_the_file(run: Run, tmp_path: Path) -> None:
    rewritten = changed(run, tmp_path / "rewritten.pt", lambda whole: None)
    assert rewritten.read_bytes() != run.exported.read_bytes()
    hashes = {checkpoints.content_hash(read(path)) for path in (rewritten, run.exported, run.trained)}
    assert len(hashes) == 1


def test_a_checkpoint_is_a_value(run: Run) -> None:
    checkpoint = read(run.exported)
    assert isinstance(checkpoint, Checkpoint)
    assert Tokenizer.from_json(checkpoint.tokenizer).vocab_size == VOCAB_SIZE
    with pytest.raises(AttributeError):
        checkpoint.info = {}  # type: ignore[misc]
