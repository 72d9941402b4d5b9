"""Routes about prompts: sending, watching, stopping them."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from json import JSONDecodeError
from typing import Any

from aiohttp import web

from jupyter_comfy_lock.embedded import jobs, prompts
from jupyter_comfy_lock.embedded.app_keys import STATE
from jupyter_comfy_lock.embedded.queue import Job, PromptQueue
from jupyter_comfy_lock.embedded.versions import ComfyVersion

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: Taken out of extra_data before anybody can read it.
_SECRETS = ("auth_token_comfy_org", "api_key_comfy_org")


def routes() -> list[web.RouteDef]:
    """Return the routes that ComfyUI has both bare and below /api."""
    jobs_since, cancels_since = (lambda v: v.has_jobs), (lambda v: v.cancels_jobs)
    return [
        web.get("/prompt", get_prompt),
        web.post("/prompt", post_prompt),
        web.get("/queue", get_queue),
        web.post("/queue", post_queue),
        web.get("/history", get_history),
        web.get("/history/{prompt_id}", get_history_entry),
        web.post("/history", post_history),
        web.post("/interrupt", post_interrupt),
        web.post("/free", post_free),
        web.get("/api/jobs", _since(jobs_since, get_jobs)),
        web.get("/api/jobs/{job_id}", _since(jobs_since, get_job)),
        web.post("/api/jobs/cancel", _since(cancels_since, cancel_jobs)),
        web.post("/api/jobs/{job_id}/cancel", _since(cancels_since, cancel_job)),
    ]


def _queue(request: web.Request) -> PromptQueue:
    return request.app[STATE].queue


async def get_prompt(request: web.Request) -> web.Response:
    """How many prompts wait or run."""
    remaining = _queue(request).remaining()
    return web.json_response({"exec_info": {"queue_remaining": remaining}})


async def post_prompt(request: web.Request) -> web.Response:
    """Check a prompt and queue it."""
    state = request.app[STATE]
    sent = await request.json()
    body: dict[str, Any] = sent if isinstance(sent, dict) else {}
    number = state.next_number(body)
    if "prompt" not in body:
        return _refused(prompts.NO_PROMPT)
    prompt_id = body.get("prompt_id") if state.version.takes_ids else None
    if prompt_id is None:
        prompt_id = str(uuid.uuid4())
    elif state.version.checks_ids and not prompts.is_prompt_id(prompt_id):
        return _refused(prompts.INVALID_PROMPT_ID)
    prompt = body["prompt"]
    targets = body.get("partial_execution_targets")
    verdict = prompts.check(prompt, state.nodes, state.folders, targets)
    extra_data = dict(body.get("extra_data", {}))
    if "client_id" in body:
        extra_data["client_id"] = body["client_id"]
    if verdict.error:
        return _refused(verdict.error, verdict.node_errors)
    for secret in _SECRETS:
        extra_data.pop(secret, None)
    extra_data["create_time"] = int(state.faults.wall_s() * 1000)
    state.queue.put(Job(number, prompt_id, prompt, extra_data, verdict.outputs))
    answer = {"prompt_id": prompt_id, "number": number, "node_errors": verdict.node_errors}
    return web.json_response(answer)


def _refused(error: prompts.Problem, node_errors: dict[str, Any] | None = None) -> web.Response:
    return web.json_response({"error": error, "node_errors": node_errors or {}}, status=400)


async def get_queue(request: web.Request) -> web.Response:
    """The running and the waiting prompts, the latter in heap order."""
    queue = _queue(request)
    return web.json_response(
        {
            "queue_running": [x.as_listed() for x in queue.running()],
            "queue_pending": [x.as_listed() for x in queue.waiting()],
        }
    )


async def post_queue(request: web.Request) -> web.Response:
    """Remove all or some waiting prompts; others' ids are passed over in silence."""
    queue = _queue(request)
    body = await request.json()
    if body.get("clear"):
        queue.clear()
    for prompt_id in body.get("delete", ()):
        queue.delete(prompt_id)
    return web.Response()


async def get_history(request: web.Request) -> web.Response:
    """Finished prompts, oldest first."""
    query = request.query
    max_items = int(query["max_items"]) if "max_items" in query else None
    found = _queue(request).history(max_items, int(query.get("offset", -1)))
    return web.json_response(found)


async def get_history_entry(request: web.Request) -> web.Response:
    """One finished prompt; `{}` if it is unknown or has not ended."""
    prompt_id = request.match_info["prompt_id"]
    entry = _queue(request).history_of(prompt_id)
    return web.json_response({prompt_id: entry} if entry else {})


async def post_history(request: web.Request) -> web.Response:
    """Forget all or some finished prompts."""
    queue = _queue(request)
    body = await request.json()
    if body.get("clear"):
        queue.forget_all()
    for prompt_id in body.get("delete", ()):
        queue.forget(prompt_id)
    return web.Response()


async def post_interrupt(request: web.Request) -> web.Response:
    """Stop the running prompt; only if it is `prompt_id`, when that is given.

    A body that is not JSON counts as none: whatever runs is stopped.
    """
    try:
        body = await request.json()
    except JSONDecodeError:
        body = {}
    named = body.get("prompt_id") if request.app[STATE].version.interrupts_one else None
    _queue(request).interrupt(named or None)
    return web.Response()


async def post_free(request: web.Request) -> web.Response:
    """Forget node results before the next prompt, if `free_memory` says so."""
    body = await request.json()
    if body.get("free_memory"):
        _queue(request).ask_to_free_memory()
    return web.Response()


def _since(has_it: Callable[[ComfyVersion], bool], handler: Handler) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        if has_it(request.app[STATE].version):
            return await handler(request)
        # Files are served at all other paths, which can only be read.
        reads = request.method == "GET"
        return web.Response(status=404 if reads else 405, content_type="application/octet-stream")

    return handle


async def get_jobs(request: web.Request) -> web.Response:
    """All prompts, filtered, sorted and paged."""
    queue = _queue(request)
    try:
        history = queue.history().values()
        found = jobs.listing(queue.running(), queue.waiting(), history, request.query)
    except jobs.BadQueryError as error:
        return web.json_response({"error": str(error)}, status=400)
    return web.json_response(found)


async def get_job(request: web.Request) -> web.Response:
    """One prompt, wherever it is."""
    queue = _queue(request)
    prompt_id = request.match_info["job_id"]
    if entry := queue.history_of(prompt_id):
        return web.json_response(jobs.finished_job(entry, whole=True))
    for status, listed in (("in_progress", queue.running()), ("pending", queue.waiting())):
        for job in listed:
            if job.prompt_id == prompt_id:
                return web.json_response(jobs.waiting_job(job, status))
    return web.json_response({"error": "Job not found"}, status=404)


async def cancel_job(request: web.Request) -> web.Response:
    """Cancel one prompt; one that has ended or is unknown is not an error."""
    cancelled = _cancel(_queue(request), request.match_info["job_id"])
    return web.json_response({"cancelled": cancelled})


async def cancel_jobs(request: web.Request) -> web.Response:
    """Cancel several prompts."""
    try:
        body = await request.json()
    except JSONDecodeError:
        return web.json_response({"error": "Request body must be valid JSON"}, status=400)
    job_ids = body.get("job_ids") if isinstance(body, dict) else None
    if not isinstance(job_ids, list):
        return web.json_response({"error": "job_ids must be a list"}, status=400)
    if invalid := [x for x in job_ids if not prompts.is_prompt_id(x)]:
        named = [x if isinstance(x, str) else repr(x) for x in invalid]
        answer = {"error": "job_ids contains invalid id(s)", "invalid_ids": named}
        return web.json_response(answer, status=400)
    hits = [_cancel(_queue(request), x) for x in job_ids]
    return web.json_response({"cancelled": any(hits)})


def _cancel(queue: PromptQueue, prompt_id: str) -> bool:
    return queue.interrupt(prompt_id) or queue.delete(prompt_id)
