"""Hand a model to other programs: each format a class, each export whole or not at all, and proved before it counts."""

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import torch

from xlab import checkpoints
from xlab.checkpoints import Checkpoint
from xlab.errors import CheckpointError, ConfigError
from xlab.interop.proof import Proof, check_libraries, prove

DTYPES = {"keep": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MAX_SHARD_BYTES = 5 * 10**9
_Said = TypeVar("_Said")


@dataclass(frozen=True)
class Options:
    """How an export is to be written.

    Attributes:
        dtype: of the weights: keep, fp32, bf16 or fp16.
        max_shard_bytes: the most that a file of weights may hold; None where nothing was said.
    """

    dtype: str = "keep"
    max_shard_bytes: int | None = None


class ProofError(CheckpointError):
    """An export that is not the model it was made of; it was removed."""


class Format(ABC):
    """A format of models.

    Attributes:
        name: as ``--format`` has it.
        suffix: of the name of its file; empty for a folder.
    """

    name: ClassVar[str]
    suffix: ClassVar[str] = ""

    def check(self, options: Options) -> None:
        """Refuse options that mean nothing here, and what cannot be written here.

        Raises:
            ConfigError: naming the option, or the package that is missing.
        """
        if options.dtype not in DTYPES:
            raise ConfigError(f"dtype is {options.dtype!r}; it can be {', '.join(DTYPES)}")

    @abstractmethod
    def write(self, checkpoint: Checkpoint, path: Path, options: Options) -> None:
        """Write the model to ``path``, where nothing is yet."""


class HuggingFaceFolder(Format):
    """What ``transformers`` loads."""

    name = "hf"

    def write(self, checkpoint: Checkpoint, path: Path, options: Options) -> None:
        from xlab.interop import export_huggingface

        path.mkdir()
        limit = options.max_shard_bytes or MAX_SHARD_BYTES
        export_huggingface.write(checkpoint, path, dtype=DTYPES[options.dtype], max_shard_bytes=limit)


class SafetensorsFolder(Format):
    """XLab's own settings and names, as safetensors."""

    name = "safetensors"

    def write(self, checkpoint: Checkpoint, path: Path, options: Options) -> None:
        from xlab.interop import xlab_folder

        path.mkdir()
        limit = options.max_shard_bytes or MAX_SHARD_BYTES
        xlab_folder.write(checkpoint, path, dtype=DTYPES[options.dtype], max_shard_bytes=limit)


class GGUF(Format):
    """What llama.cpp's family loads."""

    name, suffix = "gguf", ".gguf"

    def check(self, options: Options) -> None:
        super().check(options)
        if options.max_shard_bytes is not None:
            raise ConfigError("--max-shard-size is for hf and safetensors; a GGUF is one file")
        from xlab.interop.gguf_file import import_gguf

        import_gguf()

    def write(self, checkpoint: Checkpoint, path: Path, options: Options) -> None:
        from xlab.interop import gguf_writing

        gguf_writing.write(checkpoint, path, DTYPES[options.dtype])


FORMATS: dict[str, Format] = {format_.name: format_ for format_ in (HuggingFaceFolder(), SafetensorsFolder(), GGUF())}


def export(
    checkpoint: str | Path,
    output: str | Path | None,
    format_name: str,
    *,
    options: Options | None = None,
    verify: bool = True,
    modules: Sequence[str] = (),
) -> tuple[Path, Proof | None]:
    """Export a checkpoint, and prove the export before it gets its name.

    Args:
        checkpoint: a ``.ckpt``, a ``.pt``, or a run folder.
        output: the file or folder to make; None names it by content, in ``exports``.
        format_name: hf, safetensors or gguf.
        options: how to write it.
        verify: whether to prove it.
        modules: whose classes the checkpoint may name; they are allowed in this process already.

    Returns:
        What was made, and the proof.

    Raises:
        CheckpointError: if the checkpoint cannot be read, or the output exists or cannot be written.
        ConversionError: if the format has no equal for parts of the model.
        ConfigError: for options that mean nothing, or a package that is missing.
        ProofError: if the export is not the model. Nothing is left of it.
    """
    options = options or Options()
    format_ = FORMATS[format_name]
    format_.check(options)
    if verify:
        check_libraries(format_name)
    if output is not None:
        check_free(Path(output))
    source = checkpoints.find(checkpoint)
    read = checkpoints.merged(checkpoints.read(source))
    checkpoints.check_usable(read)
    target = Path(output) if output is not None else _named_by_content(read, format_)
    check_free(target)
    with beside(target) as temporary:
        format_.write(read, temporary, options)
        proof = prove_or_refuse(source, temporary, format_name, options.dtype, modules) if verify else None
        check_free(target)
        os.rename(temporary, target)
    return target, proof


def export_pt(
    checkpoint: str | Path, folder: str | Path, *, verify: bool = True, modules: Sequence[str] = ()
) -> tuple[Path, bool, Proof | None]:
    """Write a clean ``.pt`` into ``folder``, named by its content, and prove it before it gets its name.

    Returns:
        The file, whether it was there already, and the proof.

    Raises:
        CheckpointError: as ``checkpoints.export``.
        ProofError: if the file is not the model. Nothing is left of it.
    """
    source = checkpoints.find(checkpoint)
    read = checkpoints.merged(checkpoints.read(source))
    checkpoints.check_usable(read)  # or it is not worth exporting
    return store_proved(
        read, folder, lambda made: prove_or_refuse(source, made, "pt", "keep", modules) if verify else None
    )


def store_proved(
    checkpoint: Checkpoint, folder: str | Path, prove: Callable[[Path], _Said]
) -> tuple[Path, bool, _Said]:
    """Write a checkpoint into ``folder``, named by its content; ``prove`` has its say of the file before it is named.

    Returns:
        The file, whether it was there already, and what ``prove`` gave.

    Raises:
        CheckpointError: as ``checkpoints.store``. Nothing is left of what was not proved.
    """
    with beside(Path(folder) / "export") as temporary:
        made, _ = checkpoints.store(checkpoint, temporary)
        proof = prove(made)
        target = Path(folder) / made.name
        if target.exists() or target.is_symlink():
            return *checkpoints.store(checkpoint, folder), proof
        os.rename(made, target)
    return target, False, proof


def prove_or_refuse(source: Path, made: Path, kind: str, dtype: str, modules: Sequence[str]) -> Proof:
    """Prove an export.

    Raises:
        ProofError: if the proof fails.
    """
    proof = prove(source, made, kind, dtype=dtype, modules=modules)
    if not proof.holds:
        raise ProofError(f"the export is not the model, and was removed: {proof}")
    return proof


def check_free(target: Path) -> None:
    """Refuse to overwrite anything, or to write through a link.

    Raises:
        CheckpointError: naming the target.
    """
    if target.is_symlink():
        raise CheckpointError(f"{target} is a symbolic link; give the name of what is to be made")
    if target.exists():
        raise CheckpointError(f"{target} exists; remove it, or choose another --output")


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """Give a path in a temporary folder beside ``target``, with its name; the folder is removed in the end.

    Raises:
        CheckpointError: if the disk is full or the folder cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as error:
        raise CheckpointError(f"cannot write {target}: {error.strerror or error}") from error
    try:
        yield folder / target.name
    except OSError as error:
        # numpy's says how many numbers it wrote, and not why no more
        reason = error.strerror or "it could not be written whole (is the disk full?)"
        raise CheckpointError(f"cannot write {target}: {reason}; nothing is left of it") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _named_by_content(checkpoint: Checkpoint, format_: Format) -> Path:
    return Path("exports") / f"xlab-{checkpoints.content_hash(checkpoint)[:16]}{format_.suffix}"
