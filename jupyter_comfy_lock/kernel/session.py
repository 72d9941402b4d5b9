"""This process at its Jupyter server: who it is there, what it holds, what it hears."""

import atexit
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import httpx
from httpx_sse import ServerSentEvent

from jupyter_comfy_lock.domain.errors import (
    ComfyLockError,
    NoLock,
    StaleLock,
    UnknownTask,
)
from jupyter_comfy_lock.domain.task import TaskState
from jupyter_comfy_lock.domain.workflow.nodes import NodeSpec, node_specs
from jupyter_comfy_lock.kernel.book import TaskBook
from jupyter_comfy_lock.kernel.client import ComfyClient
from jupyter_comfy_lock.kernel.connection import Place, find_place
from jupyter_comfy_lock.kernel.events import EventThread
from jupyter_comfy_lock.kernel.held import HeldLock
from jupyter_comfy_lock.kernel.inspector import Inspector
from jupyter_comfy_lock.kernel.link import Link
from jupyter_comfy_lock.kernel.task import Task
from jupyter_comfy_lock.kernel.views import Comfy, Lock, SecretUrl, Servers, Tasks, newest_first
from jupyter_comfy_lock.kernel.waiting import Asking, Tell, checked_wish
from jupyter_comfy_lock.kernel.wire import ComfyJson, TaskJson, WaitingJson

_FORGOTTEN = "the Jupyter server was restarted, or this kernel was away for too long"


class Standing(NamedTuple):
    """The pool, and where this kernel stands in it, as the wire has it."""

    holder_id: str
    pool: list[ComfyJson]
    #: What this kernel waits for; None if it does not wait.
    waiting: WaitingJson | None
    #: How its last lock was lost; None if it was not.
    loss: str | None


class Session:
    """All that this process has with its Jupyter server. Thread-safe; one per process.

    Nothing is sent before the first call. Every method can raise NoServerExtension and
    WrongCredential.
    """

    def __init__(self, place: Place, *, transport: httpx.BaseTransport | None = None) -> None:
        self._events = EventThread(self._open_events, self._hear)
        self._held = HeldLock()
        self._link = Link(
            place,
            transport=transport,
            on_hello=self._events.start,
            on_forgotten=lambda: self._held.lose(_FORGOTTEN),
        )
        self._call = self._link.call
        self._book = TaskBook(self)
        self._specs: tuple[tuple[str, int], dict[str, NodeSpec]] | None = None
        #: What an upload is called, by where it went and what is in it.
        self._uploaded: dict[tuple[str, str], str] = {}

    # -- who we are -----------------------------------------------------------------------------

    @property
    def place(self) -> Place:
        """The Jupyter server, and how this process introduces itself there."""
        return self._link.place

    @property
    def live(self) -> bool:
        """Whether events arrive."""
        return self._events.live

    def hears_of(self, task: Task) -> bool:
        """Whether news of `task` arrives by itself; of an earlier life of this kernel, none do."""
        return self.live and task.json["holder_id"] == self._link.holder_id

    @property
    def kernel(self) -> str:
        """What to call this kernel in a message."""
        return self._link.kernel

    @property
    def _client(self) -> ComfyClient:
        return self._link.client

    @property
    def url(self) -> SecretUrl:
        """The base URL that any ComfyUI client can be given.

        Raises:
            ComfyLockError: the Jupyter server listens on a Unix socket, which has no URL.
        """
        if self.place.uds:
            msg = (
                f"The Jupyter server listens on the socket {self.place.uds}, so no ComfyUI client "
                "can be given a URL. Start it with a port; comfy.submit() works as it is."
            )
            raise ComfyLockError(msg)
        hello = self._link.hello()
        return SecretUrl(self._client.gateway(hello), secret=hello["gateway_path"].split("/")[-2])

    def listen(self, port: int | None) -> str | None:
        """Open a port that leads to the gateway, 0 for any free one; None closes it.

        Raises:
            BadRequest: the port is in use, or is none.
        """
        if port is None:
            self._call(self._client.close_port)
            return None
        opened = self._call(lambda me: self._client.open_port(me, port))
        return f"http://127.0.0.1:{opened}"

    @property
    def inspector(self) -> Inspector:
        """What looks into what goes on, here and there."""
        return Inspector(self._link, self._held, live=self._events.soon)

    # -- the pool and the lock ------------------------------------------------------------------

    def servers(self) -> Servers:
        """Return the pool."""
        return Servers([Comfy.from_json(each) for each in self._call(self._client.pool)])

    def standing(self) -> "Standing":
        """Return how the pool is, and where this kernel stands in it."""
        holder_id = self._link.hello()["holder"]["holder_id"]
        pool, waiting = self._call(self._client.pool), self._call(self._client.waiting)
        loss = self._held.gone_because
        return Standing(holder_id, pool, waiting[0] if waiting else None, loss)

    def on_lock(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` when something was heard of the lock; see `HeldLock.on_change`."""
        return self._held.on_change(listener)

    def leave_line(self) -> None:
        """Take back what this kernel waits for, if it waits."""
        for wish in self._call(self._client.waiting):
            self._take_back(wish["request_id"])

    def lock(
        self,
        comfy_id: str | None = None,
        *,
        mode: str | None = None,
        wait: float | None = 0,
        labels: Iterable[str] = (),
        tell: Tell = lambda _: None,
    ) -> Lock:
        """Lock `comfy_id`, or what the notebook is pinned to, or the best free ComfyServer.

        `wait`: at most so many seconds in line, None for ever; `tell` hears of it meanwhile.

        Raises:
            UnknownComfy, ComfyUnreachable, NotComfyUI, LockRefused, LockTimeout, ComfyClosed,
            EmptyPool, ServerConsistencyError: nothing was locked, and what was held is held still.
            TypeError, ValueError: that cannot be asked for; nothing was sent.
        """
        asking = Asking(
            wish=checked_wish(comfy_id, mode=mode, wait=wait, labels=labels),
            ask=lambda wish, on_waiting: self._call(
                lambda me: self._client.lock(me, wish(), on_waiting)
            ),
            take_back=self._take_back,
            standing=self._standing,
            tell=tell,
        )
        answer, created = asking.until_locked()
        self._held.hold(answer["lock"])
        was = answer.get("was")
        return Lock.from_json(
            answer["lock"],
            chosen_by=answer["chosen_by"],
            new=was is None if "was" in answer else created,
            was=was,
            home=self,
        )

    def _take_back(self, request_id: str) -> None:
        released = self._link.call_if_known(lambda me: self._client.take_back(me, request_id))
        if released is not None:
            self._held.let_go(released)

    def _standing(self) -> str:
        held = self._held.comfy_id
        return f"{held} is locked as before" if held else "nothing is locked"

    def locked(self) -> Lock | None:
        """Return the lock that this kernel has now, by the server's word."""
        for json in self._call(self._client.locks):
            # One that drains is not this kernel's to use any more.
            if json.get("state", "held") == "held":
                return Lock.from_json(json, new=False, home=self)
        return None

    def release(self) -> str | None:
        """Release; return the id of the ComfyServer that was held, None if none was."""
        released = self._call(self._client.release)
        self._held.let_go(released)
        return released["comfy_id"] if released else None

    def has(self, lock: Lock) -> bool:
        """Whether this kernel has `lock`'s ComfyServer, as far as is known here."""
        return self._held.comfy_id == lock.comfy_id

    def leave_block(self, lock: Lock) -> None:
        """Undo what taking `lock` did, if this kernel still holds that ComfyServer."""
        before = lock.was if lock.was != lock.mode else None
        if not self._link.is_mine() or not (lock.new or before):
            return
        held = self.locked()
        if held is None or held.comfy_id != lock.comfy_id:
            return
        if before:
            self.lock(lock.comfy_id, mode=before)
        else:
            self.release()

    def loss(self, *, held_now: str | None = None) -> str | None:
        """Return what to tell the user of a lock that was taken away, once.

        `held_now`: what the server has just said to be locked.
        """
        return self._held.loss(held_now)

    def pin(self, comfy_id: str | None) -> str | None:
        """Have `comfy_id` preferred for as long as this kernel lives, None for no preference."""
        return self._call(lambda me: self._client.pin(me, comfy_id))

    # -- what the locked ComfyServer has --------------------------------------------------------

    def ensure_lock(self, on_lock: Callable[[Lock], None]) -> Lock:
        """Return this kernel's lock; without one, lock first and tell `on_lock`.

        Raises:
            StaleLock: this kernel had a lock and lost it.
        """
        held = self.locked()
        if held is None:
            self._held.refuse_to_wander()
            held = self.lock()
            on_lock(held)
        return held

    def known_specs(self) -> dict[str, NodeSpec] | None:
        """Return the node classes of the locked ComfyServer; None if none is known to be locked.

        Of the lock itself nobody is asked, so this is for what may be left out.
        """
        json = self._held.lock
        if json is None:
            return None
        try:
            return self.node_specs(Lock.from_json(json, new=False, home=self))
        except ComfyLockError:
            return None

    def node_specs(self, lock: Lock) -> dict[str, NodeSpec]:
        """Return the node classes of the ComfyServer of `lock`, which is held; asked for once."""
        key = (lock.comfy_id, lock.fence)
        if self._specs is None or self._specs[0] != key:
            info = self._call(lambda _: self._client.object_info(self._link.hello()))
            self._specs = (key, node_specs(info))
        return self._specs[1]

    def upload(self, lock: Lock, name: str, content: bytes) -> str:
        """Put a file among the inputs of the ComfyServer of `lock`, once; return its name there."""
        key = (lock.comfy_id, hashlib.sha256(content).hexdigest())
        if key not in self._uploaded:
            self._uploaded[key] = self._call(
                lambda _: self._client.upload(self._link.hello(), name, content)
            )
        return self._uploaded[key]

    def view(self, query: str) -> bytes:
        """Return a file that this kernel may see: a result of its own, an input.

        Raises:
            UnknownFile: there is none, or it is not for this kernel to see.
        """
        return self._call(lambda _: self._client.view(self._link.hello(), query))

    # -- tasks ----------------------------------------------------------------------------------

    def submit(
        self,
        prompt: Mapping[str, Any],
        *,
        extra_data: Mapping[str, Any] | None = None,
        on_lock: Callable[[Lock], None],
    ) -> Task:
        """Send `prompt` under this kernel's lock; without one, lock first and tell `on_lock`.

        Raises:
            StaleLock: this kernel had a lock and lost it; nothing was sent and nothing locked.
            PromptRejected: the ComfyServer refused it.
        """

        def send(credential: str) -> TaskJson:
            return self._client.submit(credential, prompt, extra_data)

        try:
            json = self._call(send)
        except StaleLock:
            self._held.told()
            raise
        except NoLock:
            self._held.refuse_to_wander()
            on_lock(self.lock())
            json = self._call(send)
        return self._book.adopt(json).sent(prompt)

    def send(self, prompt: Mapping[str, Any], *, task_id: str, comfy_id: str) -> Task:
        """Send `prompt` as the task `task_id`, to `comfy_id` or nowhere; locks nothing.

        When the answer was lost, sending it again under the same id runs nothing twice.

        Raises:
            NoLock, StaleLock, OtherLock: `comfy_id` is not locked; nothing was sent.
            PromptRejected: the ComfyServer refused it.
        """
        json = self._call(
            lambda me: self._client.submit(me, prompt, None, task_id=task_id, comfy_id=comfy_id)
        )
        return self._book.adopt(json).sent(prompt)

    def tasks(self, *, earlier: bool = False) -> Tasks:
        """Return this kernel's tasks, newest first; `earlier`: and its notebook's former ones."""
        found = self._call(lambda me: self._client.tasks(me, earlier=earlier))
        return newest_first([self._book.adopt(each) for each in found])

    def task(self, task_id: str) -> Task:
        """Return one of this kernel's tasks.

        Raises:
            UnknownTask: it has none with that id.
        """
        return self._book.adopt(self._call(lambda me: self._client.task(me, task_id)))

    def refresh(self, task: Task) -> None:
        """Ask for the newest state of `task`; one that the server does not know is lost."""
        try:
            json = self._call(lambda me: self._client.task(me, task.id))
        except UnknownTask:
            reason = f"the Jupyter server does not know it any more: {_FORGOTTEN}"
            json = {**task.json, "state": TaskState.LOST.value, "reason": reason}
        self._book.tell(json)

    def cancel(self, task: Task) -> None:
        """Ask for the end of `task`."""
        self._book.tell(self._call(lambda me: self._client.cancel(me, task.id)))

    def fetch(self, path: str) -> bytes:
        """Return the bytes at `path` of the Jupyter server."""
        return self._call(lambda me: self._client.file(me, path))

    def preview(self, task: Task) -> bytes:
        """Return the bytes of the newest preview of `task`.

        Raises:
            UnknownFile: there is none, or none any more.
        """
        return self._call(lambda me: self._client.preview(me, task.id))

    # -- the end --------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop listening and, if attached, leave. A managed kernel's end is seen by its server."""
        self._events.stop()
        self._link.leave()

    # -- hearing --------------------------------------------------------------------------------

    def _open_events(self) -> AbstractContextManager[Iterator[ServerSentEvent]]:
        return self._link.events()

    def _hear(self, event: str, data: Mapping[str, Any]) -> None:
        if event == "task":
            self._book.tell(data)  # type: ignore[arg-type]
        elif event == "lock":
            self._hear_lock(data)
        elif event == "snapshot":
            self._hear_lock(data)
            tasks = data.get("tasks") or []
            for json in tasks:
                self._book.tell(json)
            # Who waits for one that the snapshot left out has to hear of its end, too.
            for task in self._book.pending_without(json["task_id"] for json in tasks):
                self.refresh(task)

    def _hear_lock(self, data: Mapping[str, Any]) -> None:
        lock, reason = data.get("lock"), data.get("reason")
        self._held.hear(lock or None, str(reason) if reason else None)


_current: Session | None = None
_making = threading.Lock()


def current() -> Session:
    """Return this process's session; make it at the first call, and again in a fork.

    Raises:
        NoServerExtension: this process belongs to no Jupyter server.
    """
    global _current
    with _making:
        if _current is None:
            _current = Session(find_place())
        return _current


def use(session: Session | None) -> None:
    """Make `session` this process's; None forgets the one there is, without leaving."""
    global _current
    with _making:
        _current = session


@atexit.register
def _leave() -> None:
    if _current is not None:
        _current.close()


def _after_fork() -> None:
    # The parent's threads are not here, its locks may be held for ever, and its sockets are its.
    global _current, _making
    _current, _making = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
