"""Refusal of requests that a browser sends for a page of another origin.

Any page that a person opens can send requests to the services of that person's machine and network:

- **DNS rebinding** makes the page's own host name lead to the service. The browser then takes both for one
  origin, and the page reads the answers. ``Host`` gives it away: it holds the name of the page.
- **From another origin** a page can send forms and files. The browser hides the answers, but the service
  would do the work. ``Sec-Fetch-Site`` or ``Origin`` gives it away.

No page can change these headers, and programs send none of them but ``Host``. Like Go's
``CrossOriginProtection``, the check trusts ``Sec-Fetch-Site``. Where a browser does not send it, ``Origin``
must match ``Host``.
"""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

from starlette.datastructures import Headers

from lbae.errors import UserError
from lbae.web.answers.error_answers import RequestError
from lbae.web.limits import Limits

_NAME = r"[a-z0-9._-]+"
_IPV6 = r"[0-9a-f]*:[0-9a-f:.]*"
_LINK_LOCAL = rf"fe80:[0-9a-f:]+%{_NAME}"  # only these need a zone, the network interface
_PLACE = rf"({_NAME}|\[(?:{_IPV6}|{_LINK_LOCAL})\])(:[0-9]+)?"
_ORIGIN = rf"(?!http:.*:80$|https:.*:443$)https?://{_PLACE}"  # browsers leave default ports out
_EVERY_ADDRESS = {"0.0.0.0", "::"}


def refusal(method: str, headers: Headers, limits: Limits) -> RequestError | None:
    """The refusal of a request that a browser sends for a foreign page; None for any other request.

    ``Host`` is not checked where there are API keys: a rebound page has none.
    """
    if not limits.keys and not _is_ours(headers.getlist("host"), limits.hosts):
        return RequestError(
            403,
            f"the header Host is {', '.join(headers.getlist('host')) or 'missing'}; without API keys the"
            " service answers to localhost, loopback addresses and its own host: start it with --allow-host"
            " NAME (allow_host in a Serve config), or with API keys",
        )
    if page := _foreign_page(method, headers, limits.origins):
        return RequestError(
            403,
            f"a browser sent this request for a page of another origin ({page}); to open the service to the"
            " pages of an origin, start it with --allow-origin ORIGIN (allow_origin in a Serve config)",
        )
    return None


def canonical_host(host: str) -> str:
    """A host name in lower case without a final dot, or an address as Python writes it, without a zone."""
    address = _address(host)
    return host.lower().removesuffix(".") if address is None else str(address)


def allowed_hosts(given: tuple[str, ...]) -> tuple[str, ...]:
    """Host names and addresses in the form of ``Limits.hosts``. UserError for others, such as URLs."""
    for host in given:
        if _address(host) is None and not (re.fullmatch(_NAME, host.lower()) and host.strip(".")):
            raise UserError(
                f"allow_host is {host!r}; allowed: a host name or address, without scheme, port and path,"
                " such as lbae.example.org (other letters than a to z as xn--...)"
            )
    return tuple(map(canonical_host, given))


def allowed_origins(given: tuple[str, ...]) -> tuple[str, ...]:
    """Origins in the form of ``Limits.origins``. UserError for others, such as ``*`` and ``null``."""
    origins = tuple(origin.lower() for origin in given)
    for origin in origins:
        if not re.fullmatch(_ORIGIN, origin):
            raise UserError(
                f"allow_origin is {origin!r}; allowed: scheme, host and port of pages, without a default port"
                " and without a path, such as https://app.example.org or http://localhost:3000; '*' and"
                " 'null' would be the pages of anyone"
            )
    return origins


def _is_ours(given: list[str], hosts: tuple[str, ...]) -> bool:
    """Whether the headers ``Host`` are one that names this service."""
    place = re.fullmatch(_PLACE, given[0].lower()) if len(given) == 1 else None
    if place is None:
        return False
    host = canonical_host(place[1])
    if host == "localhost" or host in hosts:
        return True
    # A service on every interface is called by addresses that it does not know. None can be rebound.
    address = _address(host)
    return address is not None and (address.is_loopback or not _EVERY_ADDRESS.isdisjoint(hosts))


def _foreign_page(method: str, headers: Headers, allowed: tuple[str, ...]) -> str | None:
    """What the headers say of the page of another origin for which the request was sent, if it was."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin in allowed:
        return None
    if site is None:  # by a program, an old browser, or a browser at an address without TLS
        host = headers.get("host", "").lower()
        return None if origin in (None, f"http://{host}", f"https://{host}") else f"Origin: {origin}"
    what = (method, headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest"))
    if site in ("same-origin", "none") or what == ("GET", "navigate", "document"):  # the last is a link
        return None
    return f"Sec-Fetch-Site: {site}, Origin: {origin or 'not given'}"


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
