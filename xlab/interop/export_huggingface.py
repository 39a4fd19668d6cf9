"""Write a checkpoint as a folder that ``transformers`` and vLLM load: configuration, safetensors and tokenizer."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from xlab import factories
from xlab.checkpoints import Checkpoint, restore_tokenizer
from xlab.data.chat_template import ChatTemplate
from xlab.data.tokenizers import Tokenizer
from xlab.interop.errors import ConversionError
from xlab.interop.families import Family, TensorRule, fitting
from xlab.interop.gguf_tokenizer import pre_tokenizer_name
from xlab.interop.safetensors_writing import PendingTensor, write_shards

_DTYPE_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


def write(checkpoint: Checkpoint, folder: Path, *, dtype: torch.dtype | None, max_shard_bytes: int) -> None:
    """Write the folder.

    Args:
        checkpoint: the model.
        folder: to write into; it exists and is empty.
        dtype: of the weights; None for what they are in.
        max_shard_bytes: the most that a file of weights may hold.

    Raises:
        ConversionError: if no known family has all of the model's parts; it names those that do not fit.
    """
    tokenizer = restore_tokenizer(checkpoint)
    family = fitting(checkpoint.model)
    if family.model_type == "qwen2" and not _is_qwen2s(tokenizer):
        checkpoint, family = _as_llama(checkpoint, family)
    tensors = list(pending(family.tensors(checkpoint.model), checkpoint, dtype))
    write_shards(folder, tensors, max_shard_bytes)
    roles = _role_ids(tokenizer, int(checkpoint.model["vocab_size"]))
    config = family.config(checkpoint.model) | roles | {"dtype": _most_used(tensors), "use_cache": True}
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", roles)
    (folder / "tokenizer.json").write_text(_with_start(tokenizer, roles), encoding="utf-8")
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(checkpoint, tokenizer))


def _is_qwen2s(tokenizer: Tokenizer) -> bool:
    content = json.loads(tokenizer.to_json())
    try:
        name = pre_tokenizer_name(content)
    except ConversionError:
        return False
    return name == "qwen2" and (content.get("normalizer") or {}).get("type") == "NFC"


def _as_llama(checkpoint: Checkpoint, family: Family) -> tuple[Checkpoint, Family]:
    """Give a Qwen2 model as the Llama that it is but for biases of attention's outputs: they are added as zeros.

    transformers 5 reads any tokenizer beside a model_type of qwen2 as Qwen2's own, with that one's way of cutting text,
    whatever its files say; so a model with a tokenizer of another kind must go by another name.
    """
    attention = factories.plain(checkpoint.model["attention"])
    described: dict[str, Any] = {"class_path": attention} if isinstance(attention, str) else dict(attention)
    described["init_args"] = {**(described.get("init_args") or {}), "out_bias": True}
    settings = {**checkpoint.model, "attention": described}
    try:
        other = fitting(settings)
    except ConversionError:  # it has sliding windows, too
        return checkpoint, family
    width = int(settings["d_model"])
    outputs = [name for name in checkpoint.weights if name.endswith(".attention.out.weight")]
    zeros = {f"{name.removesuffix('weight')}bias": checkpoint.weights[name].new_zeros(width) for name in outputs}
    return replace(checkpoint, model=settings, weights={**checkpoint.weights, **zeros}), other


def pending(rules: Iterable[TensorRule], checkpoint: Checkpoint, dtype: torch.dtype | None) -> Iterable[PendingTensor]:
    """Give the tensors that a table makes of a checkpoint's weights, none of them made yet."""
    for rule in rules:
        ours = checkpoint.weights[rule.ours]
        for index, (name, piece) in enumerate(zip(rule.theirs, rule.split(ours.to("meta")), strict=True)):

            def make(rule: TensorRule = rule, index: int = index) -> torch.Tensor:
                return rule.split(checkpoint.weights[rule.ours])[index]

            yield PendingTensor(name, tuple(piece.shape), dtype or ours.dtype, make)


def _role_ids(tokenizer: Tokenizer, vocab_size: int) -> dict[str, int]:
    roles = {"bos": tokenizer.sos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
    return {f"{role}_token_id": number for role, number in roles.items() if number < vocab_size}


def _tokenizer_config(checkpoint: Checkpoint, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        # the class that takes tokenizer.json as it is, whatever the model
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.sos_token,
        "eos_token": tokenizer.eos_token,
        "pad_token": tokenizer.pad_token,
        "model_max_length": checkpoint.model["max_len"],
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **_chat_template(checkpoint, tokenizer),
    }


def _chat_template(checkpoint: Checkpoint, tokenizer: Tokenizer) -> dict[str, str]:
    """Give the chat template, if there is one.

    transformers puts nothing before what it writes, so that of a model that learnt conversations here writes the start.
    """
    template = checkpoint.info.get("chat_template")
    if not isinstance(template, str):
        return {}
    begins = not checkpoint.data.get("chat") or ChatTemplate(template, tokenizer).writes_start()
    return {"chat_template": template if begins else "{{ bos_token }}" + template}


def _with_start(tokenizer: Tokenizer, roles: Mapping[str, int]) -> str:
    """Give the tokenizer.json; it puts the start before a text, as every document that the model saw had it.

    A tokenizer that came with a template of its own keeps that.
    """
    content = json.loads(tokenizer.to_json())
    own = content.get("post_processor")
    if "bos_token_id" in roles and (own is None or own.get("type") == "ByteLevel"):
        start = {"SpecialToken": {"id": tokenizer.sos_token, "type_id": 0}}
        content["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [start, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [start, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {
                tokenizer.sos_token: {
                    "id": tokenizer.sos_token,
                    "ids": [tokenizer.sos_id],
                    "tokens": [tokenizer.sos_token],
                }
            },
        }
    return json.dumps(content, ensure_ascii=False)


def _most_used(tensors: list[PendingTensor]) -> str:
    sizes: dict[torch.dtype, int] = {}
    for tensor in tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.n_bytes
    return _DTYPE_NAMES.get(max(sizes, key=lambda dtype: sizes[dtype]), "float32")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
