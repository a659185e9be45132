"""Requests made up from the OpenAPI document never make the service fail."""

import socket
import threading

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error

from lbae.web.app import create_app
from lbae.web.backend import BundleBackend


@pytest.fixture(scope="module")
def document(bundle):
    async def opened() -> BundleBackend:
        return BundleBackend(bundle)

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(opened), log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield schemathesis.openapi.from_url(f"http://127.0.0.1:{listener.getsockname()[1]}/openapi.json")
    server.should_exit = True
    thread.join(timeout=30)


PATHS = {
    "GET": ["/healthz", "/readyz", "/v1/model", "/v1/attributes"],
    "POST": ["/v1/sample", "/v1/interpolate", "/v1/edit", "/v1/encode", "/v1/decode", "/v1/reconstruct"],
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
