"""Foreign pages in a real browser against a service: which requests it answers, and what the pages read.

``python -m tests.web.attacks_from_pages URL`` prints a line per request. The URL is that of a service on
127.0.0.1, as ``lbae serve`` prints it. Every page asks for the example images and posts a file to be encoded:

- a page whose host name leads to the service once the page is loaded (DNS rebinding)
- pages of another site, of another port of this machine, and of a name below ``localhost``
- a form on another site, which needs no script
"""

import base64
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

from tests.web.conftest import image_file

CHROMIUM = shutil.which("chromium")

_PAGE = "<!doctype html><title>a foreign page</title><form method=post enctype=multipart/form-data></form>"
_FETCH = """async ([url, method, mode, image]) => {
    const form = new FormData(), bytes = Uint8Array.from(atob(image), (c) => c.charCodeAt(0));
    form.append("image", new File([bytes], "a.png", {type: "image/png"}));
    try {
        const answer = await fetch(url, {method, mode, body: method === "POST" ? form : undefined});
        return answer.ok ? (await answer.text()).length : 0;
    } catch {
        return 0;
    }
}"""
_SUBMIT = """url => {
    const form = document.querySelector("form"), input = document.createElement("input");
    Object.assign(input, {type: "file", name: "image"});
    form.append(input);
    form.action = url;
    form.submit();
}"""


class Attempt(NamedTuple):
    """The status of the service's answer, None if no request arrived; the characters that the page read."""

    status: int | None
    read: int


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser for which every name below ``example`` leads to 127.0.0.1.

    Local Network Access is off, as in other browsers: with it, Chromium asks the person before a page from
    elsewhere reaches this machine.
    """
    arguments = [
        "--no-sandbox",
        "--host-resolver-rules=MAP *.example 127.0.0.1",
        "--disable-features=LocalNetworkAccessChecks",
    ]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield running
        running.close()


class _Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(_PAGE.encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def foreign_site() -> Iterator[int]:
    """The port of a server on 127.0.0.1 that answers every request with a page that does nothing."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Site) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def attempts(running: Browser, url: str) -> dict[str, Attempt]:
    """Send every request to the service at this URL; what became of each, by its name."""
    service = urlsplit(url)
    with foreign_site() as port:
        found = _requests(running, f"http://other.example:{port}/", url)
        found |= _requests(running, f"http://{service.hostname}:{port}/", url)
        found |= _requests(running, f"http://other.localhost:{port}/", url)
        found |= _form(running, f"http://other.example:{port}/", url)
    return _requests(running, f"http://rebound.example:{service.port}/", "") | found


def _requests(running: Browser, address: str, url: str) -> dict[str, Attempt]:
    """The requests of the page at an address; without a URL those to its own origin, which is rebound."""
    page, statuses = _opened(running, address, own=not url)
    found = {}
    for method, path in (("GET", "/v1/examples"), ("POST", "/v1/encode")):
        statuses.clear()
        image = base64.b64encode(image_file(1)).decode()
        read = page.evaluate(_FETCH, [url + path, method, "no-cors" if url else "cors", image])
        found[f"{urlsplit(address).hostname}: {method} {path}"] = Attempt(next(iter(statuses), None), read)
    page.close()
    return found


def _form(running: Browser, address: str, url: str) -> dict[str, Attempt]:
    page, statuses = _opened(running, address, own=False)
    with page.expect_navigation():
        page.evaluate(_SUBMIT, f"{url}/v1/encode")
    page.close()
    return {f"{urlsplit(address).hostname}: form to /v1/encode": Attempt(next(iter(statuses), None), 0)}


def _opened(running: Browser, address: str, own: bool) -> tuple[Page, list[int]]:
    """A page, and a list that collects the statuses of the answers of ``/v1/``.

    With ``own`` the page itself comes from the attacker, as with the first address of a name that is rebound.
    """
    page, statuses = running.new_page(), []
    page.on("response", lambda answer: "/v1/" in answer.url and statuses.append(answer.status))
    if own:
        page.route(address, lambda route: route.fulfill(body=_PAGE, content_type="text/html"))
    page.goto(address)
    return page, statuses


if __name__ == "__main__":
    with browser() as running:
        for name, (status, read) in attempts(running, sys.argv[1]).items():
            print(f"{name:40} status {status}, {read} characters read")
