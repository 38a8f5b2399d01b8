"""A page on the HTTP interface, made from its OpenAPI description: no script, nothing from the network."""

from __future__ import annotations

import json
from html import escape
from typing import Any


def docs_page(api: dict[str, Any], style: str) -> str:
    """The page for an OpenAPI description.

    Args:
        api: what `app.openapi()` gives.
        style: the page's CSS.
    """
    title = escape(api["info"]["title"])
    parts = [
        _route(path, method, operation, api)
        for path, methods in api["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = api.get("components", {}).get("schemas", {})
    if schemas:
        parts.append("<h2>Objects</h2>")
        parts += [f'<h3 id="{escape(name)}">{escape(name)}</h3>{_fields(schema)}' for name, schema in schemas.items()]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{title}</title><link rel="icon" href="data:,"><style>{style}</style></head><body><main>'
        f'<h1>{title}</h1><p class="quiet">{escape(api["info"].get("description", ""))}</p>'
        '<p><a href="./">Try it</a> · <a href="openapi.json">openapi.json</a></p>'
        + "".join(parts)
        + "</main></body></html>\n"
    )


def _route(path: str, method: str, operation: dict[str, Any], api: dict[str, Any]) -> str:
    lines = [
        f"<section><h2><code>{method.upper()} {escape(path)}</code></h2>",
        f"<p>{escape(operation.get('description') or operation.get('summary', ''))}</p>",
    ]
    if operation.get("security"):
        names = [_scheme(api, name) for part in operation["security"] for name in part]
        lines.append(f"<p>Needs the API key, as {' or '.join(f'<code>{escape(name)}</code>' for name in names)}.</p>")
    content = operation.get("requestBody", {}).get("content", {})
    for kind, body in content.items():
        lines.append(f"<h3>Body: {escape(kind)}</h3>{_fields(body.get('schema', {}))}")
        if "example" in body:
            example = escape(_curl(path, method, kind, body["example"], "security" in operation))
            lines.append(f"<h3>Example</h3><pre><code>{example}</code></pre>")
    lines.append("<h3>Answers</h3><table><tr><th>status</th><th>what</th></tr>")
    for status, answer in sorted(operation.get("responses", {}).items()):
        contents: list[dict[str, Any]] = list(answer.get("content", {}).values())
        schema = contents[0].get("schema", {}) if contents else {}
        shown = f" ({_type(schema)})" if schema else ""
        lines.append(f"<tr><td>{escape(status)}</td><td>{escape(answer.get('description', ''))}{shown}</td></tr>")
    return "".join([*lines, "</table></section>"])


def _scheme(api: dict[str, Any], name: str) -> str:
    scheme = api["components"]["securitySchemes"][name]
    return "Authorization: Bearer KEY" if scheme["type"] == "http" else f"{scheme['name']}: KEY"


def _curl(path: str, method: str, kind: str, example: object, needs_key: bool) -> str:
    body = json.dumps(example, ensure_ascii=False)
    key = ["-H 'Authorization: Bearer KEY'"] if needs_key else []
    parts = [f"curl -X {method.upper()} http://HOST:PORT{path}", *key, f"-H 'Content-Type: {kind}'", f"-d '{body}'"]
    return " \\\n  ".join(parts)


def _fields(schema: dict[str, Any]) -> str:
    needed = schema.get("required", [])
    rows = [
        f"<tr><td><code>{escape(name)}</code></td><td>{_type(field)}{'' if name in needed else ', optional'}</td>"
        f"<td>{escape(field.get('description', ''))}</td></tr>"
        for name, field in schema.get("properties", {}).items()
    ]
    head = "<tr><th>field</th><th>type</th><th>what</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>" if rows else ""


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[-1])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_type(part) for part in schema["anyOf"] if part.get("type") != "null")
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return escape(str(schema.get("type", "any")))
