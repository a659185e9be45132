"""Image tables at ``hf://``: Hugging Face's own client reads them from a local imitation of the Hub."""

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse

from lbae.errors import UserError
from lbae.io.sources.plan import plan
from lbae.io.sources.source import read_shard
from tests.conftest import SAMPLE

COMMIT = "0" * 40


def hub(root: Path) -> FastAPI:
    """The Hub's endpoints that list and read files of the data set ``some/digits``."""
    app = FastAPI()

    def entry(path: Path) -> dict[str, Any]:
        name = str(path.relative_to(root))
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": COMMIT}
        data = path.read_bytes()
        return {"type": "file", "path": name, "oid": hashlib.sha1(data).hexdigest(), "size": len(data)}

    @app.get("/api/datasets/some/digits")
    def repository() -> dict[str, Any]:
        return {"id": "some/digits", "sha": COMMIT}

    @app.get("/api/datasets/some/digits/tree/main")
    @app.get("/api/datasets/some/digits/tree/main/{folder:path}")
    def tree(folder: str = "", recursive: bool = False) -> list[dict[str, Any]]:
        if not (root / folder).is_dir():
            raise HTTPException(404, headers={"X-Error-Code": "EntryNotFound"})
        return [entry(path) for path in sorted((root / folder).glob("**/*" if recursive else "*"))]

    @app.get("/datasets/some/digits/resolve/main/{name:path}")
    def read(name: str) -> FileResponse:
        return FileResponse(root / name)

    return app


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The local folder behind ``hf://datasets/some/digits``."""
    server = uvicorn.Server(uvicorn.Config(hub(tmp_path), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": f"http://127.0.0.1:{port}"})
    yield tmp_path
    server.should_exit = True
    thread.join()


def test_a_table_on_the_hub_is_read_and_fingerprinted_by_its_content(files):
    digits = pq.read_table(SAMPLE).slice(0, 300)
    for name, part in (("a", digits.slice(0, 200)), ("b", digits.slice(200))):
        (files / "data").mkdir(exist_ok=True)
        pq.write_table(part, files / "data" / f"{name}.parquet")
    (files / "README.md").write_text("digits")
    source = plan("hf://datasets/some/digits")
    assert [shard.files for shard in source.shards] == [("data/a.parquet",), ("data/b.parquet",)]
    rows = [row for shard in source.shards for row in read_shard(shard).to_pylist()]
    assert [row["bytes"] for row in rows] == [image["bytes"] for image in digits["image"].to_pylist()]
    assert plan("hf://datasets/some/digits").fingerprint == source.fingerprint
    changed = bytearray((files / "data" / "a.parquet").read_bytes())
    changed[100] ^= 1  # the Hub gives sizes and digests, but no times
    (files / "data" / "a.parquet").write_bytes(changed)
    assert plan("hf://datasets/some/digits").fingerprint != source.fingerprint


def test_a_path_that_is_missing_on_the_hub_is_named(files):
    with pytest.raises(UserError, match="data hf://datasets/some/digits/none does not exist"):
        plan("hf://datasets/some/digits/none")
