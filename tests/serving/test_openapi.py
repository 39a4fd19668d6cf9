"""The OpenAPI document, against the service that it describes."""

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from serving_setup import PATIENCE, Running


def test_every_example_works(server: Running) -> None:
    document = httpx.get(server.url + "/openapi.json").json()
    n_examples = 0
    for path, operations in document["paths"].items():
        for operation in operations.values():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            for example in content.get("examples", {}).values():
                n_examples += 1
                value = {**example["value"]}
                answer = server.post(path, **value)
                assert answer.status_code == 200, answer.text
    assert n_examples >= 5


def test_the_document_is_complete(server: Running) -> None:
    document = httpx.get(server.url + "/openapi.json").json()
    assert {"/v1/completions", "/v1/chat/completions", "/generated_texts/", "/v1/models", "/metrics"} <= set(
        document["paths"]
    )
    for name in ("CompletionBody", "ChatBody", "GeneratedTextsBody"):
        schema = document["components"]["schemas"][name]
        assert schema["additionalProperties"] is False
    assert all(operation.get("description") for of in document["paths"].values() for operation in of.values())


def test_the_page_needs_nothing_from_elsewhere(server: Running) -> None:
    answer = httpx.get(server.url + "/docs")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "<script" not in answer.text
    assert "http" not in answer.text.replace(server.url, "")
    for word in ("/v1/completions", "temperature", "repetition_penalty", "curl"):
        assert word in answer.text


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_schemathesis_finds_nothing(server: Running, mode: GenerationMode) -> None:
    document = schemathesis.openapi.from_url(server.url + "/openapi.json")
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) >= 12
    for operation in operations:
        has_body = operation.definition.raw.get("requestBody") is not None
        if mode is GenerationMode.NEGATIVE and not has_body:
            continue  # nothing that could be wrong

        @settings(max_examples=30 if has_body else 2, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=CHECKS, timeout=PATIENCE)

        check()
