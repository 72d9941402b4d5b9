"""Tasks: their states, their ends, and how to end them. Each ends exactly once (R9)."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from logging import Logger
from typing import TYPE_CHECKING, Any

from tenacity import (
    AsyncRetrying,
    RetryError,
    retry_if_result,
    stop_after_delay,
    wait_exponential,
)

from jupyter_comfy_lock.domain import comfy as says
from jupyter_comfy_lock.domain.errors import (
    CannotInterrupt,
    ComfyLockError,
    ComfyUnreachable,
    StoreUnavailable,
    UnknownTask,
)
from jupyter_comfy_lock.domain.lock import ComfyId, HolderId, Mode
from jupyter_comfy_lock.domain.task import (
    Outcome,
    Task,
    TaskId,
    TaskState,
    may_move,
    output_files,
)
from jupyter_comfy_lock.server.live import LiveTask, live_of
from jupyter_comfy_lock.server.locks import LockService
from jupyter_comfy_lock.server.stream import Frame
from jupyter_comfy_lock.server.upstream import Upstream

if TYPE_CHECKING:
    from jupyter_comfy_lock.store.tasks import TaskStore

#: Changes before the end are told this late, and at most this often per task.
_TELL_AFTER_S = 0.02
_TELL_EVERY_S = 0.05
#: ComfyUI says "success" a moment before the history has it, and ends with `executing: null` after.
_AFTER_OVER_S = 0.25
#: States before the end are stored this late, the newest only.
_SAVE_AFTER_S = 0.2
#: Seconds after which a cancellation that led to nothing is asked for again.
_INSIST_EVERY_S = 1.0
#: Ended tasks that are kept in memory, with their last progress and preview.
_REMEMBER = 500


@dataclass(slots=True)
class Belongings:
    """What of any ComfyServer a holder may see (R4)."""

    #: The ids of its prompts as ComfyUI knows them, with the tasks they are of.
    ids: dict[str, TaskId] = field(default_factory=dict)
    #: The files that its tasks left, by (filename, subfolder, type), with the task they are of.
    files: dict[tuple[str, str, str], TaskId] = field(default_factory=dict)

    def add(self, task: Task, outputs: Mapping[str, Any] | None = None) -> None:
        """Add a task and its files, or those among `outputs` that are known before its end."""
        self.ids[task.prompt_id] = task.task_id
        for file in output_files(task.outputs if outputs is None else outputs):
            self.files[file.filename, file.subfolder, file.type] = task.task_id


class TaskService:
    """The tasks of this Jupyter server's holders."""

    def __init__(
        self,
        store: "TaskStore",
        locks: LockService,
        log: Logger,
        on_change: Callable[[LiveTask], None],
    ) -> None:
        self._store = store
        self._locks = locks
        self._log = log
        self._on_change = on_change
        self._live: dict[TaskId, LiveTask] = {}
        self._belongings: dict[HolderId, Belongings] = {}
        self._background: set[asyncio.Task[None]] = set()
        #: Tasks as they are, of which the store does not know it yet.
        self._unsaved: dict[TaskId, Task] = {}
        #: Set when the queues should be looked at without waiting for the next round.
        self.look_now = asyncio.Event()

    async def add(self, live: LiveTask) -> None:
        """Record a task before its prompt is sent, and follow it from here on.

        Raises:
            NoLock: its lock is not held (any more); nothing was recorded.
        """
        await self._store.register(live.task)
        self._live[live.task.task_id] = live
        (await self.belongings(live.task.holder_id)).add(live.task)
        self._tell_soon(live)

    async def called(self, live: LiveTask, prompt_id: str) -> None:
        """Note what the ComfyServer calls the prompt, where that is not the task's id."""
        if prompt_id == live.task.prompt_id:
            return
        live.task = replace(live.task, given_id=prompt_id)
        (await self.belongings(live.task.holder_id)).add(live.task)
        self._save_soon(live)

    def accepted(self, live: LiveTask) -> None:
        """Note that the ComfyServer has the prompt."""
        live.sent = True
        self.move(live, TaskState.QUEUED)
        if live.over:
            self.in_background(self.finish(live))
        elif live.task.cancel_requested:
            self.in_background(self._cancel_upstream([live]))

    # -- what the ComfyServer says -----------------------------------------------------------

    def on_frame(self, holder_id: HolderId, frame: Frame) -> None:
        """Take in a frame of the holder's socket."""
        message = says.parse_text(frame) if isinstance(frame, str) else says.parse_binary(frame)
        match message:
            case None:
                return
            case says.Status(queue_remaining=remaining):
                if remaining > 1:
                    # Somebody's place in the queue may have changed.
                    self.look_now.set()
                return
            case says.Preview():
                live = self._previewed(holder_id, message)
            case _:
                live = self._of_prompt(holder_id, message.prompt_id)
        # Without a client id ComfyUI broadcasts; others' prompts are none of this holder's.
        if live is None or live.task.holder_id != holder_id or not live.task.pending:
            return
        self._apply(live, message)

    def _apply(self, live: LiveTask, message: says.Message) -> None:
        match message:
            case says.Executing(node=None):
                live.ending = live.over = True
                self.in_background(self.finish(live))
            case says.Over():
                live.ending = True
                self.in_background(self._finish_later(live))
            case says.Started():
                self.move(live, TaskState.RUNNING)
            case says.Preview():
                live.preview = message
                live.progress = live.progress.previewed(message.node)
                self._tell_soon(live)
            case _:
                if isinstance(message, says.Executed):
                    # Clients fetch a picture as soon as they hear of it, before the task ends.
                    self._note_files(live.task, {message.node: message.output})
                live.progress = live.progress.after(message)
                self._tell_soon(live)

    def _note_files(self, task: Task, outputs: Mapping[str, Any]) -> None:
        if mine := self._belongings.get(task.holder_id):
            mine.add(task, outputs)

    def _previewed(self, holder_id: HolderId, preview: says.Preview) -> LiveTask | None:
        if preview.prompt_id is not None:
            return self._of_prompt(holder_id, preview.prompt_id)
        running = [each for each in self.pending(holder_id) if each.task.state is TaskState.RUNNING]
        return running[0] if len(running) == 1 else None

    def _of_prompt(self, holder_id: HolderId, prompt_id: str) -> LiveTask | None:
        mine = self._belongings.get(holder_id)
        # Of a holder that is gone nothing is kept here but its tasks.
        task_id = mine.ids.get(prompt_id) if mine else None
        return self._live.get(task_id or TaskId(prompt_id))

    async def _finish_later(self, live: LiveTask) -> None:
        await asyncio.sleep(_AFTER_OVER_S)
        await self.finish(live)

    async def finish(self, live: LiveTask) -> None:
        """Read how the task ended, now that it has; if the history is late, wait for it."""
        if live.finishing or not live.sent or not live.task.pending:
            return
        live.finishing = True
        upstream = self.home(live.task)
        retrying = AsyncRetrying(
            retry=retry_if_result(lambda entry: entry is None),
            wait=wait_exponential(multiplier=0.005, max=0.5),
            stop=stop_after_delay(3),
        )
        try:
            entry: Mapping[str, Any] = await retrying(upstream.history, live.task.prompt_id)
            await self.end(live, says.outcome(entry))
        except (RetryError, ComfyLockError) as error:
            # Polling goes on with it.
            self._log.warning("No history of task %s yet: %s", live.task.task_id, error)
        finally:
            live.finishing = False

    async def found(self, holder_id: HolderId, history: Mapping[str, Any]) -> None:
        """Take in what a holder has read of its history: whoever has, asks for the files next."""
        for prompt_id in history:
            live = self._of_prompt(holder_id, prompt_id)
            entry = says.ended_entry(history, prompt_id)
            # One whose answer is still to come may have outputs that were dropped.
            if live is not None and entry is not None and live.sent and live.task.pending:
                await self.end(live, says.outcome(entry))

    # -- state -------------------------------------------------------------------------------

    def move(self, live: LiveTask, state: TaskState) -> None:
        """Move a task on before its end; news that comes late changes nothing."""
        if not may_move(live.task.state, state):
            return
        live.task = replace(live.task, state=state)
        if state is TaskState.RUNNING:
            live.task = replace(live.task, started_at=live.task.not_before(time.time()))
            live.ahead = None
        self._tell_soon(live)
        self._save_soon(live)

    async def end(self, live: LiveTask, outcome: Outcome) -> None:
        """End a task, once: store it, then tell."""
        ended = live.task.ended(outcome, at=time.time())
        if ended is live.task:
            return
        if ended.state is TaskState.CANCELLED:
            ended = replace(ended, reason=live.cancel_reason)
        live.task = ended
        live.ahead = None
        if ended.state is TaskState.SUCCEEDED:
            live.progress = live.progress.complete()
        self._note_files(ended, ended.outputs)
        is_ours = await self._save(ended)
        if not is_ours:
            # Another Jupyter server had it for a while and saw its end before: that one counts.
            with suppress(StoreUnavailable):
                live.task = ended = await self._store.get(ended.task_id) or ended
        self._log.log(
            logging.INFO if is_ours else logging.DEBUG,
            "Task %s of %s on %s %s%s",
            ended.task_id,
            ended.name or ended.holder_id,
            ended.comfy_id,
            ended.state,
            f": {ended.reason}" if ended.reason else "",
        )
        self._on_change(live)
        self._forget_oldest()

    def _save_soon(self, live: LiveTask) -> None:
        """Store the state that the task has a moment from now; a short one needs no writes."""
        if not live.saving:
            live.saving = True
            asyncio.get_running_loop().call_later(_SAVE_AFTER_S, self._save_now, live)

    def _save_now(self, live: LiveTask) -> None:
        live.saving = False
        if live.task.pending:
            self.in_background(self._save_pending(live.task))

    async def _save_pending(self, task: Task) -> None:
        await self._save(task)

    async def _save(self, task: Task) -> bool:
        """Store a task as it is now, or later if the store is away; False if it had ended."""
        try:
            return await self._store.save(task)
        except StoreUnavailable as error:
            self._log.error("Task %s is %s but not stored: %s", task.task_id, task.state, error)
            self._unsaved[task.task_id] = task
            return True

    async def settle(self) -> None:
        """Store what could not be stored: a lock drains until the ends of its tasks are."""
        for task_id, task in tuple(self._unsaved.items()):
            try:
                await self._store.save(task)
            except StoreUnavailable:
                return
            if self._unsaved.get(task_id) is task:
                del self._unsaved[task_id]

    def told(self, live: LiveTask) -> None:
        """Tell how the task is now."""
        live.told_s = time.monotonic()
        live.telling = False
        if live.task.pending:
            self._on_change(live)

    def _tell_soon(self, live: LiveTask) -> None:
        """Tell how the task is a moment from now; a short one is told of once, when it ends."""
        if live.telling:
            return
        live.telling = True
        wait_s = max(_TELL_AFTER_S, live.told_s + _TELL_EVERY_S - time.monotonic())
        asyncio.get_running_loop().call_later(wait_s, self.told, live)

    # -- cancel ------------------------------------------------------------------------------

    async def cancel(self, live: LiveTask, reason: str = "cancelled") -> None:
        """Ask for the task's end; it comes when the ComfyServer says so, and may be a success.

        A ComfyServer that does not answer now is asked again when it does.

        Raises:
            CannotInterrupt: it runs on to its own end.
        """
        try:
            await self.cancel_all([live], reason)
        except ComfyUnreachable as error:
            self._log.warning("Task %s is cancelled later: %s", live.task.task_id, error.message)

    async def cancel_all(self, tasks: Iterable[LiveTask], reason: str) -> None:
        """Cancel several, with as few requests as there are ComfyServers.

        Raises:
            ComfyUnreachable: of the first ComfyServer that does not answer, after all were asked.
            CannotInterrupt: some run on to their own end; the others were asked for.
        """
        pending = [live for live in tasks if live.task.pending]
        homes: dict[str, list[LiveTask]] = {}
        for live in pending:
            live.cancel_reason = reason
            live.task = replace(live.task, cancel_requested=True)
            # One that is being sent is cancelled when the answer is there.
            if live.sent:
                homes.setdefault(live.task.comfy_id, []).append(live)
        results = await asyncio.gather(
            *(self._cancel_upstream(each) for each in homes.values()), return_exceptions=True
        )
        self.look_now.set()
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def cancel_of(self, holder_id: HolderId, comfy_id: ComfyId, why: str) -> None:
        """Cancel what a holder has pending on a ComfyServer that it holds no longer."""
        for live in self.pending(holder_id):
            asked = live.task.cancel_requested or live.cannot_stop
            if live.task.comfy_id == comfy_id and not asked:
                self.in_background(self.cancel(live, why))

    async def insist(self, live: LiveTask) -> None:
        """Ask again for an end that was asked for in vain.

        ComfyUI forgets an interrupt that comes in the moment before a prompt begins to run.
        """
        if time.monotonic() - live.cancel_sent_s <= _INSIST_EVERY_S:
            return
        try:
            await self._cancel_upstream([live])
        except CannotInterrupt as error:
            self._log.warning("%s", error.message)

    async def _cancel_upstream(self, tasks: list[LiveTask]) -> None:
        upstream = self.home(tasks[0].task)
        for live in tasks:
            live.cancel_sent_s = time.monotonic()
        by_id = (await upstream.abilities()).interrupts_one
        alone = set() if by_id else await self._who_is_alone(upstream)
        by_prompt = {live.task.prompt_id: live for live in tasks}
        left = await upstream.cancel(
            {prompt_id: live.task.holder_id in alone for prompt_id, live in by_prompt.items()}
        )
        self.look_now.set()
        if left:
            running = [by_prompt[prompt_id] for prompt_id in left]
            for live in running:
                live.cannot_stop = True
                live.task = replace(live.task, cancel_requested=False)
            version = upstream.status.version or "?"
            named = [live.task.task_id for live in running]
            raise CannotInterrupt(upstream.comfy.comfy_id, version, named)

    async def _who_is_alone(self, upstream: Upstream) -> set[HolderId]:
        """Return the holder that has a ComfyServer exclusively, or did and it drains."""
        occupied = await self._locks.occupancy()
        locks = occupied.locks.get(upstream.comfy.comfy_id, ())
        holders = {lock.holder_id for lock in locks}
        exclusive = all(lock.mode is Mode.EXCLUSIVE for lock in locks)
        return holders if exclusive and len(holders) == 1 else set()

    # -- look up -----------------------------------------------------------------------------

    async def find(self, task_id: str, holder_id: HolderId | None) -> Task:
        """Return the task; only the holder's own, or anybody's for None (the Jupyter user).

        Raises:
            UnknownTask: there is none, or it is another holder's: which, is not told (R4).
        """
        live = self._live.get(TaskId(task_id))
        task = live.task if live else await self._store.get(TaskId(task_id))
        if task is None or holder_id not in (None, task.holder_id):
            raise UnknownTask(task_id)
        return task

    def home(self, task: Task) -> Upstream:
        """Return the ComfyServer that the task was sent to (R5).

        Raises:
            UnknownComfy: it is in the pool no more.
            ComfyUnreachable: its id means another URL by now, where somebody else's files are.
        """
        upstream = self._locks.upstream(task.comfy_id)
        if upstream.comfy.url != task.lock.url:
            why = f"it was at {task.lock.url} when task {task.task_id} was sent there"
            raise ComfyUnreachable(task.comfy_id, why)
        return upstream

    def live(self, task_id: str) -> LiveTask | None:
        """Return what is in memory of a task."""
        return self._live.get(TaskId(task_id))

    async def newest(self, holder_id: HolderId | None, limit: int) -> list[Task]:
        """Return the newest tasks, newest first."""
        tasks = await self._store.newest(holder_id, limit=limit)
        return [live.task if (live := self._live.get(each.task_id)) else each for each in tasks]

    def pending(self, holder_id: HolderId | None = None) -> list[LiveTask]:
        """Return the tasks that have not ended, of a holder or of all."""
        return [
            live
            for live in self._live.values()
            if live.task.pending and holder_id in (None, live.task.holder_id)
        ]

    async def pending_everywhere(self) -> list[Task]:
        """Return the tasks that have not ended, of all Jupyter servers, the oldest first."""
        stored = await self._store.pending()
        now = [live.task if (live := self._live.get(x.task_id)) else x for x in stored]
        return [task for task in now if task.pending]

    async def known(self, task_ids: Iterable[str]) -> list[Task]:
        """Return those of these tasks that there are, of anybody."""
        found = [await self._store.get(TaskId(each)) for each in task_ids]
        return [
            live.task if (live := self._live.get(task.task_id)) else task
            for task in found
            if task is not None
        ]

    def left(self, holder_id: HolderId) -> int:
        """Return how many of a holder's prompts ComfyUI would say that it still has to do."""
        return sum(not live.ending for live in self.pending(holder_id))

    async def to_follow(self) -> list[LiveTask]:
        """Return the tasks whose end this Jupyter server has to find out.

        While it was suspended, another one may have taken them over and may have ended them.
        """
        pending = self.pending()
        elsewhere = [x for x in pending if x.task.node_id != self._locks.node_id]
        others = [live for live in elsewhere if await self._is_others(live)]
        return [live for live in pending if live not in others and live.task.pending]

    async def _is_others(self, live: LiveTask) -> bool:
        stored = await self._store.get(live.task.task_id)
        if stored is None or stored.node_id == live.task.node_id:
            return False
        if stored.node_id == self._locks.node_id:
            live.task = replace(live.task, node_id=stored.node_id)
            return False
        if not stored.pending:
            live.task = stored
            self._note_files(stored, stored.outputs)
            self._on_change(live)
        return True

    async def belongings(self, holder_id: HolderId) -> Belongings:
        """Return what the holder may see, also of tasks before a restart of this server."""
        if holder_id not in self._belongings:
            stored = await self._store.newest(holder_id, limit=10_000)
            # Another call may have loaded them meanwhile, and added to them.
            mine = self._belongings.setdefault(holder_id, Belongings())
            for task in reversed(stored):
                mine.add(task)
        return self._belongings[holder_id]

    def forget_holder(self, holder_id: HolderId) -> None:
        """Drop what is remembered for a holder that is gone; its tasks are followed to the end."""
        self._belongings.pop(holder_id, None)

    async def adopt(self, tasks: tuple[Task, ...]) -> None:
        """Take over tasks whose Jupyter server is gone: cancel them, and follow them to their end.

        Their kernels went with the server, so nobody waits for the pictures. Those that are this
        server's own, from before its lease ran out, are followed as before.
        """
        lives = []
        for task in tasks:
            if own := self._live.get(task.task_id):
                own.task = replace(own.task, node_id=self._locks.node_id)
                continue
            live = live_of(replace(task, node_id=self._locks.node_id), {})
            live.sent = True
            self._live[task.task_id] = live
            lives.append(live)
        try:
            await self.cancel_all(lives, "its Jupyter server was stopped")
        except ComfyLockError as error:
            self._log.warning("Tasks of a stopped Jupyter server run on: %s", error.message)

    def in_background(self, work: "Awaitable[None]") -> None:
        """Run `work` on its own; `stop` waits for it."""

        async def run() -> None:
            try:
                await work
            except ComfyLockError as error:
                self._log.warning("%s", error.message)

        task = asyncio.ensure_future(run())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def stop(self) -> None:
        """Wait for what is being written."""
        await asyncio.gather(*self._background, return_exceptions=True)

    def _forget_oldest(self) -> None:
        if len(self._live) <= 2 * _REMEMBER:
            return
        ended = [task_id for task_id, live in self._live.items() if not live.task.pending]
        for task_id in ended[: len(self._live) - _REMEMBER]:
            del self._live[task_id]
