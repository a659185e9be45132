"""Requests made up from the OpenAPI document never make the service fail."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error


@pytest.fixture(scope="module")
def document(url):
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


PATHS = {
    "GET": ["/healthz", "/readyz", "/v1/model", "/v1/models", "/v1/attributes", "/v1/examples"],
    "POST": [
        "/v1/sample",
        "/v1/interpolate",
        "/v1/edit",
        "/v1/encode",
        "/v1/decode",
        "/v1/reconstruct",
        "/v1/images/generations",
    ],
}


@pytest.mark.parametrize(("method", "path"), [(method, path) for method, paths in PATHS.items() for path in paths])
def test_no_request_makes_the_service_fail(document, method, path):
    @given(case=document[path][method].as_strategy())
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    def check(case):
        case.call_and_validate(checks=[not_a_server_error])

    check()


def test_the_document_names_every_path(document):
    assert {path: set(document.raw_schema["paths"][path]) for path in document.raw_schema["paths"]} == {
        path: {method.lower()} for method, paths in PATHS.items() for path in paths
    }
