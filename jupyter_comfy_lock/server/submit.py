"""Submitting a prompt: record it, send it once, say what was refused."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from http import HTTPStatus
from logging import Logger
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from jupyter_comfy_lock.domain.comfy import TAG, mapping
from jupyter_comfy_lock.domain.errors import (
    ComfyLockError,
    ComfyUnreachable,
    NoLock,
    OtherLock,
    StaleLock,
    TakenId,
    UnknownTask,
)
from jupyter_comfy_lock.domain.lock import HolderId, Lock
from jupyter_comfy_lock.domain.progress import Progress
from jupyter_comfy_lock.domain.task import (
    LockSnapshot,
    Outcome,
    Task,
    TaskId,
    TaskState,
    prompt_id,
)
from jupyter_comfy_lock.domain.workflow import (
    check_api_workflow,
    classes,
    dropped_outputs,
    rejection,
)
from jupyter_comfy_lock.server.files import FileService
from jupyter_comfy_lock.server.live import LiveTask, live_of
from jupyter_comfy_lock.server.locks import LockService
from jupyter_comfy_lock.server.stream import HolderStream
from jupyter_comfy_lock.server.tasks import TaskService
from jupyter_comfy_lock.server.upstream import Answer, Upstream

#: How long a submission waits for the holder's socket; polling does without it.
_SOCKET_WAIT_S = 2.0

#: The open stream of a holder, to be found at each submission: it changes with the lock.
StreamOf = Callable[[HolderId], HolderStream | None]


class Submitter:
    """Sends prompts to the ComfyServers that their holders have locked."""

    def __init__(
        self,
        tasks: TaskService,
        locks: LockService,
        files: FileService,
        stream_of: StreamOf,
        log: Logger,
    ) -> None:
        self._tasks = tasks
        self._locks = locks
        self._files = files
        self._stream_of = stream_of
        self._log = log
        #: Submissions under way whose id the caller made, so that it can ask again.
        self._under_way: dict[
            tuple[HolderId, TaskId], asyncio.Future[tuple[LiveTask, Mapping[str, Any]]]
        ] = {}

    async def submit_once(
        self,
        holder_id: HolderId,
        name: str,
        workflow: object,
        extra_data: Mapping[str, Any] | None,
        task_id: TaskId,
        *,
        wanted: str | None = None,
    ) -> tuple[LiveTask, bool]:
        """Submit as `submit` does, but once for each id: who asks again gets the same answer.

        Returns the task, and whether it was not known before.
        """
        key = (holder_id, task_id)
        if key not in self._under_way:
            known = self._tasks.live(task_id)
            if known is not None and known.task.holder_id == holder_id:
                return known, False
            work = self.submit(
                holder_id, name, workflow, extra_data, task_id=task_id, wanted=wanted
            )
            self._under_way[key] = asyncio.ensure_future(work)
            self._under_way[key].add_done_callback(lambda _: self._under_way.pop(key))
        try:
            live, _ = await asyncio.shield(self._under_way[key])
        except TakenId:
            # It may be from before a restart, of which the store alone knows.
            with contextlib.suppress(UnknownTask):
                return live_of(await self._tasks.find(task_id, holder_id), {}), False
            raise TakenId(field="task_id") from None
        return live, True

    async def submit(
        self,
        holder_id: HolderId,
        name: str,
        workflow: object,
        extra_data: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        task_id: TaskId | None = None,
        wanted: str | None = None,
    ) -> tuple[LiveTask, Mapping[str, Any]]:
        """Send a prompt under the holder's lock; return its task and ComfyUI's answer.

        The task is recorded first, with the id that the prompt will have, so that a lost answer
        leads to no second run. `options` are further keys of the body of `POST /prompt`;
        `task_id` is the id that the caller wants for it, `wanted` the only ComfyServer that it is
        for.

        Raises:
            NoLock, OtherLock, StaleLock: nothing was recorded or sent (R2, R3, R7).
            InvalidWorkflow, TakenId: likewise.
            NotYours: likewise; a node would load another kernel's file (R4).
            PromptRejected: ComfyUI refused it; nothing runs.
            ComfyUnreachable: it was not sent.
        """
        lock = self._locks.check(holder_id, name)
        if wanted is not None and wanted != lock.comfy_id:
            raise OtherLock(name or holder_id, wanted=wanted, locked=lock.comfy_id)
        prompt = check_api_workflow(workflow)
        upstream = self._locks.upstream(lock.comfy_id)
        await self._files.check(lock.comfy_id, holder_id, prompt)
        stream = self._stream_of(holder_id)
        if stream is not None:
            await stream.ready(_SOCKET_WAIT_S)
        task = self._new_task(task_id, lock, upstream, stream)
        live = live_of(task, prompt)
        try:
            await self._tasks.add(live)
        except NoLock:
            # Its holder may have it in another mode by now, which is another lock.
            lock = await self._locks.newer(lock, name)
            task = self._new_task(TaskId(task.task_id), lock, upstream, stream)
            live = live_of(task, prompt)
            await self._tasks.add(live)
        # The lock may have been lost while the task was recorded (R7).
        try:
            self._locks.check(holder_id, name)
            body = _body(task, prompt, extra_data, options, self._locks.store_id)
            with _news_kept(upstream, stream):
                answer = await self._send(upstream, live, body)
                if answer is not None:
                    await self._answered(live, answer, prompt)
        except ComfyLockError as error:
            await self._tasks.end(live, Outcome(state=TaskState.REJECTED, reason=error.message))
            raise
        except BaseException:
            # Whoever follows the task finds out what became of it; unsent it would stay for ever.
            live.sent = True
            raise
        return live, {} if answer is None else answer.body

    def _new_task(
        self,
        task_id: TaskId | None,
        lock: Lock,
        upstream: Upstream,
        stream: HolderStream | None,
    ) -> Task:
        now = time.time()
        return Task(
            task_id=task_id or TaskId(str(uuid4())),
            holder_id=lock.holder_id,
            node_id=self._locks.node_id,
            state=TaskState.REGISTERED,
            created_at=now,
            name=lock.name,
            lock=LockSnapshot(
                comfy_id=lock.comfy_id,
                url=upstream.comfy.url,
                epoch=upstream.status.epoch,
                fence=lock.fence,
                mode=lock.mode,
                client_id=stream.client_id if stream else "",
                holder_id=lock.holder_id,
                at=now,
            ),
        )

    async def _send(
        self, upstream: Upstream, live: LiveTask, body: Mapping[str, Any]
    ) -> Answer | None:
        """Send the prompt once, or again when it surely did not arrive; None if that is open."""
        try:
            answer = await upstream.submit(body)
        except ComfyUnreachable as error:
            if not error.sent:
                raise
            self._log.warning(
                "The answer to prompt %s was lost: %s", live.task.task_id, error.message
            )
        else:
            if answer.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                return answer
            # ComfyUI may answer 500 to a prompt that it has queued.
            found = await upstream.find(live.task.task_id)
            return Answer(HTTPStatus.OK, {"prompt_id": found}) if found else answer
        try:
            if found := await upstream.find(live.task.task_id):
                return Answer(HTTPStatus.OK, {"prompt_id": found})
            # Much time may have gone by (R7).
            self._locks.check(live.task.holder_id, live.task.name)
            return await upstream.submit(body)
        except (NoLock, StaleLock):
            raise
        except ComfyLockError:
            # Cut off twice: whoever follows the task will find out what became of it.
            live.sent = True
            return None

    async def _unknown(self, task: Task, prompt: Mapping[str, Any]) -> dict[str, str]:
        """Return the nodes whose class the ComfyServer does not have, with that class."""
        upstream = self._locks.upstream(task.comfy_id)
        by_node = classes(prompt)
        try:
            known = {
                each: await upstream.get(f"/object_info/{in_path}")
                for each in set(by_node.values())
                for in_path in [quote(each, safe="", errors="replace")]
            }
        except ComfyLockError:
            # What ComfyUI said must do.
            return {}
        return {node_id: each for node_id, each in by_node.items() if not known[each]}

    async def _answered(self, live: LiveTask, answer: Answer, prompt: Mapping[str, Any]) -> None:
        task = live.task
        if answer.status != HTTPStatus.OK:
            unknown = {} if answer.body.get("node_errors") else await self._unknown(task, prompt)
            error = rejection(
                task.task_id, task.name or task.holder_id, task.comfy_id, answer.body, unknown
            )
            await self._tasks.end(live, Outcome(state=TaskState.REJECTED, reason=error.message))
            raise error
        # ComfyUI gives UUIDs, and refuses to cancel any if another id is among them.
        given_id = prompt_id(answer.body.get("prompt_id"))
        if given_id is not None:
            await self._tasks.called(live, given_id)
        faults = mapping(answer.body.get("node_errors"))
        if faults:
            live.task = replace(live.task, dropped=dropped_outputs(faults, prompt))
            gone = {*faults, *live.task.dropped}
            live.progress = Progress(needed=live.progress.needed - gone)
        self._tasks.accepted(live)


def _news_kept(
    upstream: Upstream, stream: HolderStream | None
) -> contextlib.AbstractContextManager[None]:
    """Keep what a holder's stream says until its prompt has a name, where ComfyUI gives that."""
    if stream is None or upstream.can.takes_ids:
        return contextlib.nullcontext()
    return stream.hold()


def _body(
    task: Task,
    prompt: Mapping[str, Any],
    extra_data: Mapping[str, Any] | None,
    options: Mapping[str, Any] | None,
    store_id: str,
) -> dict[str, Any]:
    return {
        **(options or {}),
        "prompt": prompt,
        "prompt_id": task.task_id,
        "client_id": task.lock.client_id,
        "extra_data": {
            **(extra_data or {}),
            # Lets an operator, or another installation, see whose a prompt in the queue is.
            # An older ComfyUI gives the prompt an id of its own: this tells which it is.
            TAG: {
                "task_id": task.task_id,
                "store_id": store_id,
                "holder_id": task.holder_id,
                "fence": task.lock.fence,
            },
        },
    }
