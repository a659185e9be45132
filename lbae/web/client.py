"""A client of the service. Functions build requests; ``Client.send`` and ``AsyncClient.send`` send them:

    with Client("http://127.0.0.1:8000") as service:
        png = service.send(sample(16, seed=0)).content

No request changes anything on the service, so failed ones are retried for half a minute: when the service is
full (503, not before its Retry-After), the connection is lost or the replica dies. A request whose response
times out is not retried, because the service may still be working on it.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    stop_all,
    wait_random_exponential,
)

_TIMEOUT_S = 150.0  # more than the service's limit of 120 s, so that the service reports a timeout itself
_BACKOFF = wait_random_exponential(multiplier=0.1, max=5)


class ServiceError(Exception):
    """A refused request: its status, error type (``kind``), field at fault (``param``), and Retry-After."""

    def __init__(self, status: int, fields: dict[str, Any], retry_after_s: float = 0) -> None:
        super().__init__(fields.get("message"))
        self.status, self.kind, self.param = status, fields.get("type"), fields.get("param")
        self.retry_after_s = retry_after_s


def _wait_s(state: RetryCallState) -> float:
    """Seconds before a retry: the service's Retry-After plus a random backoff that spreads clients."""
    error = state.outcome.exception() if state.outcome else None
    return _BACKOFF(state) + (error.retry_after_s if isinstance(error, ServiceError) else 0)


_RETRY: dict[str, Any] = {
    "stop": stop_all(stop_after_attempt(3), stop_after_delay(30)),  # at least three attempts and 30 seconds
    "wait": _wait_s,
    "reraise": True,
}


@dataclass(frozen=True)
class Latent:
    """A packed latent: ceil(N/8) bytes, least significant bit first."""

    packed: bytes


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A response: its file, the bundle that made it, the seed if any, and the bits that an edit changed."""

    content: bytes
    media_type: str
    bundle: str
    seed: int | None
    bits_changed: int | None


Item = bytes | Latent  # the bytes of an image file, or a latent
Result = TypeVar("Result")


@dataclass(frozen=True)
class Call(Generic[Result]):
    """A request, and the function that parses its response."""

    method: str
    path: str
    body: dict[str, Any] | None
    parse: Callable[[httpx.Response], Result]


def sample(
    n: int = 16,
    *,
    seed: int | None = None,
    given: Mapping[str, bool] | None = None,
    component: int | None = None,
    temperature: float = 1.0,
    format: str = "grid",
) -> Call[Answer]:
    """Request ``n`` new images that have (True) or lack (False) the ``given`` attributes.

    Below a ``temperature`` of 1, images are more typical and differ less.

    ``format``: grid (one PNG), png, jpeg or webp (with n = 1), zip (PNG files), or latents (JSON).
    """
    fields = {
        "n": n,
        "seed": seed,
        "given": dict(given or {}),
        "component": component,
        "temperature": temperature,
        "format": format,
    }
    return Call("POST", "/v1/sample", fields, _answer)


def vary(
    item: Item, n: int = 16, *, strength: float = 0.3, seed: int | None = None, format: str = "grid"
) -> Call[Answer]:
    """Request ``n`` variations of the item, from ``strength`` 0 (the item itself) to 1.

    ``format``: as for :func:`sample`.
    """
    fields = {"item": _item(item), "n": n, "strength": strength, "seed": seed, "format": format}
    return Call("POST", "/v1/variations", fields, _answer)


def interpolate(
    items: Sequence[Item], *, steps: int = 10, loop: bool = False, seed: int = 0, format: str = "strip"
) -> Call[Answer]:
    """Request a path through the items, ``steps`` frames per leg.

    ``format``: strip (one PNG), webp (animated), zip (PNG files), latents (JSON), or stream (NDJSON).
    """
    fields = {
        "items": [_item(item) for item in items],
        "steps": steps,
        "loop": loop,
        "seed": seed,
        "format": format,
    }
    return Call("POST", "/v1/interpolate", fields, _answer)


def edit(
    item: Item,
    *,
    set: Sequence[str] = (),
    unset: Sequence[str] = (),
    strength: float = 1.0,
    method: str = "exchange",
    until: float | None = None,
    format: str = "png",
) -> Call[Answer]:
    """Request the item with attributes set and unset. ``format``: png, jpeg, webp, or latents (JSON)."""
    fields = {
        "item": _item(item),
        "set": list(set),
        "unset": list(unset),
        "strength": strength,
        "method": method,
        "until": until,
        "format": format,
    }
    return Call("POST", "/v1/edit", fields, _answer)


def encode(images: Sequence[bytes]) -> Call[list[Latent | ServiceError]]:
    """Request one latent, or one error, per image file."""
    fields = {"images": [_text(image) for image in images]}
    return Call(
        "POST",
        "/v1/encode",
        fields,
        lambda answer: [_one(r, "base64", Latent) for r in answer.json()["results"]],
    )


def decode(latents: Sequence[Latent], *, format: str = "png") -> Call[list[bytes | ServiceError]]:
    """Request one image file, or one error, per latent."""
    return Call(
        "POST",
        "/v1/decode",
        {"latents": [_text(latent.packed) for latent in latents], "format": format},
        _files,
    )


def reconstruct(images: Sequence[bytes], *, format: str = "png") -> Call[list[bytes | ServiceError]]:
    """Request one reconstructed image file, or one error, per image file."""
    return Call(
        "POST", "/v1/reconstruct", {"images": [_text(image) for image in images], "format": format}, _files
    )


def attributes() -> Call[dict[str, Any]]:
    """Request every attribute's row counts (set, unset) and the bits that it lifts most."""
    return Call("GET", "/v1/attributes", None, lambda answer: answer.json()["attributes"])


def model() -> Call[dict[str, Any]]:
    """Request the bundle's facts: fingerprint, network, precision, sampler, components, conditions."""
    return Call("GET", "/v1/model", None, lambda answer: answer.json())


def _item(item: Item) -> dict[str, str]:
    return {"latent": _text(item.packed)} if isinstance(item, Latent) else {"image": _text(item)}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _answer(answer: httpx.Response) -> Answer:
    seed, changed = answer.headers.get("x-seed"), answer.headers.get("x-bits-changed")
    return Answer(
        content=answer.content,
        media_type=answer.headers["content-type"],
        bundle=answer.headers["x-bundle"],
        seed=None if seed is None else int(seed),
        bits_changed=None if changed is None else int(changed),
    )


def _files(answer: httpx.Response) -> list[bytes | ServiceError]:
    return [_one(result, "image", bytes) for result in answer.json()["results"]]


def _one(result: dict[str, Any], field: str, kind: Callable[[bytes], Result]) -> Result | ServiceError:
    return ServiceError(422, result["error"]) if "error" in result else kind(base64.b64decode(result[field]))


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_success:
        return answer
    try:
        fields = answer.json()["error"]
    except (ValueError, KeyError, TypeError):  # a proxy's error page
        fields = {"message": f"{answer.status_code} {answer.reason_phrase}", "type": None, "param": None}
    after = answer.headers.get("retry-after", "")
    raise ServiceError(answer.status_code, fields, float(after) if after.isdecimal() else 0)


def _again(error: BaseException) -> bool:
    """Whether the service was full, the connection was lost, or a proxy reports a dead replica."""
    if isinstance(error, ServiceError):
        return error.status == 503 or (error.status >= 500 and error.kind is None)
    return isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError | httpx.ConnectTimeout)


def _options(url: str, api_key: str | None, timeout: float) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return {"base_url": url, "headers": headers, "timeout": timeout}


class Client:
    """A client of the service at ``url``.

    ``send`` raises ServiceError when the service refuses a request, and httpx's errors when it cannot be
    reached.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float = _TIMEOUT_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(transport=transport, **_options(url, api_key, timeout))

    def send(self, call: Call[Result]) -> Result:
        """The result of a request."""

        def once() -> Result:
            return call.parse(_checked(self._http.request(call.method, call.path, json=call.body)))

        return Retrying(retry=retry_if_exception(_again), **_RETRY)(once)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()


class AsyncClient:
    """:class:`Client` for an event loop."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float = _TIMEOUT_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(transport=transport, **_options(url, api_key, timeout))

    async def send(self, call: Call[Result]) -> Result:
        """The result of a request."""

        async def once() -> Result:
            return call.parse(_checked(await self._http.request(call.method, call.path, json=call.body)))

        return await AsyncRetrying(retry=retry_if_exception(_again), **_RETRY)(once)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._http.aclose()
