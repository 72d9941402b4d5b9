"""Queue and history entries as `/api/jobs` shows them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jupyter_comfy_lock.embedded.queue import Job

STATUSES = ("pending", "in_progress", "completed", "failed", "cancelled")

_PREVIEWABLE = frozenset({"images", "video", "audio", "3d", "text"})
_MAX_TEXT_PREVIEW = 1024


class BadQueryError(ValueError):
    """A query parameter of `/api/jobs` makes no sense; the message is for the client."""


def waiting_job(job: Job, status: str) -> dict[str, Any]:
    """Describe a prompt that has not ended."""
    return _without_none(
        {
            "id": job.prompt_id,
            "status": status,
            "priority": job.number,
            "create_time": job.extra_data.get("create_time"),
            "outputs_count": 0,
            "previewable_outputs_count": 0,
            "workflow_id": _workflow_id(job.extra_data),
        }
    )


def finished_job(entry: Mapping[str, Any], *, whole: bool = False) -> dict[str, Any]:
    """Describe a history entry; `whole` adds outputs, events and the prompt itself."""
    number, prompt_id, prompt, extra_data, _ = entry["prompt"]
    outputs: Mapping[str, Any] = entry["outputs"]
    status = entry["status"]
    events = dict(status["messages"])
    end: Mapping[str, Any] = next(
        (data for event, data in status["messages"] if event in _ENDS), {}
    )
    files = [item for _, _, item in _items(outputs) if isinstance(item, dict)]
    job = _without_none(
        {
            "id": prompt_id,
            "status": _status(status["status_str"], events),
            "priority": number,
            "create_time": extra_data.get("create_time"),
            "execution_start_time": events.get("execution_start", {}).get("timestamp"),
            "execution_end_time": end.get("timestamp"),
            "execution_error": events.get("execution_error"),
            "outputs_count": len(files),
            "previewable_outputs_count": sum(
                kind in _PREVIEWABLE for _, kind, item in _items(outputs) if isinstance(item, dict)
            ),
            "preview_output": _preview(outputs),
            "workflow_id": _workflow_id(extra_data),
        }
    )
    if whole:
        job |= {
            "outputs": outputs,
            "execution_status": status,
            "workflow": {"prompt": prompt, "extra_data": extra_data},
        }
    return job


_ENDS = frozenset({"execution_success", "execution_error", "execution_interrupted"})


def listing(
    running: Iterable[Job],
    waiting: Iterable[Job],
    history: Iterable[Mapping[str, Any]],
    query: Mapping[str, str],
) -> dict[str, Any]:
    """Answer `GET /api/jobs`.

    Raises:
        BadQueryError: a parameter is not one of the allowed values.
    """
    statuses = _statuses(query.get("status", ""))
    sort_by = _one_of(query, "sort_by", ("created_at", "execution_duration"))
    order = _one_of(query, "sort_order", ("desc", "asc"))
    limit = _integer(query, "limit")
    if limit is not None and limit <= 0:
        msg = "limit must be a positive integer"
        raise BadQueryError(msg)
    offset = max(0, _integer(query, "offset") or 0)
    jobs = [
        *(waiting_job(x, "in_progress") for x in running),
        *(waiting_job(x, "pending") for x in waiting),
        *(finished_job(x) for x in history),
    ]
    workflow_id = query.get("workflow_id")
    found = [
        x
        for x in jobs
        if x["status"] in statuses and (not workflow_id or x.get("workflow_id") == workflow_id)
    ]
    key = _duration_ms if sort_by == "execution_duration" else _created_ms
    found.sort(key=key, reverse=order == "desc")
    page = found[offset:] if limit is None else found[offset : offset + limit]
    pagination = {
        "offset": offset,
        "limit": limit,
        "total": len(found),
        "has_more": offset + len(page) < len(found),
    }
    return {"jobs": page, "pagination": pagination}


def _statuses(text: str) -> tuple[str, ...]:
    asked = tuple(x.strip().lower() for x in text.split(",") if x.strip())
    if unknown := [x for x in asked if x not in STATUSES]:
        msg = f"Invalid status value(s): {', '.join(unknown)}. Valid values: {', '.join(STATUSES)}"
        raise BadQueryError(msg)
    return asked or STATUSES


def _one_of(query: Mapping[str, str], name: str, allowed: tuple[str, str]) -> str:
    value = query.get(name, allowed[0]).lower()
    if value not in allowed:
        first, second = sorted(allowed)
        msg = f"{name} must be '{first}' or '{second}'"
        raise BadQueryError(msg)
    return value


def _integer(query: Mapping[str, str], name: str) -> int | None:
    if name not in query:
        return None
    try:
        return int(query[name])
    except ValueError:
        msg = f"{name} must be an integer"
        raise BadQueryError(msg) from None


def _status(status_str: str, events: Mapping[str, Any]) -> str:
    if status_str != "error":
        return "completed"
    return "cancelled" if "execution_interrupted" in events else "failed"


def _created_ms(job: Mapping[str, Any]) -> int:
    return int(job.get("create_time", 0))


def _duration_ms(job: Mapping[str, Any]) -> int:
    start, end = job.get("execution_start_time", 0), job.get("execution_end_time", 0)
    return end - start if start and end else 0


def _workflow_id(extra_data: Mapping[str, Any]) -> Any:
    workflow = (extra_data.get("extra_pnginfo") or {}).get("workflow") or {}
    return workflow.get("id")


def _items(outputs: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    for node_id, by_kind in outputs.items():
        for kind, items in by_kind.items():
            if isinstance(items, list):
                yield from ((node_id, kind, item) for item in items if kind != "animated")


def _preview(outputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Choose what stands for the job: a saved picture, else a temporary one, else text."""
    temporary: dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    for node_id, kind, item in _items(outputs):
        about = {"nodeId": node_id, "mediaType": kind}
        if isinstance(item, dict) and kind in _PREVIEWABLE:
            if item.get("type") == "output":
                return {**item, **about}
            temporary = temporary or {**item, **about}
        elif kind == "text" and text is None:
            text = _text_preview(str(item)) | about
    return temporary or text


def _text_preview(text: str) -> dict[str, Any]:
    if len(text) <= _MAX_TEXT_PREVIEW:
        return {"content": text}
    return {"content": text[:_MAX_TEXT_PREVIEW], "truncated": True}


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if v is not None}
