"""Requests that browsers send for foreign pages: which are refused, and what opens the service to them."""

import json
import socket

import httpx
import pytest
from playwright.sync_api import expect

from lbae.errors import UserError
from lbae.web.foreign_pages import allowed_hosts, allowed_origins
from lbae.web.limits import DEFAULT_LIMITS, Limits
from tests.web import attacks_from_pages
from tests.web.attacks_from_pages import CHROMIUM, attempts, foreign_site
from tests.web.conftest import Client, listening

browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")


def status(
    bundle, limits: Limits = DEFAULT_LIMITS, method: str = "GET", path: str = "/v1/examples", **headers: str
) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Client(bundle, limits).request(method, path, headers=named).status_code


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8000", "LOCALHOST.:80", "127.0.0.1:8000", "127.9.8.7", "[::1]:8000", "[0:0::1]"],
)
def test_names_and_addresses_of_the_loopback_are_answered(bundle, host):
    assert status(bundle, host=host) == 200


FOREIGN_HOSTS = [
    *(
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.localhost",
    ),
    *("10.0.0.7:8000", "0.0.0.0:8000", "[fe80::1]", "::1", "128.0.0.1", "user@localhost", "localhost:80:80"),
    *("localhost/evil", "[localhost]", "", "[]", "null"),
    *("[127.0.0.1]", "[127.0.0.1%evil.com]", "[::1%25evil.com]", "[::1%lo]:8000", "[fe80::1%eth0]"),
]


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_other_hosts_are_refused_without_keys(bundle, host):
    client = Client(bundle, Limits())
    for method, path in (("GET", "/v1/examples"), ("POST", "/v1/encode"), ("GET", "/"), ("GET", "/none")):
        answer = client.request(method, path, headers={"host": host})
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["param"]) == (403, "forbidden", None)
        assert f"the header Host is {host}" in error["message"]
        assert "--allow-host NAME (allow_host in a Serve config)" in error["message"]
        assert "x-bundle" not in answer.headers
    for path in ("/healthz", "/readyz"):  # of a pod, called by its address
        answer = client.request("GET", path, headers={"host": host})
        assert (answer.status_code, "x-bundle" in answer.headers) == (200, False)
    assert client.seen[0] == ("none", 403)


@pytest.mark.parametrize("hosts", ["", "Host: localhost\r\nHost: evil.example\r\n"], ids=["none", "two"])
def test_a_request_without_one_host_is_refused(bundle, hosts):
    with (
        listening(bundle, Limits()) as url,
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=60) as connection,
    ):
        connection.sendall(f"GET /v1/examples HTTP/1.0\r\n{hosts}\r\n".encode())
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
        assert b" 403 " in head
        found = "localhost, evil.example" if hosts else "missing"
        assert f"the header Host is {found};" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize(
    ("hosts", "host"),
    [
        (("lbae.example.org", "other.example"), "LBAE.example.org:443"),
        (("10.0.0.7",), "10.0.0.7:8000"),
        (("fe80::7",), "[FE80:0::7]:8000"),
        (("fe80::7",), "[fe80::7%eth0]:8000"),
        (("0.0.0.0",), "10.0.0.7:8000"),
        (("::",), "[2001:db8::7]:8000"),
    ],
)
def test_allowed_hosts_are_answered(bundle, hosts, host):
    assert status(bundle, Limits(hosts=hosts), host=host) == 200
    assert status(bundle, Limits(hosts=hosts), host="evil.example") == 403
    assert status(bundle, host=host) == 403


def test_only_the_header_host_counts(bundle):
    assert status(bundle, host="evil.example", x_forwarded_host="localhost") == 403
    assert status(bundle, host="localhost", x_forwarded_host="evil.example") == 200


def test_with_keys_any_host_is_answered(bundle):
    limits = Limits(keys=("one",))
    assert status(bundle, limits, host="evil.example", authorization="Bearer one") == 200
    assert status(bundle, limits, host="evil.example") == 401


POST = {"method": "POST", "path": "/v1/sample"}
LINK = {"sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
FOREIGN = [
    {**POST, "origin": "https://evil.example"},
    {**POST, "origin": "null"},
    {**POST, "origin": "http://localhost:3000"},  # another port
    {**POST, "origin": "http://localhost:8000", "host": "127.0.0.1:8000"},
    {**POST, "origin": "https://evil.example", "sec_fetch_site": "cross-site"},
    {**POST, "sec_fetch_site": "cross-site"},
    {**POST, "sec_fetch_site": "same-site"},
    {**POST, "sec_fetch_site": "cross-site", **LINK},  # a form
    {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"},
    {"sec_fetch_site": "same-site", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "script"},
    {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"},
    {"sec_fetch_site": "cross-site", "path": "/"},
    {"method": "HEAD", "sec_fetch_site": "cross-site"},
    {"method": "OPTIONS", "path": "/v1/sample", "origin": "https://evil.example"},
]


@pytest.mark.parametrize("sent", FOREIGN, ids=str)
def test_requests_for_foreign_pages_are_refused_with_and_without_keys(bundle, sent):
    for limits in (Limits(), Limits(keys=("one",)), Limits(origins=("https://app.example.org",))):
        assert (
            status(bundle, limits, **{"host": "localhost:8000", "authorization": "Bearer one"} | sent) == 403
        )
    assert status(bundle, **{"host": "localhost:8000", **sent, "method": "GET", "path": "/readyz"}) == 200


def test_the_refusal_says_what_was_found_and_what_opens_the_service(client):
    headers = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    answer = client.request("POST", "/v1/sample", json={}, headers=headers)
    assert answer.json()["error"] == {
        "type": "forbidden",
        "message": "a browser sent this request for a page of another origin (Sec-Fetch-Site: cross-site,"
        " Origin: https://evil.example); to open the service to the pages of an origin, start it with"
        " --allow-origin ORIGIN (allow_origin in a Serve config)",
        "param": None,
    }
    assert "x-bundle" not in answer.headers


OWN = [
    {"origin": "http://localhost:8000"},
    {"origin": "http://localhost:8000", "sec_fetch_site": "same-origin"},
    {"sec_fetch_site": "none", **LINK},  # typed into the address bar
    {"sec_fetch_site": "cross-site", **LINK},
    {"sec_fetch_site": "same-site", **LINK},
    {"origin": "https://lbae.example.org", "host": "lbae.example.org"},  # behind TLS, in an older browser
    {"origin": "https://lbae.example.org", "host": "lbae.example.org", "sec_fetch_site": "same-origin"},
]


@pytest.mark.parametrize("sent", OWN, ids=str)
def test_the_services_own_page_and_links_to_it_are_answered(bundle, sent):
    limits = Limits(hosts=("lbae.example.org",))
    for path in ("/", "/v1/examples"):
        assert status(bundle, limits, **{"host": "localhost:8000", "path": path} | sent) == 200


@pytest.mark.parametrize("prefix", ["", "/models/faces"])
def test_a_prefix_changes_nothing(bundle, prefix):
    with listening(bundle, Limits(), root_path=prefix) as url:
        evil = {"host": "evil.example"}
        answers = [
            httpx.get(f"{url}{prefix}{path}", headers=evil)
            for path in ("/readyz", "/healthz", "/", "/v1/model")
        ]
    assert [answer.status_code for answer in answers] == [200, 200, 403, 403]


APP = "https://app.example.org"


def test_pages_of_an_allowed_origin_may_use_the_service(bundle):
    client = Client(bundle, Limits(keys=("one",), origins=(APP,)))
    ask = {"origin": APP, "sec-fetch-site": "cross-site"}
    wanted = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-os",
        "access-control-request-private-network": "true",
    }
    preflight = client.request("OPTIONS", "/v1/sample", headers=ask | wanted)
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, APP)
    assert preflight.headers["access-control-allow-headers"] == "authorization,content-type,x-stainless-os"
    assert preflight.headers["access-control-allow-private-network"] == "true"
    assert "access-control-allow-credentials" not in preflight.headers
    drawn = client.post("/v1/sample", {"n": 1}, headers=ask | {"authorization": "Bearer one"})
    refused = client.post("/v1/sample", {"n": 1}, headers=ask)  # pages can read errors too
    assert (drawn.status_code, refused.status_code) == (200, 401)
    for answer in (drawn, refused):
        assert answer.headers["access-control-allow-origin"] == APP
        assert answer.headers["vary"] == "Origin"
        exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
        assert {"x-bundle", "x-seed", "x-bits-changed", "x-strength", "x-confidence"} < set(exposed)
        assert {"server-timing", "retry-after"} < set(exposed)
    foreign = client.request(
        "OPTIONS", "/v1/sample", headers=ask | wanted | {"origin": "https://evil.example"}
    )
    assert (foreign.status_code, "access-control-allow-origin" in foreign.headers) == (400, False)


def test_without_allowed_origins_no_answer_lets_a_page_read_it(client):
    for origin in ("https://evil.example", "http://localhost"):
        answer = client.request("GET", "/v1/model", headers={"origin": origin})
        assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    "host",
    ["http://x/", "x:80", "x/y", "*", "*.example.org", "", "bücher.example", "a b", "::g", "x\n", ".", ".."],
)
def test_an_allowed_host_is_a_name_or_an_address(host):
    with pytest.raises(UserError, match=r"allow_host is .*; allowed: a host name or address, without scheme"):
        allowed_hosts(("localhost", host))


def test_allowed_hosts_are_written_in_one_way():
    given = ("LBAE.Example.org.", "[FE80::0]", "fe80::7%eth0", "10.0.0.7", "my_service")
    assert allowed_hosts(given) == ("lbae.example.org", "fe80::", "fe80::7", "10.0.0.7", "my_service")


@pytest.mark.parametrize(
    "origin",
    [
        *("*", "null", "", "app.example.org", "https://", "https://app.example.org/", "https://x/y"),
        *("https://x:443", "http://x:80", "file://", "ftp://x", "https://u@x", "https://*.x", "https://x\n"),
    ],
)
def test_an_allowed_origin_is_the_origin_of_a_page(origin):
    with pytest.raises(UserError, match=r"allow_origin is .*; allowed: scheme, host and port of pages"):
        allowed_origins((APP, origin))


def test_allowed_origins_are_written_as_browsers_write_them():
    given = ("HTTPS://App.example.org", "http://localhost:3000", "http://[::1]:443", "https://x:80")
    assert allowed_origins(given) == tuple(origin.lower() for origin in given)


def test_the_document_names_the_refusal(client):
    paths = client.request("GET", "/openapi.json").json()["paths"]
    assert "403" in paths["/v1/examples"]["get"]["responses"]
    assert "403" in paths["/v1/encode"]["post"]["responses"]


@pytest.fixture(scope="module")
def chromium():
    with attacks_from_pages.browser() as running:
        yield running


@browser
@pytest.mark.slow
def test_no_foreign_page_reaches_the_service(chromium, url):
    found = attempts(chromium, url)
    assert found
    assert set(found.values()) == {(403, 0)}


@browser
@pytest.mark.slow
@pytest.mark.parametrize("host", ["localhost", "lbae.example"])
def test_the_services_own_page_works_by_every_allowed_name(chromium, bundle, host):
    """A browser sends no Sec-Fetch-Site to lbae.example without TLS."""
    page = chromium.new_page()
    with listening(bundle, Limits(hosts=("lbae.example",))) as url:
        page.goto(url.replace("127.0.0.1", host))
        expect(page.locator(".grid img")).to_have_count(36)
    page.close()


@browser
@pytest.mark.slow
def test_a_page_of_an_allowed_origin_reads_images_and_headers(chromium, bundle):
    script = """async url => {
        const headers = {"content-type": "application/json"}, body = '{"n": 1, "seed": 5}';
        const answer = await fetch(`${url}/v1/sample`, {method: "POST", headers, body});
        return [answer.status, answer.headers.get("x-seed"), (await answer.blob()).type];
    }"""
    with foreign_site() as port:
        origin = f"http://app.example:{port}"
        page = chromium.new_page()
        with listening(bundle, Limits(origins=(origin,))) as url:
            page.goto(origin)
            assert page.evaluate(script, url) == [200, "5", "image/png"]
        page.close()
