"""What an inspection found, for a terminal."""

import json
from collections.abc import Iterator
from typing import Any

from xlab.lab.inspection import File, Model
from xlab.lab.units import size

_LEAST = (24, 20)  # widths of labels and values; columns of sections stand under each other where they can
Row = tuple[str, str, str]


def lines(model: Model, file: File | None) -> Iterator[str]:
    """Lay an inspection out: a line a figure.

    Args:
        model: what the settings make.
        file: what the checkpoint holds beside; None for settings alone.
    """
    sections: list[tuple[str, Iterator[Row]]] = [("model", _model(model))]
    if file is not None:
        sections = [("checkpoint", _file(file)), ("tokenizer", _tokenizer(file)), *sections]
    sections.append(("settings that are not the defaults", _changed(model)))
    for number, (title, rows) in enumerate(sections):
        if number:
            yield ""
        yield title
        told = list(rows)
        label_width = max(_LEAST[0], *(len(label) for label, _, _ in told))
        # a long value without a remark need not push the others' remarks away
        value_width = max(_LEAST[1], *(len(value) for _, value, remark in told if remark), 0)
        for label, value, remark in told:
            yield f"  {label:<{label_width}}  {value:<{value_width}}  {remark}".rstrip()


def _file(file: File) -> Iterator[Row]:
    info = file.info
    yield "file", size(file.bytes), str(file.path)
    yield "can be resumed", "yes" if file.resumable else "no", ""
    if (step := info.get("step")) is not None:
        yield "training step", f"{step:,}", ""
    if info.get("precision"):
        yield "trained in", str(info["precision"]), ""
    for dtype, count in file.weights.items():
        yield f"weights in {dtype}", f"{count:,}", ""
    if file.corrections:
        yield "low-rank corrections", f"{file.corrections:,}", "beside the model's parameters; merged on export"
    yield "data fingerprint", str(info.get("data_fingerprint") or "not known"), ""
    for name, value in (info.get("metrics") or {}).items():
        yield name, f"{value:.6g}", ""
    versions = {"xlab": info.get("xlab_version"), "torch": info.get("torch_version"), **file.versions}
    yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version), ""


def _tokenizer(file: File) -> Iterator[Row]:
    yield "kind", str(file.tokenizer["kind"]), ""
    yield "size", f"{file.tokenizer['size']:,}", ""
    specials = sorted(file.tokenizer["specials"].items(), key=lambda item: item[1])
    yield "special tokens", "  ".join(f"{name} {number}" for name, number in specials), ""


def _model(model: Model) -> Iterator[Row]:
    for name, number in model.sizes.items():
        yield name, f"{number:,}", ""
    for part, count in model.parameters.items():
        if count:
            yield f"parameters: {part}", f"{count:,}", f"{count / model.n_parameters:.1%}"
    met = "" if model.active == model.n_parameters else f"{model.active:,} of them meet a token"
    yield "parameters", f"{model.n_parameters:,}", met
    longest = f"at {model.sizes['max_len']:,} tokens" if "max_len" in model.sizes else ""
    yield "FLOPs per token", f"{model.flops_per_token:.3g}", f"of training, {longest}; reading takes a third"
    yield "KV cache per token", size(model.cache_bytes_per_token), f"in {model.cache_dtype}"
    if set(model.windows) != {None}:
        seen = (f"{n} see {'everything' if w is None else f'{w:,} tokens'}" for w, n in model.windows.items())
        yield "layers", "", ", ".join(seen)


def _changed(model: Model) -> Iterator[Row]:
    for key, (value, default) in model.changed.items():
        yield key, _written(value), f"default: {_written(default)}"
    if not model.changed:
        yield "none", "", ""


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
