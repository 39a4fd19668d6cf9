"""What is no checkpoint, or a damaged one, is refused by name; and nothing that it brings along is run."""

import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.changed_checkpoints import OPENERS, changed, content, with_model
from tests.tiny import LIGHTNING_NOISE, VOCAB_SIZE, Run, train
from xlab.checkpoints import load, read
from xlab.datamodules import XLabDataModule
from xlab.errors import CheckpointError, ConfigError, XLabError
from xlab.models import XLabModel

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("run"))


@pytest.fixture(params=["ckpt", "pt"])
def path(run: Run, request: pytest.FixtureRequest) -> Path:
    return run.trained if request.param == "ckpt" else run.exported


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


# --- content of the wrong kind


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
