"""A Jupyter server with the extension, in memory: what a kernel sees of it, and no more."""

import copy
import io
import json
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import PIL.Image

from jupyter_comfy_lock.domain.errors import (
    ComfyLockError,
    LockRefused,
    NoLock,
    NotYours,
    OtherLock,
    UnknownComfy,
    UnknownFile,
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

DROP, END, INTERRUPT = object(), object(), object()


def managed_place(**changes: Any) -> Place:
    known = {"url": URL, "found_by": "the test", "kernel_id": KERNEL_ID, "key": KEY}
    return Place(**{**known, **changes})


def attached_place(**changes: Any) -> Place:
    return Place(**{"url": URL, "found_by": "COMFY_LOCK_URL", "token": TOKEN, **changes})


def png(size: tuple[int, int], colour: str) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


class Stream(httpx.SyncByteStream):
    """The open half of an answer that goes on; what is put in comes out when it is read."""

    def __init__(self) -> None:
        self._items: queue.Queue[Any] = queue.Queue()
        #: Set when the reader has closed its end.
        self.closed = threading.Event()

    def raw(self, data: bytes) -> None:
        self._items.put(data)

    def drop(self) -> None:
        """Break the connection."""
        self._items.put(DROP)

    def end(self) -> None:
        """End the answer as if it were complete."""
        self._items.put(END)

    def interrupt(self) -> None:
        """Have the reader see a Ctrl-C."""
        self._items.put(INTERRUPT)

    def close(self) -> None:
        self.closed.set()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            item = self._items.get(timeout=60)
            if item is DROP:
                msg = "connection reset"
                raise httpx.ReadError(msg)
            if item is END:
                return
            if item is INTERRUPT:
                raise KeyboardInterrupt
            yield item


class Feed(Stream):
    """The open half of one event stream."""

    def put(self, event: str, data: dict[str, Any]) -> None:
        self.raw(f"event: {event}\ndata: {json.dumps(data)}\n\n".encode())


class Line(Stream):
    """The open half of one wait for a lock."""

    def __init__(self, body: dict[str, Any], holder: dict[str, Any]) -> None:
        super().__init__()
        self.body = body
        self.holder = holder

    def put(self, data: dict[str, Any]) -> None:
        self.raw(json.dumps(data).encode() + b"\n")


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
        self.port: int | None = None
        self.fence = 0
        #: ComfyServers that b.ipynb holds.
        self.taken: set[str] = set()
        #: Those who wait, in the order in which they came.
        self.lines: list[Line] = []
        #: What to do to a line when it has begun, instead of letting it wait.
        self.on_line: Callable[[Line], None] = lambda line: None
        #: Every wish for a lock, as it was sent.
        self.wishes: list[dict[str, Any]] = []
        #: The answer that each wish got.
        self.granted: dict[str, dict[str, Any]] = {}
        self.foreign_prompts = 0
        #: None: an older server, which knows no leases and does not tell what a lock was.
        self.lease: dict[str, float] | None = {"ttl_s": 60.0, "renew_every_s": 20.0}
        #: More about each ComfyServer.
        self.facts: dict[str, dict[str, Any]] = {}
        self.feeds: list[Feed] = []
        self.streams_work = True
        self.down = False
        self.installed = True
        self.knows_kernel = True
        self.refuse: ComfyLockError | None = None
        self.dropped: dict[str, Any] = {}
        self.object_info: dict[str, Any] = {}
        #: What was submitted.
        self.prompts: list[dict[str, Any]] = []
        #: The bodies of uploads.
        self.uploads: list[bytes] = []
        self.before_reply: Any = None
        #: So many prompts are taken without an answer.
        self.lose_replies = 0
        #: What it says to `debug`, `check`, `cleanup` and `selftest`.
        self.debug: dict[str, Any] = {}
        self.check: dict[str, Any] = {}
        self.cleanup: dict[str, Any] = {}
        self.selftest: list[dict[str, Any]] = []
        #: What was asked to be cleaned up, and by whom.
        self.cleanups: list[tuple[str, dict[str, Any]]] = []
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

    def grant(self, line: Line, *, silently: bool = False) -> None:
        """Let who waits there have its turn; silently: without the answer."""
        self.taken.clear()
        self.lines.remove(line)
        answer = self._grant(line.body, line.holder)[0]
        if not silently:
            line.put(answer)

    def tell_waiting(self, line: Line, *, place: int = 1, why: str | None = None) -> None:
        line.put(self._standing(line, place=place, why=why))

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
        if "/gateway/" in request.url.path:
            return self._gateway(request)
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
        if path == "cleanup":
            return self._clean(request, authorization)
        holder = self.holders.get(authorization.removeprefix("ComfyKernel "))
        if holder is None:
            raise UnknownHolder
        body = json.loads(request.content) if request.content else {}
        verb = request.method
        match [verb, *path.split("/")]:
            case ["GET", "pool"]:
                return httpx.Response(200, json={"servers": [self._comfy(c) for c in self.pool]})
            case ["GET", "locks"]:
                waiting = [self._standing(line)["waiting"] for line in self.lines]
                locks = [self.lock] if self.lock else []
                return httpx.Response(200, json={"locks": locks, "waiting": waiting})
            case ["POST", "locks"]:
                return self._lock(body, holder)
            case ["DELETE", "locks", "mine"]:
                released, self.lock = self.lock, None
                return httpx.Response(200, json={"released": released})
            case ["DELETE", "locks", "requests", request_id]:
                return self._take_back(request_id)
            case ["PUT", "holders", "me", "lease"]:
                return httpx.Response(204)
            case ["PUT", "holders", "me", "pin"]:
                self._known(body["comfy_id"])
                self.pin = body["comfy_id"]
                return httpx.Response(200, json={"pin": self.pin})
            case ["PUT", "holders", "me", "port"]:
                self.port = body["port"] or 40123
                return httpx.Response(200, json={"port": self.port})
            case ["DELETE", "holders", "me", "port"]:
                self.port = None
                return httpx.Response(204)
            case ["POST", "tasks"]:
                return self._submit(body, holder)
            case ["GET", "tasks"]:
                return httpx.Response(200, json={"tasks": list(self.tasks.values())})
            case ["GET", "tasks", task_id]:
                return httpx.Response(200, json=self._task(task_id))
            case ["POST", "tasks", task_id, "cancel"]:
                return httpx.Response(202, json=self._task(task_id))
            case ["GET", "tasks", _, "preview"] if "comfy-lock/api/" + path not in self.files:
                msg = "Task has shown no preview."
                raise UnknownFile(msg)
            case ["GET", "tasks", _, "files", _] | ["GET", "tasks", _, "preview"]:
                return httpx.Response(200, content=self.files["comfy-lock/api/" + path])
            case ["GET", "holders", "me", "debug"]:
                return httpx.Response(200, json=self.debug)
            case ["GET", "check"]:
                return httpx.Response(200, json=self.check)
            case ["POST", "selftest"]:
                lines = [json.dumps({"trial": each}) for each in self.selftest]
                return httpx.Response(200, text="".join(f"{line}\n" for line in lines))
            case ["DELETE", "holders", "me"]:
                self.holders.clear()
                return httpx.Response(204)
            case ["GET", "events"]:
                return self._events(holder)
        return httpx.Response(404, text="no such path")

    def _clean(self, request: httpx.Request, authorization: str) -> httpx.Response:
        body = json.loads(request.content)
        as_user = authorization == f"token {TOKEN}"
        if authorization.removeprefix("ComfyKernel ") not in self.holders and not as_user:
            raise UnknownHolder
        self.cleanups.append(("the user" if as_user else "the kernel", body))
        if body["kernel"] is not None and not as_user:
            msg = "Only the Jupyter user can clean up after another kernel."
            raise NotYours(msg)
        return httpx.Response(200, json={**self.cleanup, "dry_run": body["dry_run"]})

    def _gateway(self, request: httpx.Request) -> httpx.Response:
        """What the locked ComfyServer answers."""
        path = request.url.path.rpartition("/gateway/")[2].partition("/")[2]
        self.calls.append(f"{request.method} gateway {path}")
        if self.lock is None:
            error = NoLock("a.ipynb")
            return httpx.Response(error.http_status_hint, json=error.to_json())
        match [request.method, path]:
            case ["GET", "object_info"]:
                return httpx.Response(200, json=self.object_info)
            case ["GET", "view"] if request.url.params["filename"] in self.files:
                return httpx.Response(200, content=self.files[request.url.params["filename"]])
            case ["POST", "upload/image"]:
                self.uploads.append(request.content)
                return httpx.Response(200, json={"name": "there.png", "subfolder": "mine"})
        return httpx.Response(404)

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
        answer = {
            "holder": holder,
            "credential": credential,
            "gateway_path": f"comfy-lock/gateway/key-{incarnation}/",
            "version": "0",
        }
        return httpx.Response(201, json=answer | ({"lease": self.lease} if self.lease else {}))

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
            **self.facts.get(comfy_id, {}),
        }

    def _standing(
        self, line: Line, *, place: int = 1, why: str | None = None
    ) -> dict[str, dict[str, Any]]:
        comfy_id = line.body["comfy_id"]
        return {
            "waiting": {
                "request_id": line.body["request_id"],
                "holder_id": line.holder["holder_id"],
                "name": line.holder["name"],
                "mode": line.body["mode"] or "shared",
                "comfy_ids": [comfy_id] if comfy_id else self.pool,
                "since": NOW,
                "place": place,
                "holders": [],
                "why": why or f"held by b.ipynb since 14:02, you are number {place}",
            }
        }

    def _known(self, comfy_id: str | None) -> None:
        if comfy_id is not None and comfy_id not in self.pool:
            raise UnknownComfy(comfy_id, self.pool)

    def _lock(self, body: dict[str, Any], holder: dict[str, Any]) -> httpx.Response:
        if self.refuse is not None:
            raise self.refuse
        self._known(body["comfy_id"])
        self.wishes.append(body)
        wanted = {body["comfy_id"]} if body["comfy_id"] else set(self.pool)
        if body["request_id"] in self.granted:
            return httpx.Response(200, json=self.granted[body["request_id"]])
        if wanted <= self.taken:
            if body["wait"] == 0:
                raise LockRefused(body["comfy_id"], "b.ipynb holds it", [])
            line = Line(body, holder)
            self.lines.append(line)
            self.on_line(line)
            headers = {"Content-Type": "application/x-ndjson"}
            return httpx.Response(202, headers=headers, stream=line)
        answer, new = self._grant(body, holder)
        return httpx.Response(201 if new else 200, json=answer)

    def _grant(self, body: dict[str, Any], holder: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        asked = body["comfy_id"]
        comfy_id = asked or self.pin or self.pool[-1]
        chosen_by = "name" if asked else "pin" if self.pin else "best"
        was = self.lock["mode"] if self.lock and self.lock["comfy_id"] == comfy_id else None
        mode = body["mode"] or was or "shared"
        if was != mode:
            self.fence += 1
            self.lock = {
                "comfy_id": comfy_id,
                "url": f"http://{comfy_id}:8188",
                "holder_id": holder["holder_id"],
                "name": holder["name"],
                "mode": mode,
                "fence": self.fence,
                "epoch": 1,
                "granted_at": NOW,
                "state": "held",
                "foreign_prompts": self.foreign_prompts,
            }
        self.push("lock", {"lock": self.lock, "reason": None})
        answer = {"lock": self.lock, "chosen_by": chosen_by}
        answer |= {"was": was} if self.lease else {}
        self.granted[body["request_id"]] = answer
        return answer, was is None

    def _take_back(self, request_id: str) -> httpx.Response:
        self.lines = [each for each in self.lines if each.body["request_id"] != request_id]
        granted = self.granted.pop(request_id, None)
        if granted is None or granted["lock"] is not self.lock:
            return httpx.Response(200, json={"released": None})
        released, self.lock = self.lock, None
        self.push("lock", {"lock": None, "reason": None})
        return httpx.Response(200, json={"released": released})

    def _submit(self, body: dict[str, Any], holder: dict[str, Any]) -> httpx.Response:
        if self.lock is None:
            raise NoLock(holder["holder_id"])
        if self.refuse is not None:
            raise self.refuse
        wanted = body.get("comfy_id")
        if wanted is not None and wanted != self.lock["comfy_id"]:
            raise OtherLock(holder["name"], wanted=wanted, locked=self.lock["comfy_id"])
        task_id = body["task_id"]
        self.prompts.append(body["prompt"])
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
