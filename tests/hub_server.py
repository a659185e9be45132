"""A server on the loopback that speaks the Hugging Face Hub's HTTP, as huggingface_hub calls it.

It keeps repositories with commits, private and gated ones, two tokens, and large files by LFS. Xet is off.
"""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import fsspec
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from huggingface_hub import HfFileSystem, constants

WRITER, READER = "hf_writes_everything", "hf_reads_everything"
_LARGE = 2**10  # bytes from which a file goes by LFS

Files = dict[str, bytes]


@dataclass
class Repository:
    """A repository: every commit by its name, newest last, and the names of other revisions."""

    private: bool = False
    gated: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Files) -> str:
        """Add a commit with these files."""
        name = hashlib.sha1(f"{len(self.commits)}{sorted(files)}{time.time_ns()}".encode()).hexdigest()
        self.commits[name] = files
        return name

    def find(self, revision: str) -> str | None:
        """The commit that a revision names."""
        if revision == "main":
            return list(self.commits)[-1]
        return self.tags.get(revision, revision if revision in self.commits else None)

    @property
    def files(self) -> Files:
        """The files of the newest commit."""
        return self.commits[list(self.commits)[-1]]


class Refusal(Exception):
    """An answer with a status of 4xx or 5xx, and the Hub's code for it."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(status)
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self.answer = JSONResponse(
            {"error": message or code}, status, {name: text for name, text in headers.items() if text}
        )


@dataclass
class Hub:
    """The repositories by type and name, the requests so far, and the status of all answers if it is set."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    status: int = 0

    def may(self, request: Request, repository: Repository | None, write: bool = False) -> None:
        """Raise the Hub's refusal unless the request's token allows it."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in (WRITER, READER):
            raise Refusal(401, message="Invalid credentials in Authorization header")
        if write and token != WRITER:
            raise Refusal(403 if token else 401, message="You don't have the rights to do this")
        if repository is None or (repository.private and not token):
            raise Refusal(404 if token else 401, "RepoNotFound", "Repository not found")

    def open(self, request: Request, kind: str, name: str, write: bool = False) -> Repository:
        """The repository ``kind``/``name``, if the request may use it."""
        repository = self.repositories.get(f"{kind}/{name}")
        self.may(request, repository, write)
        return repository

    def blob(self, data: bytes) -> dict[str, Any]:
        """Size and digest of a file as the Hub lists it."""
        oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        large = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return {"oid": oid, "size": len(data)} | ({"lfs": large} if len(data) >= _LARGE else {})


def application(hub: Hub) -> FastAPI:
    """The endpoints."""
    app = FastAPI()
    app.add_exception_handler(Refusal, lambda _, refusal: refusal.answer)

    @app.middleware("http")
    async def note(request: Request, call_next: Any) -> Response:
        hub.requests.append(f"{request.method} {request.url.path}")
        return JSONResponse({"error": "broken"}, hub.status) if hub.status else await call_next(request)

    def found(repository: Repository, revision: str) -> str:
        commit = repository.find(revision)
        if commit is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    @app.get("/api/{kind}/{user}/{name}")
    @app.get("/api/{kind}/{user}/{name}/revision/{revision}")
    def info(request: Request, kind: str, user: str, name: str, revision: str = "main") -> dict[str, Any]:
        repository = hub.open(request, kind, f"{user}/{name}")
        commit = found(repository, revision)
        names = [{"rfilename": path} for path in repository.commits[commit]]
        return {"id": f"{user}/{name}", "sha": commit, "private": repository.private, "siblings": names}

    @app.get("/api/{kind}/{user}/{name}/tree/{revision}")
    @app.get("/api/{kind}/{user}/{name}/tree/{revision}/{folder:path}")
    def tree(
        request: Request,
        kind: str,
        user: str,
        name: str,
        revision: str,
        folder: str = "",
        recursive: bool = False,
    ) -> list[dict[str, Any]]:
        repository = hub.open(request, kind, f"{user}/{name}")
        files = repository.commits[found(repository, revision)]
        start = f"{folder}/" if folder else ""
        below = {path: data for path, data in files.items() if path.startswith(start)}
        if not below:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist")
        entries = {}
        for path, data in below.items():
            parts = path.removeprefix(start).split("/")
            folders = [start + "/".join(parts[:depth]) for depth in range(1, len(parts))]
            for one in folders if recursive else folders[:1]:
                entries[one] = {"type": "directory", "path": one, "oid": "0" * 40}
            if recursive or not folders:
                entries[path] = {"type": "file", "path": path, **hub.blob(data)}
        return list(entries.values())

    @app.post("/api/repos/create")
    async def create(request: Request) -> Response:
        asked = await request.json()
        name = f"{asked.get('type', 'model')}s/{asked['organization']}/{asked['name']}"
        hub.may(request, Repository(), write=True)
        url = {"url": f"{hub.url}/{name.removeprefix('models/')}"}
        if name in hub.repositories:
            return JSONResponse({"error": "You already created this repo", **url}, 409)
        hub.repositories[name] = Repository(private=asked.get("visibility") == "private")
        hub.repositories[name].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        return JSONResponse(url)

    @app.post("/api/validate-yaml")
    async def validate(request: Request) -> Response:
        asked = await request.json()
        if "license: not-a-license" in asked["content"]:
            return JSONResponse({"errors": [{"message": '"license" must be one of [apache-2.0, ...]'}]}, 400)
        return JSONResponse({"errors": [], "warnings": []})

    @app.post("/api/{kind}/{user}/{name}/preupload/{revision}")
    async def preupload(request: Request, kind: str, user: str, name: str) -> dict[str, Any]:
        repository = hub.open(request, kind, f"{user}/{name}", write=True)
        asked = await request.json()
        modes = []
        for file in asked["files"]:
            mode = {"path": file["path"], "shouldIgnore": False, "uploadMode": "regular"}
            mode["uploadMode"] = "lfs" if file["size"] >= _LARGE else "regular"
            if (old := repository.files.get(file["path"])) is not None:
                blob = hub.blob(old)
                mode["oid"] = blob.get("lfs", blob)["oid"]
            modes.append(mode)
        return {"files": modes}

    @app.post("/{repository:path}.git/info/lfs/objects/batch")
    async def batch(request: Request, repository: str) -> dict[str, Any]:
        asked = await request.json()
        objects = []
        for one in asked["objects"]:
            upload = {"upload": {"href": f"{hub.url}/objects/{one['oid']}", "header": {}}}
            objects.append(one | ({} if one["oid"] in hub.objects else {"actions": upload}))
        return {"transfer": "basic", "objects": objects}

    @app.put("/objects/{oid}")
    async def put(request: Request, oid: str) -> Response:
        hub.objects[oid] = await request.body()
        return Response()

    @app.post("/api/{kind}/{user}/{name}/commit/{revision}")
    async def commit(request: Request, kind: str, user: str, name: str) -> Any:
        repository = hub.open(request, kind, f"{user}/{name}", write=True)
        files = dict(repository.files)
        for line in (await request.body()).splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header" and value.get("parentCommit", repository.find("main")) != (
                repository.find("main")
            ):
                raise Refusal(412, message="A commit has happened since. Please refresh and try again.")
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = hub.objects[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        oid = repository.commit(files)
        return {"success": True, "commitOid": oid, "commitUrl": f"{hub.url}/{user}/{name}/commit/{oid}"}

    def resolve(request: Request, kind: str, name: str, revision: str, path: str) -> Response:
        repository = hub.open(request, kind, name)
        token = request.headers.get("authorization")
        if repository.gated and token != f"Bearer {WRITER}":
            raise Refusal(403 if token else 401, "GatedRepo", "Access to this model is restricted.")
        commit = found(repository, revision)
        if path not in repository.commits[commit]:
            raise Refusal(404, "EntryNotFound", f"{path} does not exist")
        data = repository.commits[commit][path]
        first, _, last = request.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1 if last else None]
        blob = hub.blob(data)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{blob.get("lfs", blob)["oid"]}"'}
        headers |= {"X-Linked-Size": str(len(data)), "Accept-Ranges": "bytes"}
        if len(part) < len(data):
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
        return Response(part, 206 if len(part) < len(data) else 200, headers)

    @app.api_route("/datasets/{user}/{name}/resolve/{revision}/{path:path}", methods=["HEAD", "GET"])
    def dataset_file(request: Request, user: str, name: str, revision: str, path: str) -> Response:
        return resolve(request, "datasets", f"{user}/{name}", revision, path)

    @app.api_route("/{user}/{name}/resolve/{revision}/{path:path}", methods=["HEAD", "GET"])
    def model_file(request: Request, user: str, name: str, revision: str, path: str) -> Response:
        return resolve(request, "models", f"{user}/{name}", revision, path)

    return app


@contextmanager
def running_hub(patch: pytest.MonkeyPatch, cache: str) -> Iterator[Hub]:
    """Run the server, as the Hub of this process and of the jobs that it starts, with an empty cache."""
    hub = Hub()
    server = uvicorn.Server(uvicorn.Config(application(hub), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    hub.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    # huggingface_hub has read its environment already.
    patch.setattr(constants, "ENDPOINT", hub.url)
    patch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    patch.setattr(constants, "HF_HUB_CACHE", cache)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "HF_TOKEN_PATH", f"{cache}/token")
    patch.setitem(fsspec.config.conf, "hf", {"endpoint": hub.url})
    for name, value in {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": cache, "HF_HUB_DISABLE_XET": "1"}.items():
        patch.setenv(name, value)
    patch.delenv("HF_TOKEN", raising=False)
    HfFileSystem.clear_instance_cache()
    yield hub
    server.should_exit = True
    thread.join()
    HfFileSystem.clear_instance_cache()
