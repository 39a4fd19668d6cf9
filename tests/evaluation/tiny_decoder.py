"""A tokenizer of a few merges and random decoders over its vocabulary: nothing trained, nothing heavy."""

from functools import cache

import torch

from xlab.data.tokenizers import ByteLevelBPE, Tokenizer
from xlab.transformer.decoder import Decoder

TEXT = "the cat sees the old king, and the old king paints the cat. Zoë follows a dog — “who?” 🐈 naïve\n" * 3
MAX_LEN = 12


@cache
def tiny_tokenizer() -> Tokenizer:
    return ByteLevelBPE().make(iter([TEXT]), 290)


def tiny_decoder(seed: int = 0, *, max_len: int = MAX_LEN) -> Decoder:
    torch.manual_seed(seed)
    decoder = Decoder(vocab_size=290, max_len=max_len, d_model=16, n_layers=2, n_heads=2)
    with torch.no_grad():
        decoder.embedding.weight.mul_(20)  # far from uniform
    return decoder.eval().requires_grad_(False)


def uniform_decoder() -> Decoder:
    """Knows nothing: every token is as likely as any other."""
    decoder = tiny_decoder()
    with torch.no_grad():
        decoder.embedding.weight.zero_()
    return decoder
