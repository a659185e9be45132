"""Which exceptions of storage libraries are transient: a retry may succeed.

Timeouts, lost or refused connections, throttling (``SlowDown``, 429) and server errors (5xx) are transient.
Refused keys (403), missing buckets, and full or read-only disks are not. The libraries behind fsspec
(botocore, aiohttp, Google's, Azure's) share no base class, so the attributes of their exceptions decide.
"""

import errno
from collections.abc import Iterator

_ERRNOS = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.EINTR,
    errno.EIO,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EPIPE,
    errno.EREMOTEIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
# Base classes of transport errors: botocore and requests; aiohttp; urllib3; Azure; Google and httpx.
_TRANSPORT = {
    "HTTPClientError",
    "ConnectionError",
    "ClientConnectionError",
    "ClientPayloadError",
    "ProtocolError",
    "ServiceRequestError",
    "ServiceResponseError",
    "TransportError",
}
_TIMEOUT, _TOO_MANY, _SERVER = 408, 429, 500
_THROTTLING = ("Throttl", "SlowDown", "RequestTimeout", "RequestLimitExceeded", "TooManyRequests")


def is_transient(error: BaseException) -> bool:
    """Whether a retry may succeed, judged by an exception and its causes."""
    chain = list(_chain(error))
    for one in chain:  # the server's answer decides before an errno that a library chose
        status, code = _answer(one)
        if status is not None:
            return status in (_TIMEOUT, _TOO_MANY) or status >= _SERVER or code.startswith(_THROTTLING)
    return any(
        isinstance(one, TimeoutError)
        or _TRANSPORT.intersection(base.__name__ for base in type(one).__mro__)
        or (isinstance(one, OSError) and one.errno in _ERRNOS)
        for one in chain
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _answer(error: BaseException) -> tuple[int | None, str]:
    """HTTP status and error code of an exception; the status is None if no server answered."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status, str(response.get("Error", {}).get("Code", ""))
    carried = (
        getattr(response, "status_code", None),  # requests and httpx
        *(getattr(error, name, None) for name in ("status_code", "status", "code")),  # Azure, aiohttp, Google
    )
    return next((status for status in carried if isinstance(status, int)), None), ""
