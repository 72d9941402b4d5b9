"""What of a shared ComfyServer one holder may see and do (R4), as rules without I/O.

The gateway applies them to each call and frame of any ComfyUI client. "Mine" is the set of prompt
ids that belong to the holder.
"""

import json
import re
from collections.abc import Collection, Mapping
from enum import Enum, auto
from typing import Any

from jupyter_comfy_lock.domain.comfy import (
    PREVIEW_WITH_METADATA,
    GraphProgress,
    Preview,
    StepProgress,
    items,
    legacy_preview,
    loads,
    mapping,
    parse_binary,
    parse_text,
)
from jupyter_comfy_lock.domain.inputs import InputFile


class Route(Enum):
    """What the gateway does with a call."""

    PASS = auto()  #: harmless: handed on as it is
    SUBMIT = auto()
    QUEUE_LENGTH = auto()
    QUEUE = auto()
    QUEUE_EDIT = auto()
    HISTORY = auto()
    HISTORY_EDIT = auto()
    JOBS = auto()
    JOBS_CANCEL = auto()
    INTERRUPT = auto()
    VIEW = auto()
    UPLOAD = auto()
    STATS = auto()
    PAGE = auto()  #: the page of ComfyUI's own web interface
    DESK = auto()  #: what that page keeps for a person
    EXCLUSIVE = auto()  #: touches everybody on the ComfyServer: needs an exclusive lock
    NEVER = auto()  #: shows or changes what belongs to others


_ROUTES: Mapping[tuple[str, str], Route] = {
    ("POST", "prompt"): Route.SUBMIT,
    ("GET", "prompt"): Route.QUEUE_LENGTH,
    ("GET", "queue"): Route.QUEUE,
    ("POST", "queue"): Route.QUEUE_EDIT,
    ("GET", "history"): Route.HISTORY,
    ("POST", "history"): Route.HISTORY_EDIT,
    ("GET", "jobs"): Route.JOBS,
    ("POST", "jobs/cancel"): Route.JOBS_CANCEL,
    ("POST", "interrupt"): Route.INTERRUPT,
    ("GET", "view"): Route.VIEW,
    ("POST", "upload/image"): Route.UPLOAD,
    ("POST", "upload/mask"): Route.UPLOAD,
    ("GET", "system_stats"): Route.STATS,
}
_PATTERNS = (
    ("GET", re.compile(r"history/[^/]+"), Route.HISTORY),
    ("GET", re.compile(r"jobs/[^/]+"), Route.JOBS),
    ("POST", re.compile(r"jobs/[^/]+/cancel"), Route.JOBS_CANCEL),
)
#: Read-only parts of ComfyUI's own API. Custom nodes add GET routes that restart the server or
#: worse, so a GET is not harmless for being one.
_HARMLESS = re.compile(
    r"(object_info|embeddings|models|experiment/models|extensions|features|node_replacements|"
    r"global_subgraphs|workflow_templates|i18n|view_metadata)(/.*)?"
)
_DESK = re.compile(r"(settings|userdata|v2/userdata|users)(/.*)?")
#: The files of ComfyUI's own web interface, which are served from the root.
_PAGE = ("", "index.html")
_STATIC = re.compile(
    r"(assets|scripts|extensions|fonts|cursor|templates|docs)/.+"
    r"|[^/]+\.(js|css|json|ico|png|svg|woff2?|map|webmanifest|txt)"
)
#: ComfyUI puts each route below /api once more, also those that are written with it.
_NEVER = re.compile(r"(api/)?(internal|assets|tags)(/.*)?|api/api(/.*)?")


def route(method: str, path: str) -> Route:
    """Return what to do with a call; `path` is relative to the gateway's base, without query."""
    if any(part in (".", "..") for part in path.split("/")):
        # Somebody on the way would take "scripts/../queue" for "queue".
        return Route.NEVER
    method = "GET" if method == "HEAD" else method
    prefixed = path.startswith("api/")
    bare = path.removeprefix("api/")
    if prefixed or not _is_jobs(bare):
        found = _ROUTES.get((method, bare)) or next(
            (to for verb, pattern, to in _PATTERNS if verb == method and pattern.fullmatch(bare)),
            None,
        )
        if found is not None:
            return found
    if _DESK.fullmatch(bare):
        return Route.DESK
    if method == "GET" and path in _PAGE:
        return Route.PAGE
    if method == "GET" and not prefixed and _STATIC.fullmatch(bare):
        return Route.PASS
    if _NEVER.fullmatch(path):
        return Route.NEVER
    if method == "GET" and _HARMLESS.fullmatch(bare):
        return Route.PASS
    return Route.EXCLUSIVE


def _is_jobs(bare: str) -> bool:
    # ComfyUI has these below /api only.
    return bare == "jobs" or bare.startswith("jobs/")


def my_queue(queue: Mapping[str, Any], mine: Collection[str]) -> dict[str, Any]:
    """Return the answer to `GET /queue` with my prompts only."""
    return {
        key: [item for item in items(queue.get(key)) if _prompt_id(item) in mine]
        for key in ("queue_running", "queue_pending")
    }


def my_history(history: Mapping[str, Any], mine: Collection[str]) -> dict[str, Any]:
    """Return the answer to `GET /history` with my prompts only."""
    return {prompt_id: entry for prompt_id, entry in history.items() if prompt_id in mine}


def page(whole: list[Any], limit: int | None, offset: int) -> list[Any]:
    """Return part of a list as ComfyUI's paging does: all from `offset` on without a limit."""
    return whole[offset:] if limit is None else whole[offset : offset + limit]


def my_jobs(
    answer: Mapping[str, Any], mine: Collection[str], limit: int | None, offset: int
) -> dict[str, Any]:
    """Return the answer to an unpaged `GET /api/jobs` with my jobs only, paged."""
    jobs = [job for job in items(answer.get("jobs")) if _job_id(job) in mine]
    return {
        "jobs": page(jobs, limit, offset),
        "pagination": {
            "offset": offset,
            "limit": limit,
            "total": len(jobs),
            "has_more": limit is not None and offset + limit < len(jobs),
        },
    }


def input_file(filename: str, subfolder: str) -> InputFile | None:
    """Return the input of a ComfyServer that these name.

    None for names that ComfyUI, or the file system below it, takes for another file: it looks at
    "x.png [output]" in another folder, at "a/x.png" as "x.png", and "./" is no folder at all.
    """
    unclear = any(mark in filename + subfolder for mark in ("\\", ":", "\0"))
    if unclear or "/" in filename or filename.endswith((".", " ", "]")) or not filename:
        return None
    if subfolder and any(part in ("", ".", "..") for part in subfolder.split("/")):
        return None
    return InputFile(subfolder, filename)


def my_stats(stats: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer to `GET /system_stats` without the command line and its paths."""
    system = {key: value for key, value in mapping(stats.get("system")).items() if key != "argv"}
    return {**stats, "system": {**system, "argv": []}}


def my_frame(
    frame: str | bytes,
    mine: Collection[str],
    *,
    pending: int,
    alone: bool,
    metadata: bool,
) -> str | bytes | None:
    """Return `frame` as a local client may see it; None if it is not for it.

    Args:
        frame: as it came from the ComfyServer.
        mine: my prompt ids.
        pending: how many of my prompts wait or run.
        alone: what runs now is mine, or I have the ComfyServer to myself: then frames that do
            not say whose they are can only be mine.
        metadata: the client understands previews with metadata.
    """
    if isinstance(frame, bytes):
        return _my_binary(frame, mine, alone=alone, metadata=metadata)
    message = loads(frame)
    if not isinstance(message, dict):
        return None
    data = message.get("data")
    if message.get("type") == "status":
        return status_frame(pending)
    if message.get("type") == "feature_flags":
        # Answered to each local client by the gateway itself.
        return None
    prompt_id = data.get("prompt_id") if isinstance(data, dict) else None
    if prompt_id is None:
        return frame if alone else None
    return frame if isinstance(prompt_id, str) and prompt_id in mine else None


def newest_of(frame: str | bytes) -> tuple[str | None, ...] | None:
    """Return what a frame tells how far it is; None for a frame that counts by itself.

    Of those that tell it of the same thing, a client that is behind needs the newest alone.
    """
    if isinstance(frame, bytes):
        preview = parse_binary(frame)
        return ("preview", preview.prompt_id, preview.node) if preview else None
    match parse_text(frame):
        case StepProgress(prompt_id=prompt_id, node=node):
            return ("progress", prompt_id, node)
        case GraphProgress(prompt_id=prompt_id):
            return ("progress_state", prompt_id)
    return None


def status_frame(pending: int, sid: str | None = None) -> str:
    """Return ComfyUI's status message for `pending` prompts; `sid` in the first of a socket."""
    data: dict[str, Any] = {"status": {"exec_info": {"queue_remaining": pending}}}
    if sid is not None:
        data["sid"] = sid
    return json.dumps({"type": "status", "data": data})


def _my_binary(frame: bytes, mine: Collection[str], *, alone: bool, metadata: bool) -> bytes | None:
    preview = parse_binary(frame)
    if not isinstance(preview, Preview) or preview.prompt_id is None:
        return frame if alone else None
    if preview.prompt_id not in mine:
        return None
    is_new = int.from_bytes(frame[:4]) == PREVIEW_WITH_METADATA
    return frame if metadata or not is_new else legacy_preview(preview)


def _job_id(job: object) -> str | None:
    return str(job.get("id")) if isinstance(job, dict) else None


def _prompt_id(item: object) -> str | None:
    return str(item[1]) if isinstance(item, list) and len(item) > 1 else None
