"""Files that are whole, complete in themselves, and never run what they bring along."""

import errno
import io
import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import LIGHTNING_NOISE, VOCAB_SIZE, Run, make_model, train
from xlab import checkpoints, inference
from xlab.checkpoints import Checkpoint, allow_module, export, find, header, load, read, write
from xlab.data.tokenizers import ByteLevelBPE, Tokenizer
from xlab.datamodules import XLabDataModule
from xlab.errors import CheckpointError, ConfigError, XLabError
from xlab.models import XLabModel

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]

# everything that opens a checkpoint
OPENERS: list[Callable[[Path], Any]] = [
    read,
    load,
    XLabModel.load_from_checkpoint,
    XLabDataModule.load_from_checkpoint,
    lambda path: make_model(init_from=str(path)),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("run"))


@pytest.fixture(params=["ckpt", "pt"])
def path(run: Run, request: pytest.FixtureRequest) -> Path:
    return run.trained if request.param == "ckpt" else run.exported


@pytest.fixture(autouse=True)
def own_allow_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_allowed", set(checkpoints._allowed))
    monkeypatch.delenv(checkpoints.ALLOW_VARIABLE, raising=False)


def content(path: Path) -> dict[str, Any]:
    whole: dict[str, Any] = torch.load(path, weights_only=True)
    return whole


def changed(run: Run, path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Write the exported checkpoint of a run to ``path`` with something changed."""
    whole = content(run.exported)
    change(whole)
    torch.save(whole, path)
    return path


def with_model(run: Run, path: Path, **settings: Any) -> Path:
    return changed(run, path, lambda whole: whole["xlab"]["model"].update(settings))


def logits(model: Callable[[Tensor], Tensor]) -> Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 3 + 12).reshape(2, 6))


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


# --- files that are no checkpoints


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.1, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("opener", [read, XLabModel.load_from_checkpoint])
def test_a_file_that_was_cut_short_is_refused(
    path: Path, tmp_path: Path, kept: float, opener: Callable[[Path], Any]
) -> None:
    whole = path.read_bytes()
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(CheckpointError, match=r"cut\.ckpt"):
        opener(cut)


def _torch_file(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _zip_file() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "text")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "foreign",
    [
        b"",
        b"\n",
        b"a long text about something else " * 50,
        b'{"xlab": {"format": 1}}',
        b"\x80\x04N.",
        bytes(range(256)) * 8,
        _zip_file(),
        _torch_file({"state_dict": {"weight": torch.zeros(2)}}),
        _torch_file({"xlab": [], "state_dict": {}}),
        _torch_file({"xlab": {"format": 1}, "state_dict": {}}),
        _torch_file(torch.zeros(3)),
        _torch_file([1, 2]),
    ],
)
@pytest.mark.parametrize("name", ["file.ckpt", "file.pt"])
def test_a_foreign_file_is_refused_by_name(tmp_path: Path, foreign: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(foreign)
    for opener in OPENERS:
        with pytest.raises(CheckpointError, match=name):
            opener(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda whole: whole["xlab"].update(format=99), "has format 99, this XLab reads 1"),
        (lambda whole: whole["xlab"].pop("tokenizer"), "its header has no tokenizer"),
        (lambda whole: whole["xlab"].update(model=[1]), "its header has no model"),
        (lambda whole: whole.pop("state_dict"), "lacks the xlab header or the weights"),
    ],
)
def test_a_damaged_header_is_refused(
    run: Run, tmp_path: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    with pytest.raises(CheckpointError) as refused:
        read(changed(run, tmp_path / "damaged.pt", change))
    assert says in str(refused.value)


def test_a_damaged_tokenizer_is_refused(run: Run, tmp_path: Path) -> None:
    damaged = changed(run, tmp_path / "damaged.pt", lambda whole: whole["xlab"].update(tokenizer="{"))
    for opener in (load, XLabDataModule.load_from_checkpoint):
        with pytest.raises(XLabError, match=r"damaged\.pt"):
            opener(damaged)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(run: Run, tmp_path: Path) -> None:
    locked = Path(shutil.copy(run.exported, tmp_path / "locked.pt"))
    locked.chmod(0)
    with pytest.raises(CheckpointError, match=r"cannot read .*locked\.pt: Permission denied"):
        read(locked)


# --- files that would run code


class Payload:
    """What unpickling this object would do is leave a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def _raw_pickle(whole: dict[str, Any], path: Path) -> None:
    path.write_bytes(pickle.dumps(whole))


def _zipped(whole: dict[str, Any], path: Path) -> None:
    torch.save(whole, path)


def _legacy(whole: dict[str, Any], path: Path) -> None:
    torch.save(whole, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [_raw_pickle, _zipped, _legacy])
@pytest.mark.parametrize("place", ["beside", "header", "model", "weights"])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(
    run: Run, tmp_path: Path, save: Callable[[dict[str, Any], Path], None], place: str
) -> None:
    mark = tmp_path / "mark"
    whole = content(run.exported)
    places = {"beside": whole, "header": whole["xlab"], "model": whole["xlab"]["model"], "weights": whole["state_dict"]}
    places[place]["extra"] = Payload(mark)
    save(whole, tmp_path / "evil.ckpt")
    for opener in OPENERS:
        with pytest.raises(CheckpointError, match=r"evil\.ckpt would have to be unpickled, which can run code"):
            opener(tmp_path / "evil.ckpt")
    assert not mark.exists()
    unpickle = pickle.loads if save is _raw_pickle else lambda raw: torch.load(io.BytesIO(raw), weights_only=False)
    unpickle((tmp_path / "evil.ckpt").read_bytes())
    assert mark.exists()  # the payload is real


EVIL = """
from pathlib import Path
from subprocess import Popen
from xlab.transformer.attention import MultiHeadAttention
Path(__file__).with_name("mark").touch()

class Attention(MultiHeadAttention):
    pass
"""


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The mark that importing ``evil_layers`` leaves."""
    (tmp_path / "evil_layers.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evil_layers", raising=False)
    return tmp_path / "mark"


FOREIGN = "evil_layers.Attention"
TINIEST = {"vocab_size": 5, "max_len": 4, "d_model": 4, "n_layers": 1, "n_heads": 1}


@pytest.mark.parametrize(
    "settings",
    [
        {"attention": {"class_path": FOREIGN}},
        {"attention": {"class_path": FOREIGN, "init_args": {}}},
        {"attention": FOREIGN},  # a class path alone is as good as class_path with init_args
        {"objective": FOREIGN},
        {
            "objective": {
                "class_path": "xlab.transformer.decoder.Decoder",
                "init_args": {**TINIEST, "attention": FOREIGN},
            }
        },
        {"optimizer": {"class_path": FOREIGN}},
        {"block": {"class_path": "PreNormBlock", "init_args": {"norm": {"class_path": FOREIGN}}}},
        {"feed_forward": {"class_path": "SwiGLU", "init_args": {"list": [{"deep": {"class_path": FOREIGN}}]}}},
    ],
)
@pytest.mark.parametrize("opener", OPENERS)
def test_a_class_of_a_module_that_is_not_allowed_is_refused_before_it_is_imported(
    run: Run, tmp_path: Path, evil: Path, settings: dict[str, Any], opener: Callable[[Path], Any]
) -> None:
    foreign = with_model(run, tmp_path / "foreign.pt", **settings)
    with pytest.raises(CheckpointError, match=r"evil_layers.*--allow-module evil_layers or XLAB_ALLOW_MODULES="):
        opener(foreign)
    assert "evil_layers" not in sys.modules
    assert not evil.exists()


def test_the_datamodule_s_classes_are_checked_too(run: Run, tmp_path: Path, evil: Path) -> None:
    source = {"class_path": FOREIGN}
    foreign = changed(run, tmp_path / "foreign.pt", lambda whole: whole["xlab"]["data"].update(source=source))
    with pytest.raises(CheckpointError, match="--allow-module evil_layers"):
        XLabDataModule.load_from_checkpoint(foreign)
    assert not evil.exists()


@pytest.mark.parametrize(
    "change",
    [
        # the command line's parser would import these: a dotted key, and a text where a number or a tensor belongs
        lambda head: head["model"].update({"attention.class_path": FOREIGN}),
        lambda head: head["data"].update({"source.class_path": FOREIGN}),
        lambda head: head["model"].update(optimizer={"class_path": "torch.optim.AdamW", "init_args": {"lr": FOREIGN}}),
        lambda head: head["model"].update(
            optimizer={"class_path": "torch.optim.AdamW", "init_args": {"betas": [FOREIGN]}}
        ),
    ],
)
def test_what_only_the_parser_would_import_is_refused_too(
    run: Run, tmp_path: Path, evil: Path, change: Callable[[Any], None]
) -> None:
    foreign = changed(run, tmp_path / "foreign.pt", lambda whole: change(whole["xlab"]))
    with pytest.raises(CheckpointError, match=r"evil_layers|class_path"):
        read(foreign)
    assert not evil.exists()


def _ring(whole: Any) -> None:
    whole["xlab"]["info"]["ring"] = whole["xlab"]["info"]


@pytest.mark.parametrize(
    "damage",
    [
        _ring,
        lambda whole: whole["xlab"]["info"].update(x=torch.zeros(2)),
        lambda whole: whole["state_dict"].update({5: torch.zeros(2)}),
        lambda whole: whole["state_dict"].update(x="text"),
        lambda whole: whole["state_dict"].update(x=torch.zeros(2, 2).to_sparse()),
    ],
)
def test_content_of_the_wrong_kind_is_refused(run: Run, tmp_path: Path, damage: Callable[[Any], None]) -> None:
    with pytest.raises(CheckpointError, match="is damaged"):
        read(changed(run, tmp_path / "damaged.pt", damage))


@pytest.mark.parametrize(
    "settings", [{"splits": 5}, {"seq_len": "a"}, {"bogus": 1}, {"source": 5}, {"source": {"class_path": "RMSNorm"}}]
)
def test_data_settings_that_cannot_be_are_a_checkpoint_s_fault(
    run: Run, tmp_path: Path, settings: dict[str, Any]
) -> None:
    wrong = changed(run, tmp_path / "wrong.pt", lambda whole: whole["xlab"]["data"].update(settings))
    with pytest.raises(CheckpointError):
        XLabDataModule.load_from_checkpoint(wrong)


def _allow(monkeypatch: pytest.MonkeyPatch) -> None:
    allow_module("evil_layers")


def _allow_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLAB_ALLOW_MODULES", "others,evil_layers")


@pytest.mark.parametrize("allow", [_allow, _allow_by_environment])
def test_a_module_can_be_allowed(
    run: Run, tmp_path: Path, evil: Path, monkeypatch: pytest.MonkeyPatch, allow: Callable[[Any], None]
) -> None:
    allow(monkeypatch)
    foreign = with_model(run, tmp_path / "foreign.pt", attention={"class_path": FOREIGN})
    decoder, _ = load(foreign)
    assert type(decoder.blocks[0].attention).__module__ == "evil_layers"
    assert torch.equal(logits(decoder), logits(load(run.exported)[0]))
    assert evil.exists()


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


@pytest.mark.parametrize("allowed", ["evil", "evil_layer", "evil_layers.Attention", "layers", ""])
def test_a_module_of_a_similar_name_is_not_allowed_with_it(
    run: Run, tmp_path: Path, evil: Path, monkeypatch: pytest.MonkeyPatch, allowed: str
) -> None:
    monkeypatch.setenv("XLAB_ALLOW_MODULES", allowed)
    with pytest.raises(CheckpointError, match="evil_layers"):
        load(with_model(run, tmp_path / "foreign.pt", attention={"class_path": FOREIGN}))
    assert not evil.exists()


@pytest.mark.parametrize("path", ["evil_layers.Popen", "xlab.data.token_store.Path", "xlab.data.preparation.Path"])
def test_a_class_that_an_allowed_module_merely_imported_is_refused(
    run: Run, tmp_path: Path, evil: Path, path: str
) -> None:
    allow_module("evil_layers")
    args = {"class_path": path, "init_args": {"args": ["touch", str(tmp_path / "ran")]}}
    with pytest.raises(CheckpointError, match=f"names the class {path}, which is "):
        load(with_model(run, tmp_path / "foreign.pt", attention=args))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "path",
    [
        *("os.system", "builtins.eval", "subprocess.Popen", "xlabels.Thing", "torch.jit.ScriptModule"),
        "xlab.commands.lightning_cli.XLabCLI",  # making one runs a whole command
    ],
)
def test_the_allow_list_is_short(run: Run, tmp_path: Path, path: str) -> None:
    with pytest.raises(CheckpointError, match="whose code is not XLab's"):
        load(with_model(run, tmp_path / "foreign.pt", attention={"class_path": path}))


@pytest.mark.parametrize("path", ["NoSuchAttention", "xlab.no_such_module.Thing", "xlab.transformer.norms.Nrom"])
def test_a_class_that_is_not_there_is_named(run: Run, tmp_path: Path, path: str) -> None:
    with pytest.raises(CheckpointError, match=r"foreign\.pt.*" + path.rpartition(".")[2].replace("Thing", "no_such")):
        load(with_model(run, tmp_path / "foreign.pt", attention={"class_path": path}))


# --- weights that do not fit


@pytest.mark.parametrize("opener", [load, XLabModel.load_from_checkpoint, OPENERS[-1]])
def test_weights_that_do_not_fit_are_all_listed(run: Run, tmp_path: Path, opener: Callable[[Path], Any]) -> None:
    def spoil(whole: dict[str, Any]) -> None:
        weights = whole["state_dict"]
        del weights["decoder.blocks.0.attention.out.weight"]
        weights["decoder.blocks.7.attention.out.weight"] = torch.zeros(2)
        weights["decoder.embedding.weight"] = torch.zeros(5, 16)

    with pytest.raises(CheckpointError) as refused:
        opener(changed(run, tmp_path / "odd.pt", spoil))
    message = str(refused.value)
    assert "odd.pt" in message
    assert "blocks.0.attention.out.weight is missing" in message
    assert "blocks.7.attention.out.weight is not in the model" in message
    assert f"embedding.weight is (5, 16), the model has ({VOCAB_SIZE}, 16)" in message


def test_settings_of_a_giant_are_refused_before_memory_is_taken(run: Run, tmp_path: Path) -> None:
    giant = with_model(run, tmp_path / "giant.pt", d_model=1 << 20, vocab_size=1 << 20)  # terabytes
    with pytest.raises(CheckpointError, match="do not fit"):
        load(giant)


@pytest.mark.parametrize(
    "settings",
    [{"d_model": 15}, {"n_layers": 0}, {"n_layers": "two"}, {"attention": {"class_path": "RMSNorm"}}, {"attention": 3}],
)
@pytest.mark.parametrize("opener", [load, XLabModel.load_from_checkpoint])
def test_settings_that_build_no_model_are_refused(
    run: Run, tmp_path: Path, settings: dict[str, Any], opener: Callable[[Path], Any]
) -> None:
    with pytest.raises((CheckpointError, ConfigError)):
        opener(with_model(run, tmp_path / "odd.pt", **settings))


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


# --- writing


def test_a_written_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    write({"a": 1}, tmp_path / "new" / "a.ckpt")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "other", tmp_path / "new" / "a.ckpt")}
    assert len(modes) == 1
    assert content(tmp_path / "new" / "a.ckpt") == {"a": 1}


@pytest.mark.parametrize(
    ("error", "raised", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), CheckpointError, "cannot write .*: No space left on device"),
        (RuntimeError("PytorchStreamWriter failed writing file data/3"), CheckpointError, "is the disk full"),
        (RuntimeError("something else"), RuntimeError, "something else"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
@pytest.mark.parametrize("old", [b"what stood there", None])
def test_a_failure_midway_leaves_what_stood_there_and_nothing_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    raised: type[BaseException],
    says: str | None,
    old: bytes | None,
) -> None:
    def save_half(content: Any, file: Any) -> None:
        file.write(b"half of it")
        raise error

    target = tmp_path / "last.ckpt"
    if old is not None:
        target.write_bytes(old)
    monkeypatch.setattr(torch, "save", save_half)
    with pytest.raises(raised, match=says):
        write({"a": 1}, target)
    assert (target.read_bytes() if target.exists() else None) == old
    assert os.listdir(tmp_path) == (["last.ckpt"] if old is not None else [])


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot write"):
        write({}, tmp_path / "file" / "last.ckpt")


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
