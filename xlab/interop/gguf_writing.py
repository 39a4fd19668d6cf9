"""Write a checkpoint as a GGUF file for llama.cpp's family, tensor by tensor."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xlab.checkpoints import Checkpoint, restore_tokenizer
from xlab.interop.errors import ConversionError
from xlab.interop.families import fitting
from xlab.interop.families.normal_form import normal
from xlab.interop.gguf_file import import_gguf
from xlab.interop.gguf_names import Architecture, architecture_of, rules
from xlab.interop.gguf_settings import ROPE_FACTORS, metadata_of, misfits, rope_factors
from xlab.interop.gguf_tokenizer import CHAT_TEMPLATE
from xlab.interop.gguf_tokenizer import metadata_of as tokenizer_metadata
from xlab.interop.safetensors_writing import PendingTensor

# the names of general.file_type, by what the matrices are written in
_FILE_TYPES = {torch.float32: "ALL_F32", torch.float16: "MOSTLY_F16", torch.bfloat16: "MOSTLY_BF16"}


def write(checkpoint: Checkpoint, path: Path, dtype: torch.dtype | None = None) -> None:
    """Write the file.

    Args:
        checkpoint: the model.
        path: of the file, which must not exist.
        dtype: of the matrices, None for what they are in; vectors are float32, as llama.cpp asks.

    Raises:
        ConversionError: naming every part of the model, or of its tokenizer, that GGUF has no equal for.
    """
    metadata, tensors = plan(checkpoint, dtype)
    gguf = import_gguf()
    architecture = metadata.pop("general.architecture")
    writer = gguf.GGUFWriter(str(path), architecture)
    for key, value in metadata.items():
        _add(writer, key, value)
    kinds = {
        torch.float32: gguf.GGMLQuantizationType.F32,
        torch.float16: gguf.GGMLQuantizationType.F16,
        torch.bfloat16: gguf.GGMLQuantizationType.BF16,
    }
    matrices = [tensor.dtype for tensor in tensors if len(tensor.shape) > 1]
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[max(matrices, key=matrices.count)]])
    for tensor in tensors:
        writer.add_tensor_info(tensor.name, tensor.shape, None, tensor.n_bytes, kinds[tensor.dtype])
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(tensor.made().reshape(-1).view(torch.uint8).numpy())
    finally:
        writer.close()


def plan(checkpoint: Checkpoint, dtype: torch.dtype | None = None) -> tuple[dict[str, Any], list[PendingTensor]]:
    """Give what the file will say of the model, and the tensors that it will hold, none of them made yet.

    Raises:
        ConversionError: as ``write``.
    """
    settings = checkpoint.model
    family = fitting(settings)
    architecture = architecture_of(family.model_type)
    form = normal(settings)
    table = rules(architecture, checkpoint.weights, form)
    names = {name for rule in table for name in rule.theirs}
    if found := misfits(architecture, family, settings, names):
        raise ConversionError(f"llama.cpp's {architecture.name} has no equal for {'; '.join(found)}")
    tokenizer = restore_tokenizer(checkpoint)
    config = family.config(settings)
    metadata = {
        "general.architecture": architecture.name,
        "general.name": "xlab",
        f"{architecture.name}.vocab_size": form["vocab_size"],
        **metadata_of(architecture, config),
        **tokenizer_metadata(tokenizer, form["vocab_size"]),
    }
    if isinstance(template := checkpoint.info.get("chat_template"), str):
        metadata[CHAT_TEMPLATE] = template
    tensors = [
        _pending(name, checkpoint.weights[rule.ours], rule.split, index, dtype)
        for rule in table
        for index, name in enumerate(rule.theirs)
    ]
    tensors += _extra(architecture, checkpoint.weights, config, dtype)
    return metadata, tensors


def _pending(name: str, ours: Tensor, split: Any, index: int, dtype: torch.dtype | None) -> PendingTensor:
    shape = tuple(split(ours.to("meta"))[index].shape)
    written = torch.float32 if len(shape) == 1 or ours.dtype not in _FILE_TYPES else dtype or ours.dtype
    return PendingTensor(name, shape, written, lambda: split(ours)[index])


def _extra(
    architecture: Architecture, weights: Mapping[str, Tensor], config: Mapping[str, Any], dtype: torch.dtype | None
) -> Sequence[PendingTensor]:
    """What XLab computes or shares, and the file must hold."""
    extra = []
    factors = rope_factors(config)
    if factors is not None:
        extra.append(PendingTensor(ROPE_FACTORS, tuple(factors.shape), torch.float32, lambda: factors))
    if architecture.ties is False and "output.weight" not in weights:
        embedding = weights["embedding.weight"]
        extra.append(_pending("output.weight", embedding, lambda tensor: [tensor], 0, dtype))
    return extra


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
