"""Checkpoint files as plain settings, weights and tokenizer; reading never runs what a file brings along.

A training ``.ckpt`` and an exported ``.pt`` hold the same two things: ``xlab``, the header of plain data that
``header`` makes, and ``state_dict``, the weights. A ``.ckpt`` also holds what Lightning needs to go on training.
"""

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xlab import __version__, factories, sharded_checkpoints
from xlab.checkpoint_writing import write
from xlab.data.tokenizers import Tokenizer
from xlab.errors import CheckpointError, ConfigError, DataError
from xlab.setting_names import OPTIONAL_PARTS, PARTS, SIZES
from xlab.sharded_checkpoints import is_sharded
from xlab.transformer.decoder import Decoder
from xlab.transformer.footprint import claims_too_much, refuse_beyond_memory
from xlab.transformer.lora import LoRA
from xlab.transformer.unfilled import unfilled
from xlab.trusted_classes import allow_module as allow_module  # the word of those who read checkpoints in Python
from xlab.trusted_classes import check_classes

FORMAT = 1
DECODER_PREFIX = "decoder."


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file says, nothing of it built yet.

    Attributes:
        path: the file.
        model: the arguments of the model's class, as plain data.
        data: the arguments of the datamodule's class, as plain data; its tokenizer is in ``tokenizer``.
        tokenizer: the tokenizer as JSON.
        weights: the decoder's parameters by name.
        info: step, metrics, data fingerprint, precision and XLab's version when it was saved.
        resumable: whether it holds the state of a training run.
    """

    path: Path
    model: dict[str, Any]
    data: dict[str, Any]
    tokenizer: str
    weights: dict[str, Tensor]
    info: dict[str, Any]
    resumable: bool


def header(*, model: Any, data: Any, tokenizer: str, info: Mapping[str, Any]) -> dict[str, Any]:
    """Make the plain part of a checkpoint.

    Raises:
        ConfigError: if a setting is not plain data.
    """
    settings = {"model": factories.plain(model, "model"), "data": factories.plain(data, "data")}
    info = {"xlab_version": __version__, **factories.plain(dict(info), "info")}
    return {"format": FORMAT, **settings, "tokenizer": tokenizer, "info": info}


def find(path: str | Path, *, names: Sequence[str] = ("best.ckpt", "last.ckpt")) -> Path:
    """Give the checkpoint file at ``path``: itself, or the first of ``names`` that a run folder has.

    Raises:
        CheckpointError: if there is none.
    """
    if "://" in str(path):
        raise CheckpointError(f"{path} is an address; download the checkpoint and give the file's path")
    path = Path(path)
    if path.is_file() or is_sharded(path):
        return path
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint {path}")
    for folder in (path / "checkpoints", path):
        for name in names:
            if (folder / name).is_file() or is_sharded(folder / name):
                return folder / name
    raise CheckpointError(f"{path} is a folder without checkpoints/{' or checkpoints/'.join(names)}; name the file")


def read(path: str | Path, map_location: Any = "cpu") -> Checkpoint:
    """Read a checkpoint, weights-only, and check that its classes may be imported before any is.

    Args:
        path: a ``.ckpt`` (a file, or the folder that several ranks wrote), a ``.pt``, or a run folder.
        map_location: where the weights go, as in ``torch.load``; those of a folder are in ordinary memory.

    Raises:
        CheckpointError: if it is missing, cut short, no checkpoint of XLab's, made by a newer XLab, would have to be
            unpickled, or names a class outside the allow-list.
    """
    path = find(path)
    content = sharded_checkpoints.read(path) if is_sharded(path) else _load(path, map_location)
    head = content.get("xlab") if isinstance(content, dict) else None
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(head, dict) or not isinstance(state, dict):
        raise CheckpointError(f"{path} is not a checkpoint of XLab's: it lacks the xlab header or the weights")
    if head.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {head.get('format')!r}, this XLab reads {FORMAT}; use its own version"
        )
    sections = {"model": dict, "data": dict, "tokenizer": str, "info": dict}
    for key, kind in sections.items():
        if not isinstance(head.get(key), kind):
            raise CheckpointError(f"{path} is damaged: its header has no {key}")
    try:
        json.dumps(head)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: its header is not plain data ({error})") from error
    for name, weight in state.items():
        if not isinstance(name, str) or not isinstance(weight, Tensor) or weight.layout != torch.strided:
            raise CheckpointError(f"{path} is damaged: {name!r} of its weights is no plain tensor")
    if too_much := claims_too_much(head["model"], state):
        raise CheckpointError(f"{path} is damaged: {too_much}")
    for settings in (head["model"], head["data"]):
        check_classes(settings, path)
    return Checkpoint(
        path=path,
        **{key: head[key] for key in sections},
        weights={name.removeprefix(DECODER_PREFIX): weight for name, weight in state.items()},
        resumable="optimizer_states" in content,
    )


def load(path: str | Path, device: str | torch.device = "cpu") -> tuple[Decoder, Tokenizer]:
    """Give the decoder, ready for inference, and the tokenizer of a checkpoint, without importing Lightning.

    Raises:
        CheckpointError: as ``read``, and if the weights do not fit the settings.
    """
    return restore(read(path, map_location=device), device)


def restore(checkpoint: Checkpoint, device: str | torch.device = "cpu") -> tuple[Decoder, Tokenizer]:
    """Give what ``load`` gives, of a checkpoint that was read.

    Raises:
        CheckpointError: if the weights do not fit the settings.
    """
    decoder = restore_decoder(checkpoint).to(device)
    return decoder.eval().requires_grad_(False), restore_tokenizer(checkpoint)


def max_meta_len(checkpoint: Checkpoint) -> int | None:
    """Tell how many tokens of meta a model was trained with; None for one that knows no meta."""
    settings = checkpoint.data.get("meta")
    found = settings.get("max_meta_len") if isinstance(settings, Mapping) else None
    return found if isinstance(found, int) else None


def restore_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """Make the tokenizer that a checkpoint carries."""
    try:
        return Tokenizer.from_json(checkpoint.tokenizer)
    except DataError as error:
        raise CheckpointError(f"{checkpoint.path} is damaged: {error}") from error


def build_decoder(settings: Mapping[str, Any]) -> Decoder:
    """Make an untrained decoder from the arguments of ``XLabModel``; those it does not know are the training's."""
    given = {key: settings[key] for key in PARTS if settings.get(key) is not None}
    if empty := [key for key in PARTS if key in settings and key not in given and key not in OPTIONAL_PARTS]:
        raise ConfigError(f"model.{empty[0]} is empty; name a class, or leave the line out")
    arguments: dict[str, Any] = {key: settings[key] for key in SIZES if key in settings}
    arguments |= {key: factories.factory(part) for key, part in given.items()}
    return Decoder(**arguments)


def restore_decoder(checkpoint: Checkpoint) -> Decoder:
    """Make the decoder that a checkpoint describes, with its weights."""
    checkpoint = merged(checkpoint)
    try:
        with torch.random.fork_rng(devices=[]):  # no draw of the caller's is used up
            decoder = _bare_decoder(checkpoint)
            if decoder is None:
                refuse_beyond_memory(checkpoint.model, build_decoder)
                decoder = build_decoder(checkpoint.model)
                fill(decoder, checkpoint)
            else:
                own = decoder.state_dict()
                # copies: a file that is overwritten in place would change, or end, a model that read it where it lies
                weights = {name: weight.to(own[name].dtype, copy=True) for name, weight in checkpoint.weights.items()}
                decoder.load_state_dict(weights, assign=True)
    except CheckpointError:
        raise
    except Exception as error:  # a class of the wrong kind, or with wrong arguments, fails in its own way
        raise CheckpointError(f"{checkpoint.path}: its settings build no model: {error}") from error
    return decoder


def check_usable(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that no model could be made of. No second copy of the weights is made.

    Raises:
        CheckpointError: if the weights do not fit the settings.
    """
    try:
        is_usable = _bare_decoder(checkpoint) is not None
    except Exception:  # of any kind, where the settings are wrong; restore_decoder says which
        is_usable = False
    if not is_usable:
        restore_decoder(checkpoint)


def _bare_decoder(checkpoint: Checkpoint) -> Decoder | None:
    """The decoder without its weights, for which no memory and no time is taken; None where that is not all it lacks.

    Parts of someone else's may compute with tensors as they are made, and keep some that no checkpoint holds.
    """
    try:
        with unfilled():
            refuse_beyond_memory(checkpoint.model, build_decoder)
            decoder = build_decoder(checkpoint.model)
    except Exception as error:
        if "meta" in str(error):
            return None
        raise
    _check_fit(decoder, checkpoint)
    are_ours = all(type(part).__module__.startswith(("xlab.", "torch.")) for part in decoder.modules())
    own = decoder.state_dict()
    return decoder if are_ours and all(name in own for name, b in decoder.named_buffers() if b.is_meta) else None


def merged(checkpoint: Checkpoint) -> Checkpoint:
    """Give a checkpoint whose low-rank corrections are part of its weights, and no longer of its settings.

    Raises:
        CheckpointError: for half a correction, or settings of none.
    """
    if checkpoint.model.get("lora") is None:
        return checkpoint
    try:
        lora = factories.build(checkpoint.model["lora"])
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{checkpoint.path}: its model.lora is none: {error}") from error
    if not isinstance(lora, LoRA):
        raise CheckpointError(f"{checkpoint.path}: its model.lora is a {type(lora).__name__}, not a LoRA")
    # what was frozen, and learnt at which rate, are the corrections' settings, too
    model = {**checkpoint.model, "lora": None, "freeze": None, "learning_rates": None}
    return replace(checkpoint, model=model, weights=lora.merged(checkpoint.weights))


def fill(decoder: Decoder, checkpoint: Checkpoint) -> None:
    """Copy a checkpoint's weights into ``decoder``.

    Raises:
        CheckpointError: naming every weight that is missing, surplus or of another shape.
    """
    checkpoint = merged(checkpoint)
    _check_fit(decoder, checkpoint)
    decoder.load_state_dict(checkpoint.weights)


def _check_fit(decoder: Decoder, checkpoint: Checkpoint) -> None:
    own = decoder.state_dict()
    wrong = [f"{name} is missing" for name in own.keys() - checkpoint.weights.keys()]
    wrong += [f"{name} is not in the model" for name in checkpoint.weights.keys() - own.keys()]
    for name in own.keys() & checkpoint.weights.keys():
        if (shape := tuple(checkpoint.weights[name].shape)) != tuple(own[name].shape):
            wrong.append(f"{name} is {shape}, the model has {tuple(own[name].shape)}")
    if wrong:
        raise CheckpointError(f"the weights of {checkpoint.path} do not fit the model: {'; '.join(sorted(wrong))}")


def export(path: str | Path, folder: str | Path) -> tuple[Path, bool]:
    """Write the clean checkpoint of ``path`` into ``folder``: weights, settings and tokenizer, named by content.

    Returns:
        The file, and whether it was already there.

    Raises:
        CheckpointError: as ``read``, and if a file of that name holds other content.
    """
    checkpoint = merged(read(path))
    check_usable(checkpoint)  # or it is not worth exporting
    return store(checkpoint, folder)


def store(checkpoint: Checkpoint, folder: str | Path) -> tuple[Path, bool]:
    """Write a checkpoint that was read, or imported, into ``folder``, named by content; returns as ``export``."""
    digest = content_hash(checkpoint)
    target = Path(folder) / f"xlab-{digest[:16]}.pt"
    if target.exists() or target.is_symlink():
        with contextlib.suppress(CheckpointError):
            if content_hash(read(target)) == digest:
                return target, True
        raise CheckpointError(f"{target} exists and holds something else; move it, or choose another --output")
    head = header(
        model=checkpoint.model, data=checkpoint.data, tokenizer=checkpoint.tokenizer, info=dict(checkpoint.info)
    )
    head["info"]["xlab_version"] = checkpoint.info.get("xlab_version", __version__)
    weights = {DECODER_PREFIX + name: weight for name, weight in checkpoint.weights.items()}
    write({"xlab": head, "state_dict": weights}, target)
    return target, False


def content_hash(checkpoint: Checkpoint) -> str:
    """Digest everything an exported checkpoint holds, independent of how the file is laid out."""
    digest = hashlib.sha256()
    plain = [checkpoint.model, checkpoint.data, checkpoint.tokenizer, checkpoint.info]
    digest.update(json.dumps(plain, sort_keys=True).encode())
    for name, weight in sorted(checkpoint.weights.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _load(path: Path, map_location: Any) -> Any:
    try:
        # mmap: the optimiser's state in a .ckpt is not read from the disk just to be thrown away
        mapped = zipfile.is_zipfile(path)
        return torch.load(path, map_location=map_location, weights_only=True, mmap=mapped)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:
        message = str(error)
        if "weights_only" in message.lower() or "Unsupported" in message:
            raise CheckpointError(
                f"{path} would have to be unpickled, which can run code hidden in it; "
                "XLab reads plain tensors and plain data only"
            ) from error
        raise CheckpointError(
            f"{path} is no checkpoint, or was cut short: {(message or type(error).__name__).splitlines()[0]}"
        ) from error
