"""The REST API under `comfy-lock/api/`: JSON in, one service call, JSON out."""

import json
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
from jupyter_comfy_lock.domain.lock import ComfyId, LockEvent, Mode
from jupyter_comfy_lock.domain.pool import comfy_to_json
from jupyter_comfy_lock.domain.task import TaskId, output_files, prompt_id
from jupyter_comfy_lock.server.caller import PROOF, ComfyLockHandler
from jupyter_comfy_lock.server.holders import Holder
from jupyter_comfy_lock.server.relay import (
    copy_answer,
    harmless,
    notice_dead_reader,
    send_at_once,
)
from jupyter_comfy_lock.server.upstream import look_if_old

#: Tasks in a list or snapshot.
_NEWEST = 200


class HoldersHandler(ComfyLockHandler):
    """`holders`: a kernel says hello."""

    takes_proof = True

    @allow_unauthenticated
    async def post(self) -> None:
        """Return the caller's holder and credential; a known caller's are what they were."""
        body = self.body()
        kernel_id, instance = _text(body, "kernel_id"), _text(body, "instance")
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
            name = str(body.get("name") or "")
            holder, is_new = await kernels.hello_attached(kernel_id, instance=instance, name=name)
        self.set_status(HTTPStatus.CREATED if is_new else HTTPStatus.OK)
        self.finish(
            {
                "holder": holder.to_json(),
                "credential": holder.credential,
                "gateway_path": f"comfy-lock/gateway/{holder.credential}/",
                "version": __version__,
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


class PoolHandler(ComfyLockHandler):
    """`pool`."""

    @allow_unauthenticated
    async def get(self) -> None:
        """List the ComfyServers: how they do, and who holds them."""
        await look_if_old(self.services.upstreams.values(), older_than_s=1.0, within_s=1.0)
        locks = await self.services.locks.all_held()
        servers = [
            comfy_to_json(each.comfy, each.status, locks, self.holder_id)
            for each in self.services.upstreams.values()
        ]
        self.finish({"servers": servers})


class LocksHandler(ComfyLockHandler):
    """`locks`."""

    @allow_unauthenticated
    async def get(self) -> None:
        """List the caller's lock, or everybody's for the Jupyter user."""
        locks = [
            self.lock_json(lock)
            for lock in await self.services.locks.all_held()
            if self.holder_id in (None, lock.holder_id)
        ]
        self.finish({"locks": locks})

    @allow_unauthenticated
    async def post(self) -> None:
        """Lock a ComfyServer."""
        body, holder = self.body(), self.the_holder()
        comfy_id = body.get("comfy_id")
        if comfy_id is not None and (not isinstance(comfy_id, str) or not comfy_id):
            raise BadRequest(field="comfy_id", why="must be text or null")
        try:
            mode = Mode(body.get("mode", Mode.SHARED))
        except ValueError:
            raise BadRequest(field="mode", why='must be "shared" or "exclusive"') from None
        # The notebook may have been renamed since the kernel said hello.
        await self.services.kernels.rename(holder)
        lock, had_it, chosen_by = await self.services.locks.acquire(
            holder.holder_id,
            name=holder.name,
            comfy_id=ComfyId(comfy_id) if comfy_id else self._home(holder),
            pin=None if comfy_id else await self.services.pin_of(holder),
            mode=mode,
        )
        self.set_status(HTTPStatus.OK if had_it else HTTPStatus.CREATED)
        self.finish({"lock": self.lock_json(lock), "chosen_by": chosen_by})

    def _home(self, holder: Holder) -> ComfyId | None:
        """Return where the holder has tasks pending: it can lock no other ComfyServer (R3)."""
        pending = self.services.tasks.pending(holder.holder_id)
        return pending[0].task.comfy_id if pending else None


class MyLockHandler(ComfyLockHandler):
    """`locks/mine`."""

    @allow_unauthenticated
    async def delete(self) -> None:
        """Release the caller's lock, if it has one."""
        lock = await self.services.locks.release(self.the_holder().holder_id, LockEvent.RELEASED)
        self.finish({"released": self.lock_json(lock)})


class TasksHandler(ComfyLockHandler):
    """`tasks`."""

    @allow_unauthenticated
    async def get(self) -> None:
        """List the caller's newest tasks, or everybody's for the Jupyter user."""
        tasks = await self.services.tasks.newest(self.holder_id, _NEWEST)
        self.finish({"tasks": [self.task_json(task) for task in tasks]})

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
            holder.holder_id,
            holder.name,
            body.get("prompt"),
            extra_data,
            task_id or TaskId(str(uuid4())),
        )
        self.set_status(HTTPStatus.CREATED if is_new else HTTPStatus.OK)
        self.finish(live.to_json())


class TaskHandler(ComfyLockHandler):
    """`tasks/<id>`."""

    @allow_unauthenticated
    async def get(self, task_id: str) -> None:
        """Show one task."""
        self.finish(self.task_json(await self.services.tasks.find(task_id, self.holder_id)))


class CancelHandler(ComfyLockHandler):
    """`tasks/<id>/cancel`."""

    @allow_unauthenticated
    async def post(self, task_id: str) -> None:
        """Ask for the end of a task; it comes as an event."""
        task = await self.services.tasks.find(task_id, self.holder_id)
        live = self.services.tasks.live(task_id)
        if live is not None:
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
        task = await self.services.tasks.find(task_id, self.holder_id)
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
            if response.status == HTTPStatus.NOT_FOUND:
                msg = (
                    f"ComfyServer {task.comfy_id!r} does not have {file.filename!r} of task "
                    f"{task_id} any more."
                )
                raise UnknownFile(msg, task_id=task_id)
            await copy_answer(response, self)


class PreviewHandler(ComfyLockHandler):
    """`tasks/<id>/preview`."""

    @allow_unauthenticated
    async def get(self, task_id: str) -> None:
        """Show the newest preview of a task."""
        await self.services.tasks.find(task_id, self.holder_id)
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


def _text(body: dict[str, Any], field: str) -> str:
    value = body.get(field)
    if not isinstance(value, str) or not value:
        raise BadRequest(field=field, why="must be text")
    return value


#: Patterns below the extension's base URL.
HANDLERS: list[tuple[str, type[ComfyLockHandler]]] = [
    (r"comfy-lock/api/holders", HoldersHandler),
    (r"comfy-lock/api/holders/me", MyHolderHandler),
    (r"comfy-lock/api/pool", PoolHandler),
    (r"comfy-lock/api/locks", LocksHandler),
    (r"comfy-lock/api/locks/mine", MyLockHandler),
    (r"comfy-lock/api/tasks", TasksHandler),
    (r"comfy-lock/api/tasks/([^/]+)", TaskHandler),
    (r"comfy-lock/api/tasks/([^/]+)/cancel", CancelHandler),
    (r"comfy-lock/api/tasks/([^/]+)/files/(\d{1,6})", FileHandler),
    (r"comfy-lock/api/tasks/([^/]+)/preview", PreviewHandler),
    (r"comfy-lock/api/events", EventsHandler),
]
