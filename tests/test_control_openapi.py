"""The OpenAPI document: it is valid, and tells of every verb what the API takes."""

import json
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import validate

import relayd
from relayd.control.openapi import _schema, document
from relayd.control.verb import Verb, arguments
from relayd.control.verbs import BY_PATH, VERBS


@pytest.fixture(scope="module")
def api() -> Any:
    return json.loads(json.dumps(document(VERBS, relayd.__version__)))


def test_it_is_a_valid_document(api: Any) -> None:
    validate(api)


def test_every_verb_is_a_path_with_its_method_and_role(api: Any) -> None:
    assert set(api["paths"]) == set(BY_PATH)
    for verb in VERBS:
        (method,) = api["paths"][verb.path]
        assert method == verb.method.lower()
        assert api["paths"][verb.path][method]["x-role"] == verb.role


def test_arguments_are_told_where_they_are_given(api: Any) -> None:
    asked = api["paths"]["/v1/queue/list"]["get"]["parameters"]
    assert {one["name"] for one in asked} == {"every", *(arg.name for arg in BY_PATH["/v1/queue/list"].args)}
    body = api["paths"]["/v1/account/add"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["name"] and body["additionalProperties"] is False
    assert body["properties"]["risk"]["enum"] == ["low", "normal", "high"]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_what_is_told_to_be_meant_without_an_argument_is_taken_as_one(verb: Verb) -> None:
    for arg in verb.args:
        alone = msgspec.structs.replace(verb, args=(arg,))
        if (default := _schema(arg).get("default")) is not None:
            assert arguments(alone, {arg.name: default}) == arguments(alone, {})


def test_what_reads_can_be_watched(api: Any) -> None:
    answers = api["paths"]["/v1/queue/list"]["get"]["responses"]["200"]["content"]
    assert set(answers) == {"application/json", "text/event-stream"}
    assert set(api["paths"]["/v1/queue/hold"]["post"]["responses"]["200"]["content"]) == {"application/json"}


def test_an_answer_that_says_no_has_a_form_of_its_own(api: Any) -> None:
    assert api["components"]["schemas"]["Error"]["required"] == ["error", "field"]
    assert api["paths"]["/v1/health"]["get"]["responses"].keys() >= {"200", "503", "403"}


def test_no_two_operations_are_called_alike(api: Any) -> None:
    ids = [operation["operationId"] for path in api["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))
