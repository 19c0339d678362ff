"""The OpenAPI document, made from the operations, and a page for people made from it.

Belongs here: OpenAPI 3.1 and plain HTML, without scripts, styles or fonts from anywhere else.
Does not: operations.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from backfill_pipeline.scb_simulator.contract import Problem
from backfill_pipeline.scb_simulator.faults import KINDS
from backfill_pipeline.scb_simulator.web.calls import Operation

_REF: Final = "#/components/schemas/{model}"
_PROBLEMS: Final = {
    "none": (),
    "api": (400, 401, 404, 422, 429, 503),
    "admin": (400, 401, 403, 404, 422),
}

Document = dict[str, object]


def openapi(operations: Sequence[Operation]) -> Document:
    """The document of these operations."""
    models = {
        model for one in operations for model in (*one.answers.values(), one.takes) if model is not None
    }
    named: set[type[BaseModel]] = {Problem, *models, *KINDS.values()}
    ordered = sorted(named, key=lambda model: model.__name__)
    _, schemas = models_json_schema([(model, "validation") for model in ordered], ref_template=_REF)
    paths: dict[str, dict[str, object]] = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Simulated Sovereign Central Bank",
            "version": "1",
            "description": (
                "Ledgers of a made-up central bank. Amounts are exact decimals as text; times are ISO 8601 with offset;"
                " intervals are [from, to) by booking time. Errors are problem documents (RFC 9457)."
            ),
        },
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "oauth2": {
                    "type": "oauth2",
                    "flows": {"clientCredentials": {"tokenUrl": "/oauth/token", "scopes": {}}},
                },
                "admin": {"type": "http", "scheme": "bearer", "description": "the admin's own token"},
            },
        },
    }


def _operation(one: Operation) -> Document:
    parameters: list[Document] = []
    if "{ledger}" in one.path:
        parameters.append({"name": "ledger", "in": "path", "required": True, "schema": {"type": "string"}})
    parameters += [
        {"name": parameter.name, "in": "query", "description": parameter.summary, "schema": parameter.schema}
        for parameter in one.parameters
    ]
    if one.keyed:
        parameters.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": True,
                "description": "the same key and body again get the same answer without effect; another body, 422",
                "schema": {"type": "string", "minLength": 1, "maxLength": 200},
            }
        )
    document: Document = {"operationId": one.name, "summary": one.summary, "responses": _responses(one)}
    if parameters:
        document["parameters"] = parameters
    if one.takes is not None:
        schema = {"$ref": _REF.format(model=one.takes.__name__)}
        document["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    elif one.name == "token":
        document["requestBody"] = {"required": True, "content": _TOKEN_FORM}
    schemes = {"none": [], "api": ["bearer", "oauth2"], "admin": ["admin"]}[one.guard]
    document["security"] = [{scheme: []} for scheme in schemes]
    return document


_TOKEN_FORM: Final = {
    "application/x-www-form-urlencoded": {
        "schema": {
            "type": "object",
            "required": ["grant_type"],
            "properties": {
                "grant_type": {"type": "string", "enum": ["client_credentials"]},
                "client_id": {"type": "string"},
                "client_secret": {"type": "string"},
            },
        }
    }
}


def _responses(one: Operation) -> Document:
    responses: Document = {}
    for status, model in one.answers.items():
        response: Document = {"description": "as asked" if status < 300 else "refused"}
        if model is not None:
            schema = {"$ref": _REF.format(model=model.__name__)}
            response["content"] = {"application/json": {"schema": schema}}
        responses[str(status)] = response
    problem = {"application/problem+json": {"schema": {"$ref": _REF.format(model=Problem.__name__)}}}
    for status in _PROBLEMS[one.guard]:
        responses.setdefault(str(status), {"description": "a problem", "content": problem})
    return responses


# --- the page ---------------------------------------------------------------------------------------------------

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
code, pre { font: 14px/1.4 ui-monospace, monospace; }
pre { background: #f5f5f5; padding: .7rem; overflow-x: auto; }
table { border-collapse: collapse; } td, th { border: 1px solid #ccc; padding: .2rem .6rem; text-align: left; }
summary { cursor: pointer; }
"""


def docs_page(operations: Sequence[Operation]) -> str:
    """The document as one HTML page."""
    document = openapi(operations)
    info = document["info"]
    assert isinstance(info, dict)
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style>",
        f"<h1>{escape(info['title'])}</h1><p>{escape(info['description'])}</p>",
        '<p>The same for programs: <a href="/openapi.json">openapi.json</a></p><h2>Operations</h2>',
        *(_section(one) for one in operations),
        "<h2>Schemas</h2>",
        *_schemas(document),
        "</html>",
    ]
    return "\n".join(parts)


def _section(one: Operation) -> str:
    who = {"none": "open to all", "api": "with a token", "admin": "with the admin token"}[one.guard]
    rows = "".join(
        f"<tr><td><code>{escape(parameter.name)}</code><td>{escape(parameter.summary)}"
        f"<td><code>{escape(json.dumps(parameter.schema))}</code>"
        for parameter in one.parameters
    )
    table = f"<table><tr><th>parameter<th>meaning<th>schema{rows}</table>" if rows else ""
    key = "<p>Needs the header <code>Idempotency-Key</code>.</p>" if one.keyed else ""
    body = f"<p>Body: {_link(one.takes.__name__)}</p>" if one.takes is not None else ""
    answers = ", ".join(
        f"{status} {_link(model.__name__)}" if model is not None else str(status)
        for status, model in one.answers.items()
    )
    return (
        f'<h3 id="{escape(one.name)}"><code>{one.method} {escape(one.path)}</code></h3>'
        f"<p><code>{escape(one.name)}</code>, {who}. {escape(one.summary)}.</p>{key}{table}{body}"
        f"<p>Answers: {answers}</p>"
    )


def _link(model: str) -> str:
    return f'<a href="#schema-{escape(model)}">{escape(model)}</a>'


def _schemas(document: Document) -> Iterable[str]:
    components = document["components"]
    assert isinstance(components, Mapping)
    for name, schema in components["schemas"].items():
        text = escape(json.dumps(schema, indent=2, ensure_ascii=False))
        yield f'<details id="schema-{escape(name)}"><summary>{escape(name)}</summary><pre>{text}</pre></details>'
