"""Text to tokens and back: the tokenizer, and a small recipe for each way to come by one."""

from xlab.data.tokenizers.byte_fallback import ByteFallbackBPE
from xlab.data.tokenizers.byte_level import ByteLevelBPE
from xlab.data.tokenizers.files import TokenizerFile, VocabularyAndMerges
from xlab.data.tokenizers.hub import HubTokenizer
from xlab.data.tokenizers.recipe import TokenizerRecipe
from xlab.data.tokenizers.sentencepiece_model import SentencePieceModel
from xlab.data.tokenizers.special_tokens import EOS, PAD, SEP, SOS
from xlab.data.tokenizers.tiktoken_encoding import TiktokenEncoding
from xlab.data.tokenizers.tokenizer import HasToList, Tokenizer

__all__ = [
    "EOS",
    "PAD",
    "SEP",
    "SOS",
    "ByteFallbackBPE",
    "ByteLevelBPE",
    "HasToList",
    "HubTokenizer",
    "SentencePieceModel",
    "TiktokenEncoding",
    "Tokenizer",
    "TokenizerFile",
    "TokenizerRecipe",
    "VocabularyAndMerges",
]
