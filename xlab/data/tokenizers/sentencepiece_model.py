"""SentencePiece's tokenizer.model, read without SentencePiece: BPE over characters with byte fallback."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers

from xlab.data.tokenizers.merges import merges_of
from xlab.data.tokenizers.recipe import ReadyTokenizer
from xlab.errors import ConfigError, DataError

_SPACE = "▁"
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6  # kinds of pieces
_BPE = 2  # kind of model


class SentencePieceModel(ReadyTokenizer):
    """The tokenizer.model of a SentencePiece BPE with byte fallback, such as Llama 2's or Mistral's.

    A ▁ in the text comes back as a space, as it does there; everything else comes back as it was.

    Args:
        path: The file.
        sos_token: Which of its tokens starts a document; None takes the model's own, or adds ``<|sos|>``.
        eos_token: Which one ends a document; else ``<|eos|>`` is added.
        pad_token: Which one fills what is left of a batch; else ``<|pad|>`` is added.
    """

    def __init__(
        self, path: str, sos_token: str | None = None, eos_token: str | None = None, pad_token: str | None = None
    ) -> None:
        if not path:
            raise ConfigError("SentencePieceModel's path is empty; name a tokenizer.model.")
        super().__init__(path, sos_token=sos_token, eos_token=eos_token, pad_token=pad_token)
        self._path = path

    def read(self) -> tuple[tokenizers.Tokenizer, dict[str, str | None]]:
        try:
            model = _parse(Path(self._path).expanduser().read_bytes())
        except OSError as error:
            raise DataError(f"The tokenizer file {self._path} cannot be read: {error.strerror or error}.") from error
        except (ValueError, struct.error, TypeError) as error:
            raise DataError(f"{self._path} is no whole tokenizer.model of SentencePiece's: {error}.") from error
        if unfit := _unfit(model):
            raise DataError(
                f"{self._path} {unfit}; XLab reads BPE with byte fallback that leaves text as it is. "
                "Read the tokenizer.json of its model."
            )
        special = [piece.text for piece in model.pieces if piece.kind in (_CONTROL, _UNKNOWN)]
        backend = _backend(model)
        backend.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in special])
        return backend, {role: token for role, token in model.roles.items() if token in special}


@dataclass(frozen=True)
class _Piece:
    text: str
    score: float
    kind: int


@dataclass
class _Model:
    """What of sentencepiece_model.proto decides the ids."""

    pieces: list[_Piece] = field(default_factory=list)
    model_type: int = 1
    byte_fallback: bool = False
    whitespace_as_suffix: bool = False
    normalization: bytes = b""
    dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True
    roles: dict[str, str | None] = field(
        default_factory=lambda: {"eos_token": "</s>", "sos_token": "<s>", "pad_token": "<pad>"}
    )


def _unfit(model: _Model) -> str | None:
    """Say why ids would differ from SentencePiece's, or text be lost."""
    if model.model_type != _BPE:
        return "is not a BPE model, but of another kind (Unigram is the usual one)"
    if not model.byte_fallback or sum(piece.kind == _BYTE for piece in model.pieces) != 256:
        return "has no byte fallback"
    if model.normalization or model.remove_extra_whitespaces:
        return "changes text before it encodes it (its normalization rules, or extra spaces that it removes)"
    if model.whitespace_as_suffix or not model.escape_whitespaces:
        return "writes spaces in another way than ▁ before a word"
    kinds = {piece.kind for piece in model.pieces}
    if others := kinds - {_NORMAL, _UNKNOWN, _CONTROL, _BYTE}:
        return "has pieces that a user defined" if _USER_DEFINED in others else f"has pieces of kinds {others}"
    return None


def _backend(model: _Model) -> tokenizers.Tokenizer:
    vocabulary = {piece.text: token_id for token_id, piece in enumerate(model.pieces)}
    normal = [piece for piece in model.pieces if piece.kind == _NORMAL]
    # the best score is joined first, of equals the first in the file: sorting is stable
    ranks = {piece.text: rank for rank, piece in enumerate(sorted(normal, key=lambda piece: -piece.score))}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges_of(ranks), byte_fallback=True))
    spaces = normalizers.Replace(" ", _SPACE)
    text = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if model.dummy_prefix:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces])
        backend.decoder = decoders.Sequence([*text, decoders.Strip(content=" ", left=1)])
    else:
        backend.normalizer = spaces
        backend.decoder = decoders.Sequence(text)
    return backend


def _parse(content: bytes) -> _Model:
    """Read the fields of a ModelProto: 1 is a piece, 2 the trainer's settings, 3 the normalizer's.

    Raises:
        ValueError: for bytes that are no such message.
    """
    model = _Model()
    for number, value in _fields(content):
        if number == 1 and isinstance(value, bytes):
            model.pieces.append(_piece(value))
        elif number == 2 and isinstance(value, bytes):
            trainer = dict(_fields(value))
            model.model_type = int(trainer.get(3, 1))
            model.whitespace_as_suffix = bool(trainer.get(24, False))
            model.byte_fallback = bool(trainer.get(35, False))
            for field_number, role in ((46, "sos_token"), (47, "eos_token"), (48, "pad_token")):
                if isinstance(name := trainer.get(field_number), bytes):
                    model.roles[role] = name.decode()
        elif number == 3 and isinstance(value, bytes):
            normalizer = dict(_fields(value))
            model.normalization = bytes(normalizer.get(2, b""))
            model.dummy_prefix = bool(normalizer.get(3, True))
            model.remove_extra_whitespaces = bool(normalizer.get(4, True))
            model.escape_whitespaces = bool(normalizer.get(5, True))
    if not model.pieces:
        raise ValueError("it has no pieces")
    return model


def _piece(content: bytes) -> _Piece:
    fields = dict(_fields(content))
    text, score = fields.get(1, b""), fields.get(2, b"\0\0\0\0")
    if not isinstance(text, bytes) or not isinstance(score, bytes):
        raise ValueError("a piece has no text")
    return _Piece(text.decode(), struct.unpack("<f", score)[0], int(fields.get(3, _NORMAL)))


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the numbered fields of a protocol buffer: whole numbers, or bytes of what is longer.

    The wire format: https://protobuf.dev/programming-guides/encoding.
    """
    place = 0
    while place < len(content):
        tag, place = _varint(content, place)
        kind = tag & 7
        if kind == 0:
            value, place = _varint(content, place)
            yield tag >> 3, value
            continue
        if kind == 2:
            length, place = _varint(content, place)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"byte {place} begins no field")
        if place + length > len(content):
            raise ValueError(f"it ends at byte {len(content)}, in the middle of a field")
        yield tag >> 3, content[place : place + length]
        place += length


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """Read a number of seven bits a byte, the lowest first, and tell where it ends."""
    value = shift = 0
    while True:
        if place == len(content) or shift > 63:
            raise ValueError(f"it ends at byte {len(content)}, in the middle of a number")
        value |= (content[place] & 127) << shift
        place, shift = place + 1, shift + 7
        if content[place - 1] < 128:
            return value, place
