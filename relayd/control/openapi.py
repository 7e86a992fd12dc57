"""The OpenAPI document of the control API, made from the table of verbs.

In: the verbs.  Out: the document as a JSON-able value, OpenAPI 3.1: a path for each verb with its arguments, what it
needs and what it answers with when it will not.
"""

from collections.abc import Sequence
from typing import Any

from relayd.control.verb import EVERY, MAX_BODY, Arg, Verb

_SCHEMAS: dict[str, dict[str, Any]] = {
    "int": {"type": "integer", "minimum": 0},
    "bool": {"type": "boolean"},
    "id": {"type": "string", "pattern": "^[0-9a-f]{1,16}$"},
    "some": {"type": "string", "minLength": 1},
    "duration": {"type": "string", "examples": ["90s", "15m", "2h", "3d"]},
    "network": {"type": "string", "examples": ["192.0.2.0/24"]},
    "secret": {"type": "string", "format": "password", "minLength": 8, "maxLength": 1024},
    "row": {"type": "object", "additionalProperties": {"type": "string"}},
}
_EVERY = {
    "name": "every", "in": "query", "required": False,
    "description": "of an answer that is watched (`Accept: text/event-stream`): seconds between looks",
    "schema": {"type": "number", "minimum": EVERY[0], "maximum": EVERY[2], "default": EVERY[1]},
}  # fmt: skip
_ERRORS = {
    "400": "an argument is missing, unknown or malformed: `field` names it",
    "401": "no token, or one that does not count (TCP only)",
    "403": "the caller's role does not allow it",
    "404": "there is no such thing, or it is not the customer's (TCP only)",
    "413": f"a request has at most {MAX_BODY} bytes",
    "429": "too many requests, or too many wrong tokens: `Retry-After` says when (TCP only)",
    "500": "it failed inside relayd; its log says how",
    "504": "it took too long; what it began may still come to its end",
}


def document(verbs: Sequence[Verb], version: str) -> dict[str, Any]:
    """``version``: relayd's."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "relayd control API",
            "version": version,
            "description": "What relayctl and the console speak. A GET reads and changes nothing. Times in answers are "
            "unix seconds, ids are hexadecimal, text of remote servers is as it came: escape it.",
            "license": {"name": "see the project"},
        },
        "servers": [{"url": "https://{relay}:{port}", "variables": {"relay": {"default": "relay.example"},
                                                                    "port": {"default": "8443"}}}],
        "security": [{"token": []}],
        "paths": {verb.path: {verb.method.lower(): _operation(verb)} for verb in verbs},
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Error": {
                    "type": "object",
                    "required": ["error", "field"],
                    "properties": {
                        "error": {"type": "string", "description": "what is wrong, for people"},
                        "field": {"type": "string", "description": 'the argument at fault, "" if it is none'},
                    },
                }
            },
            "responses": {
                code: {
                    "description": words,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
                }
                for code, words in _ERRORS.items()
            },
        },
    }  # fmt: skip


def _operation(verb: Verb) -> dict[str, Any]:
    forms: dict[str, Any] = {"application/json": {}} | ({"text/event-stream": {}} if verb.method == "GET" else {})
    answers: dict[str, Any] = {"200": {"description": "done", "content": forms}}
    if verb.unwell != 200:
        answers[str(verb.unwell)] = {"description": f"not well: `{verb.verdict}` is false",
                                     "content": {"application/json": {}}}  # fmt: skip
    made: dict[str, Any] = {
        "operationId": verb.name.replace(" ", "_").replace("-", "_"),
        "summary": verb.help,
        "description": f"Role: {verb.role}. In relayctl: `relayctl {verb.example}`",
        "tags": [verb.name.partition(" ")[0]],
        "x-role": verb.role,
        "responses": answers | {code: {"$ref": f"#/components/responses/{code}"} for code in _ERRORS},
    }
    if verb.method == "GET":
        made["parameters"] = [
            {"name": arg.name, "in": "query", "required": arg.required, "description": arg.help, "schema": _schema(arg)}
            for arg in verb.args
        ]
        made["parameters"].append(_EVERY)
    else:
        body = {
            "type": "object",
            "additionalProperties": False,
            "properties": {arg.name: {**_schema(arg), "description": arg.help} for arg in verb.args},
            "required": [arg.name for arg in verb.args if arg.required],
        }
        made["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return made


def _schema(arg: Arg) -> dict[str, Any]:
    one = dict(_SCHEMAS.get(arg.kind, {"type": "string"}))
    if arg.choices:
        one["enum"] = list(arg.choices)
    if arg.repeated:
        return {"type": "array", "items": one}
    return one | ({"default": arg.default} if arg.default is not None else {})
