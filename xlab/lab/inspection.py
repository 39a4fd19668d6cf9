"""What a checkpoint holds, and what its model is and costs: counted on tensors without content, nothing of it run."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from xlab import checkpoints
from xlab.checkpoints import Checkpoint
from xlab.data.tokenizers.special_tokens import SEP
from xlab.errors import CheckpointError
from xlab.lab.changed_settings import changed
from xlab.lab.parameters import PARTS, by_part
from xlab.lab.run_folder import Run
from xlab.transformer.decoder import Decoder
from xlab.transformer.flops import flops_per_token
from xlab.transformer.footprint import refuse_beyond_memory
from xlab.transformer.lora import A, B
from xlab.transformer.mixture_of_experts import mixtures
from xlab.transformer.unfilled import unfilled

# of a model's settings, those that are its size
SIZES = ("vocab_size", "max_len", "d_model", "n_layers", "n_heads", "d_ff")


@dataclass(frozen=True)
class Model:
    """A model, as its settings make it.

    Args:
        sizes: as the settings have them; what they leave to a part is left out.
        parameters: by part, as ``by_part`` gives them.
        active: of them, those that a token meets: of a mixture's experts as many as are chosen.
        flops_per_token: of training, at the longest context.
        cache_bytes_per_token: that the KV cache holds of a token of a text, in the precision of ``cache_dtype``.
        cache_dtype: of keys and values.
        windows: how many layers see how far, in tokens; under None those that see everything.
        changed: settings that are not the defaults, by dotted keys: the value, and the default.
    """

    sizes: dict[str, int]
    parameters: dict[str, int]
    active: int
    flops_per_token: int
    cache_bytes_per_token: int
    cache_dtype: str
    windows: dict[int | None, int]
    changed: dict[str, tuple[Any, Any]]

    @property
    def n_parameters(self) -> int:
        """All of them."""
        return sum(self.parameters.values())


@dataclass(frozen=True)
class File:
    """What else a checkpoint holds.

    Args:
        path: its own.
        bytes: of the file.
        weights: numbers by their precision.
        corrections: numbers of low-rank corrections beside the model's own; they are merged on export.
        resumable: whether training can go on from it.
        tokenizer: ``kind``, ``size`` and, by id, ``specials``.
        info: step, metrics, precision, data fingerprint and XLab's version at the moment it was saved.
        versions: of Python and packages, as the run beside it recorded them; empty without a run.
    """

    path: Path
    bytes: int
    weights: dict[str, int]
    corrections: int
    resumable: bool
    tokenizer: dict[str, Any]
    info: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)


def inspect_model(
    settings: Mapping[str, Any], *, dtype: torch.dtype = torch.float32, defaults: Mapping[str, Any] | None = None
) -> Model:
    """Look at the model that settings make; no memory is taken for its weights.

    Args:
        settings: the arguments of ``XLabModel``, as plain data.
        dtype: of the KV cache.
        defaults: settings of the default experiment, to tell what is not as there.

    Raises:
        ConfigError: when they make no model, or one that cannot be looked at, such as of a billion layers.
    """
    with unfilled():
        refuse_beyond_memory(settings, checkpoints.build_decoder)
        decoder = checkpoints.build_decoder(settings)
    parameters = by_part((name, weight.numel()) for name, weight in decoder.named_parameters())
    windows = Counter(getattr(layer.attention, "window", None) for layer in _blocks(decoder))
    return Model(
        sizes={name: settings[name] for name in SIZES if settings.get(name) is not None},
        parameters=parameters,
        active=sum(parameters.values()) - sum(mixture.idle_weights() for mixture in mixtures(decoder)),
        flops_per_token=flops_per_token(decoder, decoder.max_len),
        cache_bytes_per_token=decoder.cache_bytes(1, 1, dtype=dtype),
        cache_dtype=str(dtype).removeprefix("torch."),
        windows=dict(windows),
        changed=changed(settings, defaults),
    )


def inspect_checkpoint(checkpoint: Checkpoint, *, defaults: Mapping[str, Any] | None = None) -> tuple[Model, File]:
    """Look at a checkpoint that was read.

    Args:
        checkpoint: nothing of it is built.
        defaults: as for ``inspect_model``.

    Raises:
        CheckpointError: when its settings make no model, or its weights are not that model's.
    """
    own = {name: weight for name, weight in checkpoint.weights.items() if name.rpartition(".")[2] not in (A, B)}
    precisions = Counter[str]()
    for weight in checkpoint.weights.values():
        precisions[str(weight.dtype).removeprefix("torch.")] += weight.numel()
    widest = max((weight.dtype for weight in own.values()), key=lambda dtype: dtype.itemsize, default=torch.float32)
    try:
        model = inspect_model(checkpoint.model, dtype=widest, defaults=defaults)
    except CheckpointError:
        raise
    except Exception as error:  # a class of the wrong kind, or with wrong arguments, fails in its own way
        raise CheckpointError(f"{checkpoint.path}: its settings build no model: {error}") from error
    held = by_part((name, weight.numel()) for name, weight in own.items())
    if wrong := [part for part in PARTS if held[part] != model.parameters[part]]:
        told = ", ".join(f"{part} {held[part]:,}, the model has {model.parameters[part]:,}" for part in wrong)
        raise CheckpointError(f"the weights of {checkpoint.path} do not fit the model: {told}")
    return model, File(
        path=checkpoint.path,
        bytes=checkpoint.path.stat().st_size,
        weights=dict(precisions),
        corrections=sum(checkpoint.weights[name].numel() for name in checkpoint.weights.keys() - own.keys()),
        resumable=checkpoint.resumable,
        tokenizer=_tokenizer(checkpoint),
        info=checkpoint.info,
        versions=Run(checkpoint.path.parent.parent).record.get("versions", {}),
    )


def as_json(model: Model, file: File | None) -> dict[str, Any]:
    """Give what was found as plain data."""
    windows = [{"tokens": window, "layers": layers} for window, layers in model.windows.items()]
    told = asdict(model) | {"windows": windows, "n_parameters": model.n_parameters}
    told["changed"] = {key: {"value": value, "default": was} for key, (value, was) in model.changed.items()}
    return {"model": told, "file": None if file is None else asdict(file) | {"path": str(file.path)}}


def _blocks(decoder: Decoder) -> Iterator[Any]:
    yield from decoder.blocks


def _tokenizer(checkpoint: Checkpoint) -> dict[str, Any]:
    tokenizer = checkpoints.restore_tokenizer(checkpoint)
    specials = {
        tokenizer.sos_token: tokenizer.sos_id,
        tokenizer.eos_token: tokenizer.eos_id,
        tokenizer.pad_token: tokenizer.pad_id,
    }
    if tokenizer.sep_id is not None:
        specials[SEP] = tokenizer.sep_id
    kind = json.loads(checkpoint.tokenizer)["model"].get("type", "unknown")
    return {"kind": kind, "size": len(tokenizer), "specials": specials}
