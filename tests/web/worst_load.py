"""The worst requests that the service allows, many at once, to a server in a process of its own.

    python -m tests.web.worst_load

prints the peak of the server's resident memory under each load. The server runs in the environment of a
replica, with an untrained network for images of 256 pixels.
"""

import asyncio
import base64
import io
import os
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from PIL import Image

from lbae.distributed.cluster.torch_env import TORCH_RUNTIME_ENV
from lbae.web.app import create_app
from lbae.web.limits import Limits
from tests.conftest import ROOT
from tests.web.conftest import opened, untrained_bundle

SIDE = 256
_AT_ONCE = 8
_BODY = Limits().max_body_bytes - 4096
_FOUR_K = (3840, 2160)
_TURNED = Image.Exif()
_TURNED[0x0112] = 6  # stored on its side


def serve() -> None:
    """Answer on a free port, which is printed."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    app = create_app(opened(untrained_bundle(SIDE)), Limits())
    uvicorn.Server(uvicorn.Config(app, log_level="critical")).run(sockets=[listener])


@dataclass(frozen=True)
class Server:
    """The URL and the process of a running server."""

    url: str
    process: int

    def resident_mb(self, figure: str = "VmHWM") -> int:
        """Its resident memory now (VmRSS), or at its peak since :meth:`forget_peak` (VmHWM)."""
        lines = Path(f"/proc/{self.process}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 // 10**6 for line in lines if line.startswith(figure))

    def forget_peak(self) -> None:
        """Start the peak anew."""
        Path(f"/proc/{self.process}/clear_refs").write_text("5")


@contextmanager
def running_server() -> Iterator[Server]:
    """A server in a process of its own."""
    environment = os.environ | TORCH_RUNTIME_ENV["env_vars"] | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.web.worst_load", "serve"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            server = Server(f"http://127.0.0.1:{process.stdout.readline().strip()}", process.pid)
            httpx.get(f"{server.url}/readyz", timeout=60)
            yield server
        finally:
            process.kill()


def _file(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **{"exif": _TURNED, **options})
    return buffer.getvalue()


def uploads() -> dict[str, bytes]:
    """Image files that take much memory to decode, by name."""
    clear, large = (Image.new("RGBA", size, (1, 2, 3, 128)) for size in (_FOUR_K, (4000, 3125)))
    sixteen = Image.fromarray(np.full(_FOUR_K[::-1], 777, np.uint16))
    noise = np.random.default_rng(0).integers(0, 256, (2160, 3600, 4), dtype=np.uint8)
    # A tag that Pillow reads, of two million numbers.
    tag = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x0112, 3, 2_000_000, 26) + bytes(4_000_004)
    return {
        "PNG, 12.5 megapixels": _file(large, "PNG"),
        "PNG with alpha, 4K": _file(clear, "PNG"),
        "PNG of a palette, 4K": _file(Image.new("P", _FOUR_K, 3), "PNG", transparency=3),
        "PNG of grey and alpha, 4K": _file(clear.convert("LA"), "PNG"),
        "PNG of 16 bits, 4K": _file(sixteen, "PNG"),
        "WebP, 12.5 megapixels": _file(large, "WEBP", lossless=True),
        "WebP, 12.5 megapixels, 4 MB of EXIF": _file(large, "WEBP", exif=tag, lossless=True),
        "WebP of 30 MB": _file(Image.fromarray(noise), "WEBP", lossless=True, method=0),
        "JPEG of a phone, 12 megapixels": _file(Image.new("RGB", (4032, 3024), "red"), "JPEG"),
        "JPEG of a phone, 50 megapixels": _file(Image.new("RGB", (8160, 6120), "red"), "JPEG"),
        "JPEG, progressive, 25 megapixels": _file(
            Image.new("CMYK", (5000, 5000), (1, 2, 3, 4)), "JPEG", progressive=True, subsampling=0
        ),
    }


def bodies() -> dict[str, dict[str, Any]]:
    """Requests to ``/v1/encode`` with bodies of almost 32 MiB, by name."""
    json = {"content-type": "application/json"}

    def of(start: str, filling: str, end: str) -> dict[str, Any]:
        return {
            "content": (start + filling * ((_BODY - 100) // len(filling.encode())) + end).encode(),
            "headers": json,
        }

    return {
        "JSON of one image": of('{"images": ["', "iVBOR", '"]}'),
        "JSON of one image and an emoji": of('{"images": ["', "iVBOR", '\U0001f600"]}'),
        "JSON of one image and an escaped emoji": of('{"images": ["', "iVBOR", '\\ud83d\\ude00"]}'),
        "JSON of empty lists": of('{"images": [', "[],", "[]]}"),
        "multipart, one file": {"files": [("image", ("a.png", b"\0" * _BODY))]},
        "multipart, 200 files": {"files": [("image", ("a.png", b"\0" * (_BODY // 200 - 200)))] * 200},
    }


def answers() -> dict[str, tuple[str, dict[str, Any]]]:
    """Requests for the largest answers, by name: the path and the body."""
    items = [{"latent": base64.b64encode(bytes([index, 255 - index, index])).decode()} for index in range(16)]
    small = _file(Image.effect_noise((SIDE, SIDE), 80).convert("RGB"), "JPEG")
    images = [base64.b64encode(small).decode()] * 256
    return {
        "sample, grid": ("sample", {"n": 120, "seed": 1, "format": "grid"}),
        "sample, zip": ("sample", {"n": 512, "seed": 1, "format": "zip"}),
        "generations, PNG": ("images/generations", {"prompt": "", "n": 512}),
        "generations, WebP": ("images/generations", {"prompt": "", "n": 512, "output_format": "webp"}),
        "interpolate, strip": ("interpolate", {"items": items, "steps": 9, "format": "strip"}),
        "interpolate, WebP": ("interpolate", {"items": items, "steps": 18, "format": "webp"}),
        "interpolate, zip": ("interpolate", {"items": items, "steps": 35, "format": "zip"}),
        "interpolate, stream": ("interpolate", {"items": items, "steps": 9, "format": "stream"}),
        "decode": ("decode", {"latents": [items[3]["latent"]] * 256}),
        "reconstruct": ("reconstruct", {"images": images}),
        "encode": ("encode", {"images": images}),
    }


async def send(server: Server, path: str, count: int, **request: Any) -> Counter[int]:
    """The statuses of ``count`` equal requests at once."""
    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits) as client:

        async def one() -> int:
            try:
                async with client.stream("POST", f"/v1/{path}", **request) as answer:
                    errors = [b'"error"' in piece async for piece in answer.aiter_raw()]
                    return answer.status_code if answer.status_code > 200 or not any(errors) else -200
            except httpx.TransportError:  # refused while the body was still being sent
                return 0

        return Counter(await asyncio.gather(*(one() for _ in range(count))))


async def leave_unread(server: Server, path: str, count: int, body: dict[str, Any]) -> Counter[int]:
    """Ask ``count`` times, one after another, and read none of the answers beyond the status."""
    seen, answered = Counter[int](), []
    async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
        for _ in range(count):
            request = client.build_request("POST", f"/v1/{path}", json=body)
            answered.append(await client.send(request, stream=True))
            seen[answered[-1].status_code] += 1
        for answer in answered:
            await answer.aclose()
    return seen


async def everything(server: Server) -> Counter[int]:
    """Every request of every kind at once."""
    asked = [send(server, "encode", 2, files=[("image", ("a", data))]) for data in uploads().values()]
    asked += [send(server, "encode", 2, **request) for request in bodies().values()]
    asked += [send(server, path, 2, json=body) for path, body in answers().values()]
    return sum(await asyncio.gather(*asked), Counter[int]())


def loads(server: Server) -> Iterator[tuple[str, Any]]:
    """Every load: its name, and a coroutine that sends it."""
    for name, data in uploads().items():
        yield name, send(server, "encode", _AT_ONCE, files=[("image", ("a", data))])
    for name, request in bodies().items():
        yield name, send(server, "encode", _AT_ONCE, **request)
    for name, (path, body) in answers().items():
        yield name, send(server, path, _AT_ONCE, json=body)
    path, body = answers()["sample, zip"]
    yield "unread answers", leave_unread(server, path, _AT_ONCE, body)
    yield "everything at once", everything(server)


def measured(only: str = "") -> Iterator[tuple[str, int, int, dict[int, int]]]:
    """Of each load, or of those whose names contain a word: its name, resident MB before it and at its peak,
    and how often each status was answered. -200 is an answer with errors, 0 a lost connection.
    """
    with running_server() as server:
        path, body = answers()["encode"]
        asyncio.run(send(server, path, 1, json=body))  # an idle replica keeps the memory of a batch
        for name, load in loads(server):
            if only not in name:
                load.close()
                continue
            server.forget_peak()
            before = server.resident_mb("VmRSS")
            statuses = dict(asyncio.run(load))
            yield name, before, server.resident_mb(), statuses


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    for name, before, peak, statuses in measured(*sys.argv[1:]):
        print(f"{name}: {before} to {peak} MB, {statuses}", flush=True)
