"""The REST API under `comfy-lock/api/`: JSON in, one service call, JSON out."""

import json
import re
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from jupyter_server.auth.decorator import allow_unauthenticated
from tornado.iostream import StreamClosedError

from jupyter_comfy_lock import __version__
from jupyter_comfy_lock.domain.errors import (
    BadRequest,
    NotYours,
    UnknownFile,
    WrongCredential,
)
from jupyter_comfy_lock.domain.lock import ComfyId, HolderId
from jupyter_comfy_lock.domain.pool import Access, Maintenance, comfy_to_json
from jupyter_comfy_lock.domain.task import TaskId, output_files, prompt_id
from jupyter_comfy_lock.server.caller import PROOF, ComfyLockHandler
from jupyter_comfy_lock.server.fields import note, text, text_or_none
from jupyter_comfy_lock.server.inspect_handlers import INSPECT_HANDLERS
from jupyter_comfy_lock.server.lock_handlers import LOCK_HANDLERS
from jupyter_comfy_lock.server.openapi import DESCRIPTION_HANDLERS
from jupyter_comfy_lock.server.relay import (
    copy_answer,
    harmless,
    notice_dead_reader,
    send_at_once,
)
from jupyter_comfy_lock.server.upstream import look_if_old

#: Tasks in a list or snapshot.
_NEWEST = 200
#: What a ComfyServer answers that has a file, depending on what was asked for.
_OF_A_FILE = (
    HTTPStatus.OK,
    HTTPStatus.PARTIAL_CONTENT,
    HTTPStatus.NOT_MODIFIED,
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
)
_FILE_NUMBER = re.compile(r"[0-9]{1,6}")


class HoldersHandler(ComfyLockHandler):
    """`holders`: a kernel says hello."""

    takes_proof = True

    @allow_unauthenticated
    async def post(self) -> None:
        """Return the caller's holder and credential; a known caller's are what they were."""
        body = self.body()
        kernel_id, instance = text(body, "kernel_id"), text(body, "instance")
        kernels = self.services.kernels
        said = self.request.headers.get("Authorization", "")
        if said.startswith(PROOF):
            named, _, proof = said.removeprefix(PROOF).partition(":")
            if named != kernel_id:
                msg = f"The proof is for kernel {named}, the request for {kernel_id}."
                raise WrongCredential(msg)
            holder, is_new = await kernels.hello_managed(kernel_id, proof, instance=instance)
        elif self.holder is not None:
            msg = "A kernel says hello with its proof, or with the Jupyter user's token."
            raise NotYours(msg)
        else:
            name = note(body, "name")
            holder, is_new = await kernels.hello_attached(kernel_id, instance=instance, name=name)
        self.set_status(HTTPStatus.CREATED if is_new else HTTPStatus.OK)
        self.finish(
            {
                "holder": holder.to_json(),
                "credential": holder.credential,
                "gateway_path": f"comfy-lock/gateway/{holder.gateway_key}/",
                "version": __version__,
                "lease": {
                    "ttl_s": self.services.policy.ttl_s,
                    "renew_every_s": self.services.policy.renew_every_s,
                },
            }
        )


class MyHolderHandler(ComfyLockHandler):
    """`holders/me`."""

    @allow_unauthenticated
    async def delete(self) -> None:
        """Leave: everything the holder held is released."""
        await self.services.kernels.end(self.the_holder(), "it said good-bye")
        self.set_status(HTTPStatus.NO_CONTENT)
        self.finish()


class LeaseHandler(ComfyLockHandler):
    """`holders/me/lease`."""

    @allow_unauthenticated
    async def put(self) -> None:
        """Show that an attached holder runs."""
        self.services.kernels.renewed(self.the_holder())
        self.set_status(HTTPStatus.NO_CONTENT)
        self.finish()


class PinHandler(ComfyLockHandler):
    """`holders/me/pin`."""

    @allow_unauthenticated
    async def put(self) -> None:
        """Remember the ComfyServer that a holder prefers, for as long as it lives."""
        comfy_id = text_or_none(self.body(), "comfy_id")
        holder = self.the_holder()
        if comfy_id is not None:
            self.services.locks.upstream(ComfyId(comfy_id))
        holder.pin = ComfyId(comfy_id or "")
        self.finish({"pin": comfy_id})


class PortHandler(ComfyLockHandler):
    """`holders/me/port`."""

    @allow_unauthenticated
    async def put(self) -> None:
        """Open a port that leads to the holder's gateway, the named one or any."""
        number = self.body().get("port", 0)
        if type(number) is not int or not 0 <= number < 2**16:
            raise BadRequest(field="port", why="must be the number of a port, or 0 for any")
        self.finish({"port": self.services.ports.open(self.the_holder(), number)})

    @allow_unauthenticated
    async def delete(self) -> None:
        """Close it."""
        self.services.ports.close(self.the_holder().holder_id)
        self.set_status(HTTPStatus.NO_CONTENT)
        self.finish()


class ForceHandler(ComfyLockHandler):
    """`holders/<id>/release`."""

    @allow_unauthenticated
    async def post(self, holder_id: str) -> None:
        """Take a holder's lock, or its place in line, away."""
        by, why = self.the_operator(), note(self.body(), "why")
        lock = await self.services.locks.force(HolderId(holder_id), by=by, why=why)
        self.finish({"released": self.lock_json(lock)})


class PoolHandler(ComfyLockHandler):
    """`pool`."""

    @allow_unauthenticated
    async def get(self) -> None:
        """List the ComfyServers: how they do, who holds them and who waits."""
        await look_if_old(self.services.upstreams.values(), older_than_s=1.0, within_s=1.0)
        occupied = await self.services.locks.occupancy()
        servers = [
            comfy_to_json(each.comfy, each.status, occupied, self.holder_id)
            for each in self.services.upstreams.values()
        ]
        self.finish({"servers": servers})


class AccessHandler(ComfyLockHandler):
    """`pool/<id>/state`."""

    @allow_unauthenticated
    async def put(self, comfy_id: str) -> None:
        """Open, drain or disable a ComfyServer."""
        by, body = self.the_operator(), self.body()
        try:
            access = Access(str(body.get("state")))
        except ValueError:
            why = 'must be "open", "draining" or "disabled"'
            raise BadRequest(field="state", why=why) from None
        upstream = self.services.locks.upstream(ComfyId(comfy_id))
        decided = Maintenance(access=access, by=by, why=note(body, "why"), since=time.time())
        await self.services.locks.set_access(upstream.comfy.comfy_id, decided)
        occupied = await self.services.locks.occupancy()
        self.finish(comfy_to_json(upstream.comfy, upstream.status, occupied, None))


class TasksHandler(ComfyLockHandler):
    """`tasks`."""

    @allow_unauthenticated
    async def get(self) -> None:
        """List the caller's newest tasks, or everybody's for the Jupyter user."""
        tasks, earlier = self.services.tasks, self.flag("earlier")
        if self.holder is not None and earlier:
            found = await tasks.earlier(self.holder, _NEWEST)
        else:
            found = await tasks.newest(self.holder_id, _NEWEST)
        self.finish({"tasks": [self.task_json(task) for task in found]})

    @allow_unauthenticated
    async def post(self) -> None:
        """Submit a workflow in API format."""
        body, holder = self.body(), self.the_holder()
        extra_data = body.get("extra_data")
        if extra_data is not None and not isinstance(extra_data, dict):
            raise BadRequest(field="extra_data", why="must be an object or null")
        task_id = prompt_id(body.get("task_id"))
        if task_id is None and body.get("task_id") is not None:
            raise BadRequest(field="task_id", why="must be a UUID or null")
        live, is_new = await self.services.submitter.submit_once(
            holder,
            body.get("prompt"),
            extra_data,
            task_id or TaskId(str(uuid4())),
            wanted=text_or_none(body, "comfy_id"),
        )
        self.set_status(HTTPStatus.CREATED if is_new else HTTPStatus.OK)
        self.finish(live.to_json())


class TaskHandler(ComfyLockHandler):
    """`tasks/<id>`."""

    @allow_unauthenticated
    async def get(self, task_id: str) -> None:
        """Show one task."""
        self.finish(self.task_json(await self.services.tasks.find(task_id, self.holder)))


class CancelHandler(ComfyLockHandler):
    """`tasks/<id>/cancel`."""

    @allow_unauthenticated
    async def post(self, task_id: str) -> None:
        """Ask for the end of a task; it comes as an event."""
        task = await self.services.tasks.find(task_id, self.holder)
        live = self.services.tasks.live(task_id)
        # One of an earlier life of the kernel was cancelled when that ended.
        if live is not None and self.holder_id in (None, task.holder_id):
            by = "by its kernel" if self.holder else "by the Jupyter user"
            await self.services.tasks.cancel(live, by)
            task = live.task
        self.set_status(HTTPStatus.ACCEPTED)
        self.finish(self.task_json(task))


class FileHandler(ComfyLockHandler):
    """`tasks/<id>/files/<n>`."""

    @allow_unauthenticated
    async def get(self, task_id: str, number: str) -> None:
        """Stream a file of a task from the ComfyServer that made it (R5)."""
        if not _FILE_NUMBER.fullmatch(number):
            raise BadRequest(field="number", why="must be a whole number from 0 to 999999")
        task = await self.services.tasks.find(task_id, self.holder)
        files = output_files(task.outputs)
        if int(number) >= len(files):
            msg = f"Task {task_id} has {len(files)} file(s); there is no number {number}."
            raise UnknownFile(msg, task_id=task_id)
        file = files[int(number)]
        upstream = self.services.tasks.home(task)
        async with upstream.open(
            "GET",
            "/view",
            params={"filename": file.filename, "subfolder": file.subfolder, "type": file.type},
            headers=harmless(self.request.headers),
        ) as response:
            # ComfyUI answers 400 to names that it does not like, also those that it has made.
            if response.status in (HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST):
                msg = (
                    f"ComfyServer {task.comfy_id!r} does not have {file.filename!r} of task "
                    f"{task_id} any more."
                )
                raise UnknownFile(msg, task_id=task_id)
            upstream.refuse_other_than(response, *_OF_A_FILE)
            await copy_answer(response, self)


class PreviewHandler(ComfyLockHandler):
    """`tasks/<id>/preview`."""

    @allow_unauthenticated
    async def get(self, task_id: str) -> None:
        """Show the newest preview of a task."""
        await self.services.tasks.find(task_id, self.holder)
        live = self.services.tasks.live(task_id)
        if live is None or live.preview is None:
            msg = f"Task {task_id} has shown no preview."
            raise UnknownFile(msg, task_id=task_id)
        self.set_header("Cache-Control", "no-store")
        self.finish(live.preview.image, set_content_type=live.preview.media_type)


class EventsHandler(ComfyLockHandler):
    """`events`: Server-Sent Events."""

    @allow_unauthenticated
    async def get(self) -> None:
        """Tell the present state, then each change, until one side closes.

        A kernel's open stream is also its sign of life.
        """
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-cache")
        self.set_header("X-Accel-Buffering", "no")
        send_at_once(self)
        notice_dead_reader(self)
        kernels = self.services.kernels
        if self.holder is not None:
            kernels.stream_opened(self.holder)
        try:
            with self.services.events.subscribe(self.holder_id) as subscription:
                self._close: Callable[[], None] = subscription.close
                await self._send("snapshot", await self._snapshot(), 0)
                async for event in subscription:
                    if event is None:
                        self.write(": still here\n\n")
                        await self.flush()
                    else:
                        await self._send(event.kind, event.payload, event.number)
        except StreamClosedError:
            pass
        finally:
            if self.holder is not None:
                await kernels.stream_dropped(self.holder)

    def on_connection_close(self) -> None:
        """End the stream at once: without this it would be noticed with the next event."""
        super().on_connection_close()
        if hasattr(self, "_close"):
            self._close()

    async def _snapshot(self) -> dict[str, Any]:
        tasks = await self.services.tasks.newest(self.holder_id, _NEWEST)
        lock = self.services.locks.held_by(self.holder.holder_id) if self.holder else None
        return {
            "holder": self.holder.to_json() if self.holder else None,
            "lock": self.lock_json(lock),
            "tasks": [self.task_json(task) for task in tasks],
        }

    async def _send(self, kind: str, payload: dict[str, Any], number: int) -> None:
        self.write(f"id: {number}\nevent: {kind}\ndata: {json.dumps(payload)}\n\n")
        await self.flush()


#: Patterns below the extension's base URL.
HANDLERS: list[tuple[str, type[ComfyLockHandler]]] = [
    *DESCRIPTION_HANDLERS,
    *LOCK_HANDLERS,
    *INSPECT_HANDLERS,
    (r"comfy-lock/api/holders", HoldersHandler),
    (r"comfy-lock/api/holders/me", MyHolderHandler),
    (r"comfy-lock/api/holders/me/lease", LeaseHandler),
    (r"comfy-lock/api/holders/me/pin", PinHandler),
    (r"comfy-lock/api/holders/me/port", PortHandler),
    (r"comfy-lock/api/holders/([^/]+)/release", ForceHandler),
    (r"comfy-lock/api/pool", PoolHandler),
    (r"comfy-lock/api/pool/([^/]+)/state", AccessHandler),
    (r"comfy-lock/api/tasks", TasksHandler),
    (r"comfy-lock/api/tasks/([^/]+)", TaskHandler),
    (r"comfy-lock/api/tasks/([^/]+)/cancel", CancelHandler),
    (r"comfy-lock/api/tasks/([^/]+)/files/([^/]+)", FileHandler),
    (r"comfy-lock/api/tasks/([^/]+)/preview", PreviewHandler),
    (r"comfy-lock/api/events", EventsHandler),
]
