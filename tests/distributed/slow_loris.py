"""Connections that are held cheaply, to a running service while a normal client asks for ``/readyz``.

``python -m tests.distributed.slow_loris URL CONNECTIONS SECONDS [idle]`` prints what the client saw, as JSON.
Every connection sends one more header per second; with ``idle``, one whole request and then nothing. One that
the service closes is opened again within a second.
"""

import json
import resource
import socket
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from urllib.parse import urlsplit

import httpx

PATIENCE_S = 30  # of the normal client
FIRST = {
    "headers": b"POST /v1/sample HTTP/1.1\r\nhost: x\r\n",
    "idle": b"GET /-/healthz HTTP/1.1\r\nhost: x\r\n\r\n",
}
NEXT = {"headers": b"x-more: 1\r\n", "idle": b""}


def attack(
    address: tuple[str, int], connections: int, kind: str, stop: threading.Event, seen: Counter
) -> None:
    """Hold so many connections until ``stop``, and count them and those that the service closed."""
    held: set[socket.socket] = set()
    while not stop.wait(1):
        for one in [one for one in held if not sends_on(one, kind)]:
            one.close()
            held.discard(one)
            seen["closed"] += 1
        with suppress(OSError):  # the service accepts no more
            while len(held) < connections:
                one = socket.create_connection(address, timeout=1)
                one.sendall(FIRST[kind])
                one.setblocking(False)
                held.add(one)
        seen["held"] = max(seen["held"], len(held))
    for one in held:
        one.close()


def sends_on(connection: socket.socket, kind: str) -> bool:
    """Send one more header or nothing; False if the service has closed the connection."""
    try:
        connection.send(NEXT[kind])
        answer = connection.recv(2**10)  # empty at the end
        return kind == "idle" and answer != b""
    except BlockingIOError:  # neither an answer nor the end
        return True
    except OSError:
        pass
    return False


def ask(client: httpx.Client, url: str) -> float | None:
    """Seconds until a new connection has its answer; None if there is none."""
    started = time.monotonic()
    with suppress(httpx.HTTPError):
        if client.get(f"{url}/readyz").status_code == 200:
            return round(time.monotonic() - started, 3)
    return None


def attack_and_ask(url: str, connections: int, seconds: float, kind: str = "headers") -> dict:
    """Attack a service, and return what the attack and a normal client saw."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    seen, stop = Counter(), threading.Event()
    parts = urlsplit(url)
    address = (parts.hostname, parts.port)
    attacker = threading.Thread(target=attack, args=(address, connections, kind, stop, seen))
    unkept = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(timeout=PATIENCE_S, limits=unkept) as client:
        before = ask(client, url)
        attacker.start()
        time.sleep(3)
        until, taken = time.monotonic() + seconds, []
        while time.monotonic() < until:
            taken.append(ask(client, url))
            time.sleep(0.5)
    stop.set()
    attacker.join()
    answered = sorted(one for one in taken if one is not None)
    return {
        **seen,
        "answered": len(answered),
        "unanswered": len(taken) - len(answered),
        "before_s": before,
        "median_s": answered[len(answered) // 2] if answered else None,
        "slowest_s": answered[-1] if answered else None,
    }


if __name__ == "__main__":
    print(json.dumps(attack_and_ask(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:])))
