"""The page at ``/``: the files in ``static/``, with headers that forbid loading from elsewhere."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse

_FILES = Path(__file__).with_name("static")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'"
    " data: blob:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # revalidated on every load, so that the page matches the service's version
}


def add_page(app: FastAPI) -> None:
    """Add a route per file; ``index.html`` is at ``/``."""
    for file in sorted(_FILES.iterdir()):
        _add_file(app, file)


def _add_file(app: FastAPI, file: Path) -> None:
    @app.get("/" if file.name == "index.html" else f"/{file.name}", include_in_schema=False)
    async def send() -> FileResponse:
        return FileResponse(file, headers=_HEADERS)
