"""Checkpoints of many files: written whole or not at all, and read without running what is hidden in them."""

import io
import os
import pickle
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING

from xlab import shard_reading, sharded_checkpoints
from xlab.errors import CheckpointError
from xlab.shard_reading import _IndexUnpickler
from xlab.sharded_checkpoints import LAYOUT, SHARDS, ShardWriter

META = {LAYOUT: {"cut": {}, "optimizers": []}, "epoch": 1}
WEIGHTS = {"state_dict.a": torch.arange(6.0).reshape(2, 3), "state_dict.b": torch.ones(4, dtype=torch.bfloat16)}


@pytest.fixture(scope="module", autouse=True)
def one_rank() -> Iterator[None]:
    """A process group of this process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A whole checkpoint."""
    ShardWriter().write(WEIGHTS, META, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


@pytest.mark.parametrize("is_asynchronous", [False, True])
def test_what_is_written_is_read(tmp_path: Path, is_asynchronous: bool) -> None:
    writer = ShardWriter(is_asynchronous)
    for _ in range(2):  # the second replaces the first
        writer.write(WEIGHTS, META, tmp_path / "last.ckpt")
        writer.wait()
    found = sharded_checkpoints.read(tmp_path / "last.ckpt")
    assert found["epoch"] == 1
    assert all(torch.equal(found["state_dict"][name[-1]], weight) for name, weight in WEIGHTS.items())
    assert len(list((tmp_path / "last.ckpt").iterdir())) == 2


@pytest.mark.parametrize("is_asynchronous", [False, True])
def test_a_disk_that_is_full_leaves_the_one_before(path: Path, is_asynchronous: bool) -> None:
    before = sorted(path.rglob("*"))
    writer, most = ShardWriter(is_asynchronous), resource.getrlimit(resource.RLIMIT_FSIZE)
    large = {"state_dict.a": torch.ones(100_000)}
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most[1]))
    try:
        with pytest.raises(
            CheckpointError, match=r"cannot write .*last.ckpt: .*; the checkpoint .* is as it was"
        ) as full:
            _written(writer, large, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert "enforce fail" not in str(full.value)  # what torch's writer says of a write that fell short
    assert sorted(path.rglob("*")) == before
    assert sharded_checkpoints.read(path)["epoch"] == 1


def test_a_rank_that_is_lost_while_all_save_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any, **__: Any) -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:228: Connection reset by peer. Or")

    monkeypatch.setattr("torch.distributed.checkpoint.state_dict_saver.save", lost)
    with pytest.raises(CheckpointError, match=r"last\.ckpt: another rank was lost \(Connection reset by peer\); the"):
        ShardWriter().write(WEIGHTS, META, path)


def _written(writer: ShardWriter, tensors: dict[str, torch.Tensor], path: Path) -> None:
    writer.write(tensors, META, path)
    writer.wait()


@pytest.mark.parametrize("damage", [lambda old: b"", lambda old: old[: len(old) // 2], lambda old: b"garbage"])
@pytest.mark.parametrize("name", ["meta.pt", ".metadata", "__0_0.distcp"])
def test_a_file_that_is_damaged_is_one_line(path: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    (file,) = path.rglob(name)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CheckpointError, match=r"last\.ckpt is no checkpoint, or was cut short: ") as refused:
        sharded_checkpoints.read(path)
    assert "\n" not in str(refused.value)
    assert "weights_only" not in str(refused.value)  # no advice to run what is in there
    if name != "meta.pt":
        with pytest.raises(CheckpointError, match="cannot take up"):
            sharded_checkpoints.load_into({name: weight.clone() for name, weight in WEIGHTS.items()}, path)


def test_a_tensor_that_is_missing_is_one_line(path: Path) -> None:
    assert torch.equal(sharded_checkpoints.read_whole(path, "state_dict.a", {}), WEIGHTS["state_dict.a"])
    with pytest.raises(CheckpointError, match="is no checkpoint, or was cut short"):
        sharded_checkpoints.read_whole(path, "state_dict.c", {})


def test_shards_that_are_replaced_while_they_are_read_are_read_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, to_come = shard_reading.read_shards, [2]

    def overtaken(*asked: Any) -> dict[str, torch.Tensor]:
        if to_come:
            ShardWriter().write(WEIGHTS, {**META, "epoch": to_come.pop(0)}, path)
        return plain(*asked)

    monkeypatch.setattr(shard_reading, "read_shards", overtaken)
    assert sharded_checkpoints.read(path)["epoch"] == 2
    to_come += range(3, 100)
    with pytest.raises(CheckpointError, match=r"last\.ckpt is replaced by its run faster than it can be read"):
        sharded_checkpoints.read(path)


def test_another_checkpoint_that_is_damaged_keeps_its_shards(path: Path) -> None:
    (path / "meta.pt").write_bytes(b"")
    before = sorted(path.rglob("*"))
    sharded_checkpoints.remove_leftovers(path.parent)
    assert sorted(path.rglob("*")) == before


def test_shards_that_lie_elsewhere_are_not_read(path: Path, tmp_path: Path) -> None:
    (shards,) = path.glob(f"{SHARDS}*")
    shards.rename(tmp_path / shards.name)
    meta = {**META, LAYOUT: {**META[LAYOUT], "folder": f"../{shards.name}"}}  # type: ignore[dict-item]
    torch.save(meta, path / "meta.pt")
    with pytest.raises(CheckpointError, match=r"names the folder '\.\./shards-"):
        sharded_checkpoints.read(path)


def reached(*steps: tuple[str, str]) -> bytes:
    """Pickle attributes of attributes, each by ``getattr``, as a hostile index would."""
    (module, name), *rest = steps
    code = f"c{module}\n{name}\n".encode()
    for _, attribute in rest:
        code = b"cbuiltins\ngetattr\n(" + code + _text(attribute) + b"tR"
    return code


def _text(text: str) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


@pytest.mark.parametrize(
    "hidden",
    [
        reached(("pathlib", "Path"), ("", "write_text"), ("", "__globals__")),
        reached(("pathlib", "PosixPath"), ("", "write_text")),
        reached(("torch.serialization", "_get_layout"), ("", "__globals__")),
        reached(("torch.distributed.checkpoint.metadata", "Metadata"), ("", "__init__"), ("", "__globals__")),
        reached(("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"), ("", "__class__")),
        b"ctorch.serialization\n_get_layout\n(" + _text("load") + b"tR",
        b"cposix\nsystem\n(" + _text("exit 1") + b"tR",
    ],
)
def test_an_index_reaches_nothing_but_its_parts(path: Path, hidden: bytes) -> None:
    (index,) = path.rglob(".metadata")
    index.write_bytes(b"\x80\x02" + hidden + b".")
    with pytest.raises(CheckpointError, match=r"which is none of its parts|which there is not"):
        sharded_checkpoints.read(path)


def test_an_index_of_another_python_is_read() -> None:
    """Some pickle an Enum's member by ``getattr``, and have the classes of paths in another module."""
    member = reached(("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"), ("", "TORCH_CHANNELS_LAST"))
    folder = b"cpathlib._local\nPosixPath\n(" + _text("runs") + _text("last.ckpt") + b"tR"
    found: Any = _IndexUnpickler(io.BytesIO(b"\x80\x02(" + member + folder + b"t.")).load()
    assert found == (_MEM_FORMAT_ENCODING.TORCH_CHANNELS_LAST, os.path.join("runs", "last.ckpt"))
    assert _IndexUnpickler(io.BytesIO(pickle.dumps(Path("runs/last.ckpt")))).load() == "runs/last.ckpt"
