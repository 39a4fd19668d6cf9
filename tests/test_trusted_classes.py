"""A checkpoint names XLab's classes, torch's, and those of modules that the user trusts; no other is imported."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.changed_checkpoints import OPENERS, TINIEST, changed, logits, with_model
from tests.tiny import LIGHTNING_NOISE, Run, train
from xlab import factories, trusted_classes
from xlab.checkpoints import allow_module, load, read
from xlab.datamodules import XLabDataModule
from xlab.errors import CheckpointError

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True)
def own_allow_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trusted_classes, "_allowed", set(trusted_classes._allowed))
    monkeypatch.delenv(trusted_classes.ALLOW_VARIABLE, raising=False)


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


@pytest.mark.parametrize("home", ["xlab.checkpoint_data", "xlab.datamodules"])  # where it is, and where it was
def test_a_class_that_has_moved_is_found_where_it_was(run: Run, tmp_path: Path, home: str) -> None:
    recipe = {"class_path": f"{home}.CheckpointTokenizer", "init_args": {"path": str(run.exported)}}
    other = changed(run, tmp_path / "other.pt", lambda whole: whole["xlab"]["data"].update(tokenizer=recipe))
    made = factories.build(read(other).data["tokenizer"])
    assert made.tokenizer().to_json() == run.datamodule.tokenizer.to_json()


@pytest.mark.parametrize("path", ["NoSuchAttention", "xlab.no_such_module.Thing", "xlab.transformer.norms.Nrom"])
def test_a_class_that_is_not_there_is_named(run: Run, tmp_path: Path, path: str) -> None:
    with pytest.raises(CheckpointError, match=r"foreign\.pt.*" + path.rpartition(".")[2].replace("Thing", "no_such")):
        load(with_model(run, tmp_path / "foreign.pt", attention={"class_path": path}))
