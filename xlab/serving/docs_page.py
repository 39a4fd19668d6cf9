"""/docs: the OpenAPI document as a page that needs no script and nothing from elsewhere."""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from xlab.serving.openapi import example_of

STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem}
h2{margin-top:2.5rem;font:600 1.1rem ui-monospace,monospace}
table{border-collapse:collapse;width:100%;font-size:.9rem}
td,th{text-align:left;vertical-align:top;padding:.3rem .6rem .3rem 0;border-bottom:1px solid #8884}
pre{padding:.7rem;overflow-x:auto;background:#8882;border-radius:.4rem;font-size:.85rem}
code{font-family:ui-monospace,monospace}
"""
_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
}


def page(document: Mapping[str, Any], address: str) -> str:
    """Write the page.

    Args:
        document: OpenAPI's.
        address: where the service is, for the examples.
    """
    parts = "".join(_parts(document, address))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>XLab: API</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><h1>XLab {escape(document['info']['version'])}</h1>{parts}</body></html>"
    )


def _parts(document: Mapping[str, Any], address: str) -> Iterator[str]:
    yield f"<p>{escape(document['info']['description'])}</p>"
    yield '<p>For programs: <a href="/openapi.json">openapi.json</a></p>'
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield f"<h2>{method.upper()} {escape(path)}</h2><p>{escape(operation.get('description', ''))}</p>"
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            if content:
                yield _fields(document, _resolved(document, content["schema"]))
            for example in example_of(operation):
                yield f"<pre><code>{escape(_curl(address + path, example))}</code></pre>"


def _curl(address: str, body: Any) -> str:
    text = json.dumps(body).replace("'", "'\\''")
    key = '-H "Authorization: Bearer $XLAB_API_KEY"'
    return f"curl {address} {key} \\\n  -H 'Content-Type: application/json' -d '{text}'"


def _fields(document: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    rows = ""
    for name, field in schema["properties"].items():
        meaning = ("Needed. " if name in schema.get("required", ()) else "") + field.get("description", "")
        cells = (f"<code>{escape(name)}</code>", escape(_kind(document, field)), escape(meaning))
        rows += f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    return f"<table><tr><th>field</th><th>type</th><th>meaning</th></tr>{rows}</table>"


def _kind(document: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Say in a few words what a schema takes."""
    if "$ref" in schema:
        inner = _resolved(document, schema)
        return ", ".join(inner.get("properties", {})) if inner.get("properties") else "object"
    if alternatives := schema.get("anyOf"):
        told = [_kind(document, one) for one in alternatives if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(told))
    if "enum" in schema or "const" in schema:
        return ", ".join(json.dumps(value) for value in schema.get("enum", [schema.get("const")]))
    kind = str(schema.get("type", "anything"))
    if kind == "array":
        return f"list of {_kind(document, schema.get('items', {}))}"
    least, most = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    bounds = [f"from {least:g}"] if least is not None else []
    bounds += [f"to {most:g}"] if most is not None and most < 10**6 else []
    return " ".join([kind, *bounds])


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in schema:
        return schema
    found: Mapping[str, Any] = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found
