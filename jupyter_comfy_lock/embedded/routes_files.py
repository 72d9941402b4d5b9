"""Routes about files: viewing and uploading pictures."""

from __future__ import annotations

import asyncio
import io
import json
import mimetypes
from pathlib import Path
from typing import Any

from aiohttp import web
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from jupyter_comfy_lock.embedded.app_keys import STATE
from jupyter_comfy_lock.embedded.files import Folders, OutsideFolderError, free_upload_name, inside

#: A browser would run what is inside these, so it must save them instead of showing them.
_ACTIVE_TYPES = frozenset(
    {
        "text/html",
        "text/html-sandboxed",
        "application/xhtml+xml",
        "text/javascript",
        "application/javascript",
        "application/x-javascript",
        "text/css",
        "image/svg+xml",
        "text/xml",
        "application/xml",
    }
)
_PREVIEW_QUALITY = 90


def routes() -> list[web.RouteDef]:
    """Return the routes that ComfyUI has both bare and below /api."""
    return [
        web.get("/view", view),
        web.post("/upload/image", upload_image),
        web.post("/upload/mask", upload_mask),
    ]


async def view(request: web.Request) -> web.StreamResponse:
    """Return a file as it is, or re-encoded when `preview` or `channel` is given."""
    query = request.query
    path = _wanted_file(request.app[STATE].folders, query.get("filename"), query)
    if isinstance(path, int):
        return web.Response(status=path)
    disposition = f'filename="{_quoted(path.name)}"'
    if "preview" in query or query.get("channel") in ("rgb", "a"):
        preview, channel = query.get("preview"), query.get("channel", "")
        body, kind = await asyncio.to_thread(_reencoded, path, preview, channel)
        headers = {"Content-Disposition": disposition}
        return web.Response(body=body, content_type=f"image/{kind}", headers=headers)
    content_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    if content_type in _ACTIVE_TYPES:
        content_type, disposition = "application/octet-stream", f"attachment; {disposition}"
    headers = {
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": disposition,
        "Content-Type": content_type,
    }
    return web.FileResponse(path, headers=headers)


def _wanted_file(folders: Folders, name: str | None, query: Any) -> Path | int:
    """Return the file, or the HTTP status that says why not."""
    if name is None:
        return 404
    name, folder = folders.annotated(name)
    folder = folder or folders.of_kind(query.get("type", "output"))
    if not name or name.startswith("/") or ".." in name or folder is None:
        return 400
    try:
        folder = inside(folder, query.get("subfolder", ""))
    except OutsideFolderError:
        return 403
    path = folder / Path(name).name
    return path if path.is_file() else 404


def _quoted(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"')


def _reencoded(path: Path, preview: str | None, channel: str) -> tuple[bytes, str]:
    with Image.open(path) as image:
        if preview is not None:
            return _preview(image, preview, channel)
        picture: Image.Image
        if channel == "rgb":
            picture = image.convert("RGB")
        else:
            alpha = image.getchannel("A") if image.mode == "RGBA" else None
            picture = Image.new("RGBA", image.size)
            picture.putalpha(alpha if alpha is not None else 255)
        return _saved(picture, "png"), "png"


def _preview(image: Image.Image, wish: str, channel: str) -> tuple[bytes, str]:
    """Encode as `wish` says, e.g. "webp;50" or "jpeg"."""
    first, *_, last = [*wish.split(";"), wish.split(";")[-1]]
    kind = first if first in ("webp", "jpeg") and "a" not in channel else "webp"
    quality = int(last) if last.isdigit() else _PREVIEW_QUALITY
    if kind == "jpeg" or channel == "rgb":
        image = image.convert("RGB")
    return _saved(image, kind, quality=quality), kind


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


async def upload_image(request: web.Request) -> web.Response:
    """Store a file; the answer tells the name it got, which may be another."""
    return await _upload(request, masked=False)


async def upload_mask(request: web.Request) -> web.Response:
    """Store a picture with the alpha channel of the one that is sent."""
    return await _upload(request, masked=True)


async def _upload(request: web.Request, *, masked: bool) -> web.Response:
    folders = request.app[STATE].folders
    form = await request.post()
    kind = str(form.get("type") or "input")
    folder = folders.of_kind(kind)
    if folder is None:
        msg = f"there is no folder of type {kind!r}"
        raise ValueError(msg)
    image = form.get("image")
    if not isinstance(image, web.FileField) or not image.filename:
        return web.Response(status=400)
    subfolder = str(form.get("subfolder", ""))
    content = image.file.read()
    if masked:
        original = _original(folders, json.loads(str(form.get("original_ref"))))
        if isinstance(original, int):
            return web.Response(status=original)
        content = await asyncio.to_thread(_with_alpha_of, original, content)
    overwrite = form.get("overwrite") in ("true", "1")
    try:
        name = await asyncio.to_thread(
            _store, folders, folder, str(Path(subfolder, image.filename)), content, overwrite
        )
    except OutsideFolderError:
        return web.Response(status=400)
    return web.json_response({"name": name, "subfolder": subfolder, "type": kind})


def _store(folders: Folders, folder: Path, wanted: str, content: bytes, overwrite: bool) -> str:
    path = inside(folder, wanted)
    path.parent.mkdir(parents=True, exist_ok=True)
    name, is_there = path.name, False
    if not overwrite:
        name, is_there = free_upload_name(path.parent, name, content)
    if not is_there:
        folders.write(path.parent / name, content)
    return name


def _original(folders: Folders, reference: dict[str, str]) -> Path | int:
    found = _wanted_file(folders, reference.get("filename", ""), reference)
    return 400 if found == 404 else found


def _with_alpha_of(path: Path, mask: bytes) -> bytes:
    info = PngInfo()
    with Image.open(path) as original, Image.open(io.BytesIO(mask)) as drawn:
        for key, value in getattr(original, "text", {}).items():
            info.add_text(key, value)
        picture = original.convert("RGBA")
        picture.putalpha(drawn.convert("RGBA").getchannel("A"))
    return _saved(picture, "png", pnginfo=info, compress_level=4)
