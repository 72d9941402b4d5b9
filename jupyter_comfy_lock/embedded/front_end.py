"""ComfyUI's own web interface: the static files of its package, served as ComfyUI does."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from aiohttp import web

#: The package on PyPI that has it, and where in the package it is.
_PACKAGE, _FOLDER = "comfyui_frontend_package", "static"


def installed_front_end() -> Path | None:
    """Return where the web interface's files are; None if its package is not installed."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / _FOLDER
    return folder if (folder / "index.html").is_file() else None


class FrontEnd:
    """A folder with an `index.html`, and what the page asks for beside it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def extensions(self) -> list[str]:
        """Return the paths of all scripts that the page has to load, as it asks for them."""
        scripts = self._folder.glob("extensions/**/*.js")
        return sorted(f"/{path.relative_to(self._folder).as_posix()}" for path in scripts)

    async def page(self, request: web.Request) -> web.StreamResponse:
        """Return the page."""
        headers = {"Cache-Control": "no-cache"}
        return web.FileResponse(self._folder / "index.html", headers=headers)

    async def file(self, request: web.Request) -> web.StreamResponse:
        """Return one of its files; 404 for any other path."""
        path = (self._folder / request.match_info["path"]).resolve()
        if not path.is_relative_to(self._folder.resolve()) or not path.is_file():
            return web.Response(status=404, content_type="application/octet-stream")
        headers = {"Cache-Control": "no-cache"} if path.suffix in (".js", ".css") else {}
        return web.FileResponse(path, headers=headers)
