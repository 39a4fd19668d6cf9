"""A small decoder in float64 whose every part shows in its logits, and a tokenizer of bytes."""

from collections.abc import Sequence
from typing import Any

import torch

from xlab.transformer import Decoder


def make_decoder(seed: int = 0, **settings: Any) -> Decoder:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 17, "max_len": 24, "d_model": 16, "n_layers": 2, "n_heads": 4, "d_ff": 16}
    decoder = Decoder(**{**sizes, **settings}).double().eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.dim() == 2:  # far from initialisation, where every token is about as likely as any other
                parameter.normal_(0.0, 0.5)
    return decoder


def recomputed(decoder: Decoder, prompt: Sequence[int], length: int, window: int | None = None) -> list[int]:
    """Greedy, each token from a whole forward pass."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(length):
            ids.append(int(decoder(torch.tensor([ids[-(window or 10**9) :]]))[0, -1].argmax()))
    return ids[len(prompt) :]


class Letters:
    """A tokenizer whose tokens are letters, or whatever else they are given as."""

    def __init__(self, alphabet: Sequence[bytes]) -> None:
        self.alphabet = alphabet

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return b"".join(self.alphabet[token] for token in ids).decode(errors="replace")
