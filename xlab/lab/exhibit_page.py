"""What trained models show, on a comparison's page: texts side by side, maps of attention and of embeddings."""

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from xlab.lab.exhibits import SEED, Sample, View
from xlab.lab.metrics_file import Numbers


def samples_section(samples: Sequence[Sample], variants: Sequence[str]) -> list[str]:
    """Lay texts out, a column for each variant."""
    if not samples:
        return []
    numbers = {name: number for number, name in enumerate(variants)}
    columns = "".join(
        f'<section style="--own: var(--v{numbers[sample.variant] % 8})"><h3><i></i>{escape(sample.variant)}</h3>'
        + "".join(
            f'<blockquote><span class="muted">{escape(sample.prompt)}</span>{escape(text)}</blockquote>'
            for text in sample.texts
        )
        + f'<p class="source muted">{escape(str(sample.checkpoint))}</p></section>'
        for sample in samples
    )
    return [
        "<h2>Samples</h2>",
        f'<p class="muted">Of the first run of each variant, at temperature 0.8, all with seed {SEED}.</p>',
        f'<div class="samples">{columns}</div>',
    ]


def views_section(views: Sequence[View]) -> list[str]:
    """Make room for what the script draws."""
    if not views:
        return []
    sections = "".join(
        f'<section class="view" data-view="{number}"><h3 class="source">{escape(view.name)}</h3>'
        '<div class="maps"><div class="heads"></div><div class="large"><canvas></canvas>'
        '<p class="reading muted" aria-live="polite"></p></div></div>'
        f"{_embeddings(view)}</section>"
        for number, view in enumerate(views)
    )
    return [
        "<h2>Inside</h2>",
        '<p class="muted">Attention: a small map for each head, layer by layer; a row is a token that looks, a column '
        "one that is looked at. Choose a map, then point at it, or move by the arrow keys. Embeddings: the "
        "vocabulary's first words in the plane in which they differ most.</p>",
        sections,
    ]


def _embeddings(view: View) -> str:
    return (
        f"<h3>Embeddings of {len(view.words)} tokens; the plane shows {100 * view.explained:.0f} % of their "
        'variance</h3><div class="plane" tabindex="0" role="application" '
        'aria-label="Embeddings; the arrow keys go from word to word"></div>'
    )


def views_data(views: Sequence[View]) -> list[dict[str, Any]]:
    """What the script draws of each view: maps as bytes, places as numbers."""
    return [
        {
            "tokens": view.tokens,
            "maps": [[_bytes(head) for head in layer] for layer in view.maps],
            "words": view.words,
            "places": [[float(f"{x:.4g}") for x in place] for place in view.places.tolist()],
        }
        for view in views
    ]


def _bytes(head: Numbers) -> str:
    """(T, T) weights in a byte each, row by row."""
    return base64.b64encode(np.round(head * 255).astype(np.uint8).tobytes()).decode("ascii")
