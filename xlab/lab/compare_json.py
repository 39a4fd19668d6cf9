"""A comparison as plain data, for other programs."""

from typing import Any

from xlab.lab.comparison import Comparison, Contrast
from xlab.lab.run_groups import RunGroup, differing
from xlab.lab.verdict import verdicts


def plain(comparison: Comparison) -> dict[str, Any]:
    """Give everything that was found, as JSON has it."""
    settings = differing(comparison.variants)
    return {
        "metric": comparison.metric,
        "higher_is_better": comparison.higher_is_better,
        "level": comparison.level,
        "at": {comparison.place.axis: comparison.place.amount},
        "baseline": comparison.baseline,
        "verdicts": list(verdicts(comparison)),
        "variants": [_variant(variant, comparison.figures[variant.name]) for variant in comparison.variants],
        "effects": [
            {"at": {place.axis: place.amount}, **_contrast(contrast)}
            for place, contrasts in comparison.contrasts.items()
            for contrast in contrasts
        ],
        "differing_settings": settings,
        "remarks": comparison.remarks,
        "left_out": comparison.left_out,
    }


def _variant(variant: RunGroup, figures: list[float]) -> dict[str, Any]:
    runs = [
        {
            "folder": str(run.folder),
            "seed": run.seed,
            "status": run.status,
            "value": value,
            "data_fingerprint": run.data_fingerprint,
            "commit": run.record.get("commit"),
        }
        for run, value in zip(variant.runs, figures, strict=True)
    ]
    return {"name": variant.name, "mean": sum(figures) / len(figures), "runs": runs}


def _contrast(contrast: Contrast) -> dict[str, Any]:
    effect = contrast.effect
    return {
        "variant": contrast.variant,
        "difference": effect.difference,
        "interval": None if effect.interval is None else list(effect.interval),
        "n": effect.n,
        "method": effect.method,
        "p": effect.p,
        "p_holm": contrast.p,
        "is_told": contrast.is_told,
        "is_better": contrast.is_better,
    }
