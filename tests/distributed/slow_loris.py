"""Requests that never end, sent to a running service while a normal client asks for ``/readyz``.

``python -m tests.distributed.slow_loris URL CONNECTIONS SECONDS`` prints what the client saw, as JSON. Every
connection sends one more header per second. One that the service closes is opened again within a second.
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


def attack(address: tuple[str, int], connections: int, stop: threading.Event, seen: Counter) -> None:
    """Hold so many connections until ``stop``, and count them and those that the service closed."""
    held: set[socket.socket] = set()
    while not stop.wait(1):
        for one in [one for one in held if not sends_on(one)]:
            one.close()
            held.discard(one)
            seen["closed"] += 1
        with suppress(OSError):  # the service accepts no more
            while len(held) < connections:
                one = socket.create_connection(address, timeout=1)
                one.sendall(b"POST /v1/sample HTTP/1.1\r\nhost: x\r\n")
                one.setblocking(False)
                held.add(one)
        seen["held"] = max(seen["held"], len(held))
    for one in held:
        one.close()


def sends_on(connection: socket.socket) -> bool:
    """Send one more header; False if the service has closed the connection."""
    try:
        connection.send(b"x-more: 1\r\n")
        connection.recv(2**10)  # an answer, or the end
    except BlockingIOError:  # neither
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


def attack_and_ask(url: str, connections: int, seconds: float) -> dict:
    """Attack a service, and return what the attack and a normal client saw."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    seen, stop = Counter(), threading.Event()
    parts = urlsplit(url)
    attacker = threading.Thread(target=attack, args=((parts.hostname, parts.port), connections, stop, seen))
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
    print(json.dumps(attack_and_ask(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
