"""Describes a request: the row's JSON schema, an example, and a page without scripts that shows both."""

import json
from html import escape

from recsys.features.schema import Field, Schema
from recsys.files import Json

__all__ = ["docs_page", "example_row", "predict_schema", "row_schema"]

_TYPES = {"string": "string", "int": "integer", "float": "number", "bool": "boolean", "time": "string"}
_EXAMPLES = {"string": "text", "int": 1, "float": 0.5, "bool": True, "time": "2024-05-01T12:30:00"}

_STYLE = """:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;display:block;overflow-x:auto}
td,th{border:1px solid #8886;padding:.3rem .6rem;text-align:left}
pre{overflow-x:auto;background:#8882;padding:.8rem}"""


def _is_list(field: Field) -> bool:
    return field.kind in ("multi", "sequence", "vector") and not field.separator


def _columns(schema: Schema) -> dict[str, tuple[str, bool, bool]]:
    """Raw column → its type, whether it holds a list, and whether a request may leave it out."""
    columns: dict[str, tuple[str, bool, bool]] = {}
    for f in schema.fields:
        for column, dtype in zip(f.inputs, f.dtypes, strict=True):
            columns.setdefault(column, (dtype, _is_list(f), f.past is not None))
    for column, dtype in schema.lookup_columns.items():
        columns.setdefault(column, (dtype, False, True))
    return columns


def row_schema(schema: Schema) -> Json:
    """JSON schema of one raw row: every column may be null, which means that the value is missing."""
    properties: Json = {}
    for column, (dtype, is_list, _) in _columns(schema).items():
        kind = _TYPES[dtype]
        items = {"items": {"type": [kind, "null"]}} if is_list else {}
        properties[column] = {"type": ["array" if is_list else kind, "null"], **items}
    required = [c for c, (_, _, optional) in _columns(schema).items() if not optional]
    return {"type": "object", "properties": properties, "required": required}


def example_row(schema: Schema) -> Json:
    """A row that can be scored. Its values are made up: none is taken from the training data."""
    row: Json = {}
    for f in schema.fields:
        for column, dtype in zip(f.inputs, f.dtypes, strict=True):
            value = _EXAMPLES[dtype]
            length = f.max_length if f.kind == "vector" else 1
            row.setdefault(column, [value] * length if _is_list(f) else value)
    for column, dtype in schema.lookup_columns.items():
        row.setdefault(column, _EXAMPLES[dtype])
    return row


def predict_schema(schema: Schema) -> Json:
    """OpenAPI's description of `POST /predict`."""
    row, example = row_schema(schema), example_row(schema)
    rows = {"type": "array", "items": row}
    wrapped = {"type": "object", "properties": {"rows": rows}, "required": ["rows"]}
    number = {"type": "number", "minimum": 0, "maximum": 1}
    each: Json = {"type": "object", "properties": dict.fromkeys(schema.labels, number)}
    several = len(schema.labels) > 1
    one = {"type": "object", "properties": {"probability": each if several else number}}
    items = each if several else {"type": "number"}
    many = {"type": "object", "properties": {"probabilities": {"type": "array", "items": items}}}
    refusal = {"type": "object", "properties": {"error": {"type": "string"}}}
    refused = {
        "400": "The Host header names another machine.",
        "401": "The token is missing or wrong.",
        "408": "The body did not come in time.",
        "411": "There is no Content-Length.",
        "413": "The body or its count of rows is too large.",
        "415": "The content type is not application/json, or the body is compressed.",
        "422": "A row cannot be scored; the error names it.",
        "503": "Too many requests or bytes are in work already.",
    }
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"oneOf": [row, rows, wrapped]}, "example": example}},
        },
        "responses": {
            "200": {
                "description": "One probability for one row, a list for a list.",
                "content": {"application/json": {"schema": {"oneOf": [one, many]}}},
            },
            **{
                code: {"description": text, "content": {"application/json": {"schema": refusal}}}
                for code, text in refused.items()
            },
        },
    }


def docs_page(schema: Schema, name: str, needs_token: bool) -> str:
    """One page of HTML, without scripts and without files from elsewhere: the routes, the columns, an example."""
    rows = "".join(
        f"<tr><td><code>{escape(column)}</code></td><td>{'list of ' if is_list else ''}{_TYPES[dtype]}</td>"
        f"<td>{'may be left out' if optional else 'null if missing'}</td></tr>"
        for column, (dtype, is_list, optional) in _columns(schema).items()
    )
    token = " -H 'Authorization: Bearer TOKEN'" if needs_token else ""
    call = f"curl -s HOST:PORT/predict -H 'Content-Type: application/json'{token} -d @row.json"
    example = json.dumps(example_row(schema), indent=2, ensure_ascii=False)
    each = escape(json.dumps(dict.fromkeys(schema.labels, 0.1), ensure_ascii=False))
    several = f", each p like <code>{each}</code>" if len(schema.labels) > 1 else ""
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(name)}: scoring</title>
<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body><h1>{escape(name)}</h1>
<p><code>POST /predict</code> takes a row, a list of rows or <code>{{"rows": […]}}</code> as JSON and answers
<code>{{"probability": p}}</code> or <code>{{"probabilities": […]}}</code>{several}.
<code>GET /health</code> says whether the server is up, <code>GET /card</code> what the model is,
<code>GET /openapi.json</code> all this for programs.</p>
<h2>Example</h2><pre>{escape(call)}</pre><p>with this in <code>row.json</code> (made-up values):</p>
<pre>{escape(example)}</pre>
<h2>Columns of a row</h2><table><tr><th>column</th><th>type</th><th></th></tr>{rows}</table></body></html>"""
