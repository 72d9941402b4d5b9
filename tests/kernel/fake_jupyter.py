"""A Jupyter server with the extension, in memory: what a kernel sees of it, and no more."""

import copy
import io
import json
import queue
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import PIL.Image

from jupyter_comfy_lock.domain.errors import (
    ComfyLockError,
    NoLock,
    UnknownComfy,
    UnknownHolder,
    UnknownTask,
)
from jupyter_comfy_lock.domain.proof import proof
from jupyter_comfy_lock.kernel.connection import Place

URL = "http://jupyter.test/base/"
API = "/base/comfy-lock/api/"
TOKEN = "the-token"
KERNEL_ID = "k-1"
KEY = b"session-key"
NOW = 1_000_000.0

DROP, END = object(), object()


def managed_place(**changes: Any) -> Place:
    known = {"url": URL, "found_by": "the test", "kernel_id": KERNEL_ID, "key": KEY}
    return Place(**{**known, **changes})


def attached_place(**changes: Any) -> Place:
    return Place(**{"url": URL, "found_by": "COMFY_LOCK_URL", "token": TOKEN, **changes})


def png(size: tuple[int, int], colour: str) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


class Feed(httpx.SyncByteStream):
    """The open half of one event stream."""

    def __init__(self) -> None:
        self._items: queue.Queue[Any] = queue.Queue()

    def put(self, event: str, data: dict[str, Any]) -> None:
        self._items.put(f"event: {event}\ndata: {json.dumps(data)}\n\n".encode())

    def raw(self, data: bytes) -> None:
        self._items.put(data)

    def drop(self) -> None:
        self._items.put(DROP)

    def __iter__(self) -> Iterator[bytes]:
        while True:
            item = self._items.get(timeout=60)
            if item is DROP:
                msg = "connection reset"
                raise httpx.ReadError(msg)
            if item is END:
                return
            yield item


class FakeJupyter:
    """Its REST API for one kernel at a time. `forget()` is a restart of the server."""

    def __init__(self) -> None:
        self.pool = ["gpu-1", "gpu-2"]
        self.holders: dict[str, dict[str, Any]] = {}
        self.hellos: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.tasks: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.lock: dict[str, Any] | None = None
        self.pin: str | None = None
        self.fence = 0
        self.feeds: list[Feed] = []
        self.streams_work = True
        self.down = False
        self.installed = True
        self.knows_kernel = True
        self.refuse: ComfyLockError | None = None
        self.dropped: dict[str, Any] = {}
        self.before_reply: Any = None
        #: So many prompts are taken without an answer.
        self.lose_replies = 0
        self.asked = threading.Condition()
        self.transport = httpx.MockTransport(self._handle)

    # -- what tests do to it --------------------------------------------------------------------

    def forget(self) -> None:
        self.holders, self.lock, self.tasks = {}, None, {}
        self.drop_streams()

    def drop_streams(self) -> None:
        feeds, self.feeds = self.feeds, []
        for feed in feeds:
            feed.drop()

    def push(self, event: str, data: dict[str, Any]) -> None:
        for feed in self.feeds:
            feed.put(event, data)

    def change(self, task_id: str, **fields: Any) -> None:
        """Change a task and tell."""
        self.tasks[task_id].update(fields)
        self.push("task", copy.deepcopy(self.tasks[task_id]))

    def take_lock_away(self, reason: str) -> None:
        self.lock = None
        self.push("lock", {"lock": None, "reason": reason})

    def count(self, call: str) -> int:
        return sum(each == call for each in self.calls)

    def wait_for_call(self, call: str, times: int = 1) -> None:
        with self.asked:
            assert self.asked.wait_for(lambda: self.count(call) >= times, timeout=20), self.calls

    # -- HTTP -----------------------------------------------------------------------------------

    def _handle(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            msg = "connection refused"
            raise httpx.ConnectError(msg)
        if not self.installed:
            return httpx.Response(404, text="<html>404</html>")
        path = request.url.path.removeprefix(API)
        call = f"{request.method} {path}"
        try:
            response = self._answer(request, path)
        except ComfyLockError as error:
            response = httpx.Response(error.http_status_hint, json=error.to_json())
        with self.asked:
            self.calls.append(call)
            self.asked.notify_all()
        if call == "POST tasks" and self.lose_replies:
            self.lose_replies -= 1
            msg = "the connection was reset"
            raise httpx.ReadError(msg)
        return response

    def _answer(self, request: httpx.Request, path: str) -> httpx.Response:
        if request.method == "POST" and path == "holders":
            return self._hello(request)
        authorization = request.headers.get("Authorization", "")
        holder = self.holders.get(authorization.removeprefix("ComfyKernel "))
        if holder is None:
            raise UnknownHolder
        body = json.loads(request.content) if request.content else {}
        verb = request.method
        match [verb, *path.split("/")]:
            case ["GET", "pool"]:
                return httpx.Response(200, json={"servers": [self._comfy(c) for c in self.pool]})
            case ["GET", "locks"]:
                return httpx.Response(200, json={"locks": [self.lock] if self.lock else []})
            case ["POST", "locks"]:
                return self._lock(body, holder)
            case ["DELETE", "locks", "mine"]:
                released, self.lock = self.lock, None
                return httpx.Response(200, json={"released": released})
            case ["POST", "tasks"]:
                return self._submit(body, holder)
            case ["GET", "tasks"]:
                return httpx.Response(200, json={"tasks": list(self.tasks.values())})
            case ["GET", "tasks", task_id]:
                return httpx.Response(200, json=self._task(task_id))
            case ["POST", "tasks", task_id, "cancel"]:
                return httpx.Response(202, json=self._task(task_id))
            case ["GET", "tasks", _, "files", _]:
                return httpx.Response(200, content=self.files["comfy-lock/api/" + path])
            case ["DELETE", "holders", "me"]:
                self.holders.clear()
                return httpx.Response(204)
            case ["GET", "events"]:
                return self._events(holder)
        return httpx.Response(404, text="no such path")

    def _hello(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        authorization = request.headers.get("Authorization")
        # As the server tells: a managed kernel proves itself, an attached one has the user's token.
        proves = request.headers.get("Authorization", "").startswith("ComfyKernelProof ")
        if proves:
            if not self.knows_kernel:
                raise UnknownHolder
            right = f"ComfyKernelProof {KERNEL_ID}:{proof(KEY, KERNEL_ID)}"
        else:
            right = f"token {TOKEN}"
        if authorization != right:
            return httpx.Response(403, json={"message": "Forbidden"})
        self.hellos.append(body)
        incarnation = len(self.hellos)
        credential = f"secret-{incarnation}"
        holder = {
            "holder_id": f"{body['kernel_id']}.{incarnation}",
            "kernel_id": body["kernel_id"],
            "incarnation": incarnation,
            "kind": "managed" if proves else "attached",
            "name": "a.ipynb" if proves else body["name"] or "",
        }
        self.holders = {credential: holder}
        return httpx.Response(
            201,
            json={
                "holder": holder,
                "credential": credential,
                "gateway_path": f"comfy-lock/gateway/{credential}/",
                "version": "0",
            },
        )

    def _events(self, holder: dict[str, Any]) -> httpx.Response:
        if not self.streams_work:
            return httpx.Response(503, json={"message": "no streams today"})
        feed = Feed()
        tasks = copy.deepcopy(list(self.tasks.values()))
        feed.put("snapshot", {"holder": holder, "lock": self.lock, "tasks": tasks})
        self.feeds.append(feed)
        return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, stream=feed)

    def _comfy(self, comfy_id: str) -> dict[str, Any]:
        mine = self.lock is not None and self.lock["comfy_id"] == comfy_id
        holder = {"holder_id": "k-1.1", "name": "a.ipynb", "mode": "shared", "since": NOW}
        return {
            "comfy_id": comfy_id,
            "url": f"http://{comfy_id}:8188",
            "labels": ["flux"],
            "capacity": 4,
            "health": "ok",
            "reason": None,
            "version": "0.33.0",
            "device": "cuda:0 <A100>",
            "memory_free": 8 * 2**30,
            "queue_remaining": 2,
            "holders": [holder] if mine else [],
            "mine": mine,
        }

    def _lock(self, body: dict[str, Any], holder: dict[str, Any]) -> httpx.Response:
        if self.refuse is not None:
            raise self.refuse
        asked = body["comfy_id"]
        if asked is not None and asked not in self.pool:
            raise UnknownComfy(asked, self.pool)
        comfy_id = asked or self.pin or self.pool[-1]
        chosen_by = "name" if asked else "pin" if self.pin else "best"
        had = self.lock is not None and self.lock["comfy_id"] == comfy_id
        if not had:
            self.fence += 1
            self.lock = {
                "comfy_id": comfy_id,
                "url": f"http://{comfy_id}:8188",
                "holder_id": holder["holder_id"],
                "name": holder["name"],
                "mode": body["mode"],
                "fence": self.fence,
                "epoch": 1,
                "granted_at": NOW,
            }
        self.push("lock", {"lock": self.lock, "reason": None})
        answer = {"lock": self.lock, "chosen_by": chosen_by}
        return httpx.Response(200 if had else 201, json=answer)

    def _submit(self, body: dict[str, Any], holder: dict[str, Any]) -> httpx.Response:
        if self.lock is None:
            raise NoLock(holder["holder_id"])
        if self.refuse is not None:
            raise self.refuse
        task_id = body["task_id"]
        if task_id in self.tasks:
            return httpx.Response(200, json=copy.deepcopy(self.tasks[task_id]))
        self.tasks[task_id] = {
            "task_id": task_id,
            "state": "queued",
            "reason": None,
            "comfy_id": self.lock["comfy_id"],
            "holder_id": holder["holder_id"],
            "name": holder["name"],
            "lock": dict(self.lock),
            "created_at": NOW + len(self.tasks),
            "started_at": None,
            "ended_at": None,
            "queue": {"ahead": 1, "ahead_mine": 0},
            "progress": None,
            "cached": False,
            "files": [],
            "outputs": {},
            "error": None,
            "dropped": self.dropped,
        }
        reply = copy.deepcopy(self.tasks[task_id])
        if self.before_reply is not None:
            self.before_reply(task_id)
        return httpx.Response(201, json=reply)

    def _task(self, task_id: str) -> dict[str, Any]:
        if task_id not in self.tasks:
            raise UnknownTask(task_id)
        return self.tasks[task_id]

    def add_file(self, task_id: str, name: str, content: bytes, media_type: str) -> None:
        files = self.tasks[task_id]["files"]
        path = f"comfy-lock/api/tasks/{task_id}/files/{len(files)}"
        self.files[path] = content
        files.append(
            {
                "node_id": "9",
                "kind": "images",
                "filename": name,
                "subfolder": "",
                "type": "output",
                "media_type": media_type,
                "path": path,
            }
        )
