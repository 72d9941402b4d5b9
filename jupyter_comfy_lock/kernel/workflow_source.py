"""Where a workflow comes from: a mapping, text, a file, a picture that carries it, a URL."""

import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jupyter_comfy_lock.domain.errors import InvalidWorkflow

if TYPE_CHECKING:
    from PIL.Image import Image

Source = Mapping[str, Any] | str | os.PathLike[str]

#: How PNG, WebP and other RIFF files begin.
_PNG = b"\x89PNG\r\n\x1a\n"
_RIFF = b"RIFF"
#: EXIF's Make and Model, into which ComfyUI writes "workflow:{…}" and "prompt:{…}". It writes any
#: further ones into the tags below Make.
_EXIF_TAGS = (0x0110, *range(0x010F, 0x0100, -1))


def read_source(source: object, fetch: Callable[[str], bytes]) -> Mapping[str, Any]:
    """Return what `source` holds: a prompt, or a workflow in the format of ComfyUI's editor.

    `fetch` returns what is at a URL, or refuses to.

    Raises:
        InvalidWorkflow: it cannot be read, or holds no workflow; the message says why.
    """
    if isinstance(source, Mapping):
        return source
    if isinstance(source, str) and source.lstrip().startswith(("{", "[")):
        return _object(_parsed(source, "The workflow"), "The workflow")
    if isinstance(source, str) and source.lower().startswith(("http://", "https://")):
        return _from_bytes(fetch(source), f"The file at {_without_key(source)}")
    if not isinstance(source, str | os.PathLike):
        msg = (
            "A workflow is a mapping, JSON, the path of a .json, .png or .webp file, or the URL "
            f"of a picture on the ComfyServer; got {type(source).__name__}."
        )
        raise InvalidWorkflow(msg)
    path = Path(source).expanduser()
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        msg = f"Cannot read the workflow {str(path)!r} (from {Path.cwd()}): {why}."
        raise InvalidWorkflow(msg, path=str(path)) from error
    return _from_bytes(content, f"The workflow {str(path)!r}")


def view_query(url: str, *, bases: Iterable[str]) -> str | None:
    """Return the query of a `/view` URL under one of `bases`; None for any other URL."""
    parts = urlsplit(url)
    for base in bases:
        home = urlsplit(base.rstrip("/") + "/")
        if (parts.scheme, parts.netloc) != (home.scheme, home.netloc):
            continue
        if parts.path in (f"{home.path}view", f"{home.path}api/view"):
            return parts.query
    return None


def _from_bytes(content: bytes, what: str) -> Mapping[str, Any]:
    if content.startswith(_PNG) or content.startswith(_RIFF):
        return _from_picture(content, what)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"{what} is neither JSON nor a PNG or WebP picture: it is not a text file."
        raise InvalidWorkflow(msg) from error
    return _object(_parsed(text, what), what)


def _from_picture(content: bytes, what: str) -> Mapping[str, Any]:
    import PIL.Image  # noqa: PLC0415 - costs a tenth of a second, and most workflows are JSON

    try:
        with PIL.Image.open(io.BytesIO(content)) as picture:
            carried = _carried(picture)
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        msg = f"{what} is no picture that can be read: {error}."
        raise InvalidWorkflow(msg) from error
    # The prompt is what ran; the editor's workflow needs a ComfyServer to become one.
    for key in ("prompt", "workflow"):
        if key in carried:
            return _object(_parsed(carried[key], f"The {key} in {_lower(what)}"), what)
    msg = (
        f"{what} carries no workflow. ComfyUI writes it into the pictures it saves, unless it "
        "runs with --disable-metadata; other programs drop it when they save a picture again."
    )
    raise InvalidWorkflow(msg)


def _carried(picture: "Image") -> dict[str, str]:
    """Return the texts that ComfyUI has written into a picture."""
    if picture.format == "PNG":
        picture.load()  # texts may stand behind the pixels
        return {str(key): str(value) for key, value in picture.info.items()}
    exif = picture.getexif()
    found: dict[str, str] = {}
    for tag in _EXIF_TAGS:
        text = exif.get(tag)
        if isinstance(text, bytes):
            text = text.decode("utf-8", errors="replace")
        if isinstance(text, str) and ":" in text:
            key, _, value = text.partition(":")
            found.setdefault(key.strip().lower(), value.rstrip("\0"))
    return found


def _parsed(text: str, what: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        msg = f"{what} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}."
        raise InvalidWorkflow(msg) from error
    except RecursionError as error:
        msg = f"{what} is nested too deep."
        raise InvalidWorkflow(msg) from error


def _object(found: object, what: str) -> Mapping[str, Any]:
    if not isinstance(found, dict):
        msg = f"{what} is a JSON {type(found).__name__}, and no object with nodes."
        raise InvalidWorkflow(msg)
    # ComfyUI's own API takes it wrapped, and so it is in many files.
    prompt = found.get("prompt")
    if isinstance(prompt, dict) and "nodes" not in found and "class_type" not in prompt:
        return prompt
    return found


def _lower(what: str) -> str:
    return what[:1].lower() + what[1:]


def _without_key(url: str) -> str:
    """Return a URL for a message: the gateway's path has a key in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}/…?{parts.query}"
