"""Checkpoints in many files: a folder that every rank writes its shards into, and any number of ranks read.

``last.ckpt/meta.pt`` holds what a ``.ckpt`` does beside weights and optimiser, and names the folder of shards that
belongs to it, in the format of ``torch.distributed.checkpoint``. It is replaced when those are whole: whatever is
killed, it names whole ones.
"""

import contextlib
import copy
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from xlab.checkpoint_writing import renamed_when_whole
from xlab.errors import CheckpointError

META = "meta.pt"
SHARDS = "shards-"  # how the names of folders of shards begin
LAYOUT = "sharded"  # key of the meta: which shards there are, and how they are put together
WEIGHTS = "state_dict."  # how the keys of weights begin
_TRIES = 5  # to read shards before their run has replaced them
# what gloo and NCCL say to a rank whose partner has gone
_GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")


def state_key(optimizer: int, name: str) -> str:
    """How the keys of what an optimiser keeps for a weight begin."""
    return f"optimizer_{optimizer}.{name}:"


def is_sharded(path: str | Path) -> bool:
    """Tell whether a path is a checkpoint in many files, and whole."""
    return (Path(path) / META).is_file()


class ShardWriter:
    """Write checkpoints of all ranks together.

    Args:
        is_asynchronous: whether training goes on while files are written; a copy of the shards is held meanwhile.
    """

    def __init__(self, is_asynchronous: bool = False) -> None:
        self._is_asynchronous = is_asynchronous
        self._group: dist.ProcessGroup | None = None  # its own: the files' ranks talk while training's do
        self._pending: Future[Any] | None = None
        self._folder = Path()

    def write(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], path: str | Path) -> None:
        """Write a checkpoint; all ranks call this.

        Args:
            tensors: by name; of a DTensor each rank gives its shard.
            meta: everything else, plain data and small tensors; the first rank's is written.
            path: the folder to make, or to renew.

        Raises:
            CheckpointError: if it could not be written, this one or, asynchronously, the one before; what was there
                before is as it was.
        """
        self.wait()
        path = Path(path)
        from torch.distributed.checkpoint.filesystem import FileSystemWriter
        from torch.distributed.checkpoint.state_dict_saver import async_save, save

        names: list[Any] = [f"{SHARDS}{secrets.token_hex(4)}"]
        dist.broadcast_object_list(names)
        self._folder = path / names[0]
        writer = FileSystemWriter(self._folder)
        if not self._is_asynchronous:
            with _one_line(self._folder):
                save(dict(tensors), storage_writer=writer)
                _commit(meta, self._folder)
            return
        if self._group is None:
            self._group = dist.new_group(backend="gloo")
        # a CPU's tensors would be written where they lie, while they are trained on
        still = {name: tensor.detach().clone() if tensor.is_cpu else tensor for name, tensor in tensors.items()}
        meta, folder = copy.deepcopy(dict(meta)), self._folder
        saved: Any = async_save(still, storage_writer=writer, process_group=self._group)
        self._pending = Future()

        def commit(done: Future[Any], pending: Future[Any] = self._pending) -> None:
            try:
                done.result()
                _commit(meta, folder)
                pending.set_result(None)
            except BaseException as error:  # it is the training thread's to say
                pending.set_exception(error)

        saved.add_done_callback(commit)

    def wait(self) -> None:
        """Wait for what is being written.

        Raises:
            CheckpointError: if it could not be.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            with _one_line(self._folder):
                pending.result()


def load_into(tensors: dict[str, Tensor], path: str | Path) -> None:
    """Fill tensors, each rank its shards; all ranks call this.

    Raises:
        CheckpointError: if one is missing or damaged.
    """
    from torch.distributed.checkpoint.state_dict_loader import load

    from xlab.shard_reading import PlainReader

    try:
        load(tensors, storage_reader=PlainReader(shards_of(path)))
    except _failures() as error:
        raise CheckpointError(f"cannot take up {path}: {_reason(error)}") from error


def read_meta(path: str | Path) -> dict[str, Any]:
    """Read all but the shards, weights-only.

    Raises:
        CheckpointError: if it is damaged.
    """
    with readable(path):
        meta: dict[str, Any] = torch.load(Path(path) / META, map_location="cpu", weights_only=True)
        if not isinstance(meta[LAYOUT], dict):
            raise TypeError(f"{META} has no table of its shards")
    return meta


def shards_of(path: str | Path) -> Path:
    """Give the folder of shards that belong to a checkpoint.

    Raises:
        CheckpointError: if it is not one of the checkpoint's own.
    """
    layout = read_meta(path)[LAYOUT]
    with readable(path):
        return _shards_in(Path(path), layout)


def read(path: str | Path, *, with_optimizer: bool = False) -> dict[str, Any]:
    """Put a checkpoint together in this process: the content of the ``.ckpt`` that one process would have written.

    Where its run replaces it meanwhile, the new one is read.

    Args:
        path: the folder.
        with_optimizer: whether to read what the optimiser keeps; without it ``optimizer_states`` is empty.

    Raises:
        CheckpointError: if files are missing or damaged, or are not plain tensors.
    """
    for _ in range(_TRIES):
        meta = read_meta(path)
        try:
            return _together(Path(path), meta, with_optimizer)
        except CheckpointError:
            if read_meta(path)[LAYOUT].get("folder") == meta[LAYOUT].get("folder"):
                raise
    raise CheckpointError(f"{path} is replaced by its run faster than it can be read; read it when the run is over")


def _together(path: Path, meta: dict[str, Any], with_optimizer: bool) -> dict[str, Any]:
    from xlab.shard_reading import read_shards

    with readable(path):
        layout, content = meta[LAYOUT], {name: value for name, value in meta.items() if name != LAYOUT}
        prefix = "" if with_optimizer else WEIGHTS
        whole = read_shards(_shards_in(path, layout), layout["cut"], lambda name: name.startswith(prefix))
        content["state_dict"] = _under(whole, WEIGHTS)
        content["optimizer_states"] = [
            _numbered(state, _under(whole, f"optimizer_{number}."))
            for number, state in enumerate(layout["optimizers"] if with_optimizer else [])
        ]
    return content


def read_whole(path: str | Path, key: str, cut: Mapping[str, Any]) -> Tensor:
    """Read a tensor of a checkpoint, put together from its parts where ``cut`` says it has some.

    Raises:
        CheckpointError: if it is missing or damaged.
    """
    from xlab.shard_reading import read_shards

    parts = {key: cut[key]} if key in cut else {}
    with readable(path):
        return read_shards(shards_of(path), parts, lambda name: name == key or name.startswith(f"{key}/"))[key]


@contextlib.contextmanager
def readable(path: str | Path) -> Iterator[None]:
    """Say of whatever fails while a checkpoint is read that it is damaged, in a line.

    Raises:
        CheckpointError: naming the checkpoint.
    """
    try:
        yield
    except CheckpointError:
        raise
    except _failures() as error:  # whatever a damaged index leads to
        raise CheckpointError(f"{path} is no checkpoint, or was cut short: {_reason(error)}") from error


def remove_leftovers(folder: str | Path) -> None:
    """Remove the shards that no checkpoint of a folder names; nobody may be writing there."""
    for path in Path(folder).glob("*.ckpt"):
        try:
            kept = shards_of(path).name if is_sharded(path) else None
        except CheckpointError:  # damaged: which of them belong to it cannot be told
            continue
        for shards in path.glob(f"{SHARDS}*"):
            if shards.name != kept:
                shutil.rmtree(shards, ignore_errors=True)


def _commit(meta: Mapping[str, Any], folder: Path) -> None:
    """Make shards that are whole the checkpoint's, and remove those that were; the first rank does."""
    if dist.get_rank():
        return
    path = folder.parent
    content = {**meta, LAYOUT: {**meta[LAYOUT], "folder": folder.name}}
    with renamed_when_whole(path / META) as temporary, open(temporary, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    for shards in path.glob(f"{SHARDS}*"):
        if shards != folder:
            shutil.rmtree(shards, ignore_errors=True)


@contextlib.contextmanager
def _one_line(folder: Path) -> Any:
    try:
        yield
    except _failures() as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise CheckpointError(
            f"cannot write {folder.parent}: {_reason(error)}; the checkpoint that was there is as it was"
        ) from error


def _failures() -> tuple[type[BaseException], ...]:
    """What torch's format raises: errors of no kind, and for those of any rank one that is no Exception."""
    from torch.distributed.checkpoint.api import CheckpointException

    return Exception, CheckpointException


def lost_rank(error: BaseException) -> str | None:
    """Give the words in which gloo or NCCL say that another rank has gone; None of any other error."""
    return next((words for words in _GONE if words in str(error)), None)


def _reason(error: BaseException) -> str:
    """Say in a line what failed, on whichever rank it was."""
    failures = getattr(error, "failures", None) or {0: (error, None)}
    cause = next(iter(failures.values()))[0]
    if isinstance(cause, EOFError):  # which has no words
        return "a file ends too soon"
    if isinstance(cause, KeyError):  # whose words are the key alone
        return f"it has no {cause}"
    text = (str(cause) or type(cause).__name__).splitlines()[0]
    if (words := lost_rank(cause)) is not None:
        return f"another rank was lost ({words})"
    if "inline_container" in text:  # torch's writer, of a write that fell short
        return "a file could not be written whole (is the disk full?)"
    if "weights_only" in text:  # and how to run what is hidden there
        return "a file is damaged, or would have to be unpickled, which can run code hidden in it"
    return str(getattr(cause, "strerror", None) or text)


def _shards_in(path: Path, layout: Mapping[str, Any]) -> Path:
    name = str(layout["folder"])
    if not name.startswith(SHARDS) or Path(name).name != name:
        raise CheckpointError(f"{path} is damaged: it names the folder {name!r}, which is none of its own")
    return path / name


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _numbered(state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Make an optimiser's state as torch has it, its parameters numbered in the order of its groups."""
    names = [name for group in state["groups"] for name in group["params"]]
    numbers = {name: number for number, name in enumerate(names)}
    groups = [{**group, "params": [numbers[name] for name in group["params"]]} for group in state["groups"]]
    kept: dict[int, dict[str, Any]] = {numbers[name]: dict(own) for name, own in state["small"].items()}
    for key, tensor in tensors.items():
        name, _, what = key.rpartition(":")
        kept.setdefault(numbers[name], {})[what] = tensor
    return {"state": kept, "param_groups": groups}
