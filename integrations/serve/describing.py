"""What the server says about itself: the limits, the refusals, and a page made of its OpenAPI description.

The page needs no script and no other host.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from .answers import Refusal
from .visitors import Limits

REFUSALS = {
    400: "The Host header, or the form, can't be read or is not allowed.",
    404: "No such encoded picture or tuned labels, or not any more.",
    408: "The request did not arrive in time.",
    411: "The request has no Content-Length.",
    413: "The request is too large.",
    422: "The picture, a field or a label is wrong; the sentence says how.",
    500: "The server failed.",
    503: "Too much is waiting, the turn did not come in time, or too many connections are open. Ask again later.",
    504: "There was no answer in time.",
}


def about(limits: Limits) -> str:
    """What the service is for, and its limits."""
    lines = (
        "Segments pictures into any classes named in words. Pictures and fields come as a form (multipart/form-data), "
        "answers are JSON; a refusal has one sentence in `detail`.",
        f"A request: {limits.megabytes:g} MB, {limits.upload_seconds:g} s to arrive, no pause of "
        f"{limits.silent_seconds:g} s. A picture: {limits.megapixels:g} megapixels. Labels: {limits.names} names of "
        f"{limits.characters} characters.",
        f"Waiting: {limits.waiting} requests with {limits.waiting_megapixels:g} megapixels, {limits.seconds:g} s until "
        f"a turn, {limits.seconds:g} s more for the answer. Connections: {limits.connections}. Encoded pictures that "
        f"are kept: the last {limits.kept}, with {limits.kept_megapixels:g} megapixels; of tuned labels the last "
        f"{limits.kept}. Examples of one request: {limits.examples} pictures, with their masks "
        f"{limits.examples_megapixels:g} megapixels.",
    )
    return "\n\n".join(lines)


def refusals(answer: type[BaseModel], *more: int) -> dict[int | str, dict[str, Any]]:
    """The responses of a request for OpenAPI: its answer, and every refusal."""
    statuses = [status for status in REFUSALS if status != 404 or 404 in more]
    return {
        200: {"model": answer, "description": "The answer."},
        **{status: {"model": Refusal, "description": REFUSALS[status]} for status in statuses},
    }


def page_of(description: dict[str, Any]) -> str:
    """An HTML page of an OpenAPI description, with a form to try each request."""
    parts = [f"<h1>{html.escape(description['info']['title'])} {html.escape(description['info']['version'])}</h1>"]
    parts += [f"<p>{_text(text)}</p>" for text in description["info"]["description"].split("\n\n")]
    parts.append('<p><a href="openapi.json">openapi.json</a></p>')
    schemas = description["components"]["schemas"]
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(method, path, operation, schemas))
    parts.append("<h2>Answers</h2>")
    for name, schema in schemas.items():
        if not name.startswith("Body_"):
            parts.append(f"<h3 id={name}>{name}</h3><p>{_text(schema.get('description', ''))}</p>{_fields(schema)}")
    return _PAGE.format(body="\n".join(parts))


def _operation(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    parts = [f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>"]
    parts.append(f"<p>{_text(operation.get('description', ''))}</p>")
    content = operation.get("requestBody", {}).get("content", {})
    for media, body in content.items():
        schema = schemas[body["schema"]["$ref"].rsplit("/", 1)[-1]]
        parts.append(f"<p>Form, {html.escape(media)}:</p>{_fields(schema)}")
        if "{" not in path:
            parts.append(_form(path, schema))
    rows = []
    for status, response in operation["responses"].items():
        answer = response.get("content", {}).get("application/json", {}).get("schema", {})
        rows.append((status, response.get("description", ""), _type(answer)))
    return "".join(parts) + _table(("status", "meaning", "answer"), rows)


def _form(path: str, schema: dict[str, Any]) -> str:
    inputs = []
    for name, field in schema["properties"].items():
        needed = " required" if name in schema.get("required", ()) else ""
        if _type(field).endswith("file"):
            many = " multiple" if field.get("type") == "array" else ""
            control = f'<input type="file" name="{name}"{many}{needed}>'
        elif "enum" in field:
            control = (
                f'<select name="{name}">'
                + "".join(f"<option>{value}</option>" for value in field["enum"])
                + "</select>"
            )
        else:
            example = ' placeholder="cat, sofa|couch"' if name == "labels" else ""
            control = f'<input name="{name}"{example}{needed}>'
        inputs.append(f"<label>{name} {control}</label>")
    return (
        f'<form action="{path}" method="post" enctype="multipart/form-data">{" ".join(inputs)} '
        "<button>Try it</button></form>"
    )


def _fields(schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = []
    for name, field in schema.get("properties", {}).items():
        default = "" if name in required else f"default {json.dumps(field.get('default'))}"
        rows.append((name, f"{_type(field)} {default}", field.get("description", "")))
    return _table(("field", "type", "meaning"), rows)


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return schema["$ref"].rsplit("/", 1)[-1]
    if "anyOf" in schema:
        return " or ".join(_type(entry) for entry in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}" if "items" in schema else f"{schema.get('maxItems', '')} numbers"
    if schema.get("format") == "binary" or "contentMediaType" in schema:
        return "file"
    return str(schema.get("type", ""))


def _text(text: str) -> str:
    """A text of Markdown, of which only code is known."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(text))


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = ["".join(f"<th>{cell}</th>" for cell in head)]
    lines += ["".join(f"<td>{_text(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>sclip</title>
<meta name="viewport" content="width=device-width">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; margin: .5rem 0 1rem; }}
th, td {{ border: 1px solid #ccc; padding: .2rem .6rem; text-align: left; vertical-align: top; }}
form {{ margin: .5rem 0 1rem; padding: .6rem; background: #f4f4f4; }} label {{ margin-right: 1rem; }}
h2 {{ margin-top: 2.5rem; }}
</style></head><body>
{body}
</body></html>
"""
