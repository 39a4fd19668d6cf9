"""Folders as people publish models: configuration, safetensors and tokenizer, with random weights."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

EOS = "<|endoftext|>"
LLAMA = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "max_position_embeddings": 64},
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}


def small_tokenizer(size: int = 300) -> Tokenizer:
    """Train byte-level BPE with GPT-2's one special token; it has fewer tokens than asked, 256 and a few."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[EOS], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["the cat sees a dog, and the dog sees the cat."] * 5, trainer)
    return tokenizer


def write_folder(
    path: Path, model_type: str = "gpt2", *, n_rows: int | None = None, shard: str = "5GB", **fields: Any
) -> Any:
    """Write a model's folder with transformers, and give the model.

    Args:
        path: the folder.
        model_type: of its family.
        n_rows: of the embedding; as many as the tokenizer has tokens if not given.
        shard: the most that a file of weights may hold.
        fields: of the configuration.
    """
    import transformers

    tokenizer = small_tokenizer()
    eos = tokenizer.token_to_id(EOS)
    sizes = {"vocab_size": n_rows or tokenizer.get_vocab_size(), "bos_token_id": eos, "eos_token_id": eos}
    torch.manual_seed(0)
    fields = {**(GPT2 if model_type == "gpt2" else LLAMA), **fields}
    config = transformers.AutoConfig.for_model(model_type, **sizes, pad_token_id=None, **fields)
    model = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    model.save_pretrained(path, max_shard_size=shard)
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"bos_token": EOS, "eos_token": EOS}))
    return model


def change_config(folder: Path, **fields: Any) -> None:
    """Change fields of a folder's config.json; None removes one."""
    content = json.loads((folder / "config.json").read_text()) | fields
    kept = {key: value for key, value in content.items() if value is not None or key not in fields}
    (folder / "config.json").write_text(json.dumps(kept))
