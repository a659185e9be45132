"""Requests generated from the OpenAPI document never make the service fail."""

import httpx
import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error

from lbae.web.limits import Limits
from tests.web.conftest import Client


@pytest.fixture(scope="module")
def document(url):
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


PATHS = {
    "GET": ["/healthz", "/readyz", "/v1/model", "/v1/models", "/v1/attributes", "/v1/examples"],
    "POST": [
        "/v1/sample",
        "/v1/interpolate",
        "/v1/variations",
        "/v1/edit",
        "/v1/encode",
        "/v1/decode",
        "/v1/reconstruct",
        "/v1/images/generations",
        "/v1/images/variations",
    ],
}


@pytest.mark.parametrize(
    ("method", "path"), [(method, path) for method, paths in PATHS.items() for path in paths]
)
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


@pytest.mark.parametrize("keys", [(), ("one",)], ids=["open", "keys"])
def test_the_document_declares_errors_and_api_keys(bundle, keys):
    document = Client(bundle, Limits(keys=keys)).request("GET", "/openapi.json").json()
    failure = {"application/json": {"schema": {"$ref": "#/components/schemas/Failure"}}}
    for path in PATHS["POST"]:
        operation = document["paths"][path]["post"]
        assert {"400", "401", "408", "413", "415", "422", "500", "503", "504"} < set(operation["responses"])
        assert all(
            said["content"] == failure for status, said in operation["responses"].items() if status != "200"
        )
        assert operation["security"] == ([{"key": []}] if keys else [{}, {"key": []}])
        kinds = set(operation["requestBody"]["content"])
        assert kinds & {"application/json", "multipart/form-data"}
        assert ("application/json" in kinds) == (path != "/v1/images/variations")
    assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    assert "security" not in document["paths"]["/healthz"]["get"]


def test_errors_match_the_document(bundle):
    client = Client(bundle, Limits(keys=("one",)))
    schema = client.request("GET", "/openapi.json").json()["components"]["schemas"]["Failure"]
    for path in ("/v1/sample", "/v1/nothing", "/nothing"):
        jsonschema.validate(client.request("POST", path, json={}).json(), schema)


def test_every_route_names_the_bundle_and_the_time_taken(url):
    for path in PATHS["GET"]:
        answer = httpx.get(f"{url}{path}")
        assert (answer.status_code, answer.headers["x-bundle"]) == (200, "abc")
        assert answer.headers["server-timing"].startswith("total;dur=")
