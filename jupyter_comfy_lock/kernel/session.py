"""This process at its Jupyter server: who it is there, what it holds, what it hears."""

import atexit
import os
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import httpx
from httpx_sse import ServerSentEvent

from jupyter_comfy_lock.domain.errors import (
    ComfyLockError,
    NoLock,
    StaleLock,
    UnknownHolder,
    UnknownTask,
    WrongCredential,
)
from jupyter_comfy_lock.domain.task import TaskState
from jupyter_comfy_lock.kernel.client import ComfyClient
from jupyter_comfy_lock.kernel.connection import Place, find_place, own_name
from jupyter_comfy_lock.kernel.events import EventThread
from jupyter_comfy_lock.kernel.task import Task
from jupyter_comfy_lock.kernel.views import Comfy, Lock, SecretUrl, Servers, Tasks, newest_first
from jupyter_comfy_lock.kernel.wire import HelloJson, LockJson, TaskJson

T = TypeVar("T")

#: News of tasks that nobody here has asked for yet: an event can overtake the reply to a submit.
UNCLAIMED = 256

_FORGOTTEN = "the Jupyter server was restarted, or this kernel was away for too long"


class Session:
    """All that this process has with its Jupyter server. Thread-safe; one per process.

    Nothing is sent before the first call. Every method can raise NoServerExtension and
    WrongCredential.
    """

    def __init__(self, place: Place, *, transport: httpx.BaseTransport | None = None) -> None:
        self.place = place
        self._pid = os.getpid()
        self._instance = str(uuid.uuid4())
        self._attached_id = f"attached-{uuid.uuid4()}"
        self._transport = transport
        self._client = ComfyClient(place, transport=transport)
        self._greeting = threading.Lock()
        self._hello: HelloJson | None = None
        self._book = threading.RLock()
        self._tasks: WeakValueDictionary[str, Task] = WeakValueDictionary()
        self._unclaimed: OrderedDict[str, TaskJson] = OrderedDict()
        #: The lock that this kernel knows to have; the server's word counts, this is for messages.
        self._held: LockJson | None = None
        self._gone_because: str | None = None
        #: The last lock that was released on purpose.
        self._let_go: tuple[str, int] | None = None
        self._events = EventThread(self._open_events, self._hear)

    # -- who we are -----------------------------------------------------------------------------

    @property
    def live(self) -> bool:
        """Whether events arrive."""
        return self._events.live

    @property
    def kernel(self) -> str:
        """What to call this kernel in a message."""
        if self._hello is None:
            return self.place.kernel_id or self._attached_id
        holder = self._hello["holder"]
        return holder["name"] or holder["holder_id"]

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
        hello = self._greet()
        return SecretUrl(self._client.gateway(hello), hello["credential"])

    # -- the pool and the lock ------------------------------------------------------------------

    def servers(self) -> Servers:
        """Return the pool."""
        return Servers([Comfy.from_json(each) for each in self._call(self._client.pool)])

    def lock(self, comfy_id: str | None = None, *, mode: str = "shared") -> Lock:
        """Lock `comfy_id`, or what the notebook is pinned to, or the best free ComfyServer.

        Raises:
            UnknownComfy, ComfyUnreachable, NotComfyUI, LockRefused, EmptyPool,
            ServerConsistencyError: nothing was locked, and what was held is held still.
        """
        answer, new = self._call(lambda me: self._client.lock(me, comfy_id, mode))
        self._hold(answer["lock"])
        return Lock.from_json(answer["lock"], chosen_by=answer["chosen_by"], new=new)

    def locked(self) -> Lock | None:
        """Return the lock that this kernel has now, by the server's word."""
        locks = self._call(self._client.locks)
        return Lock.from_json(locks[0], new=False) if locks else None

    def release(self) -> str | None:
        """Release; return the id of the ComfyServer that was held, None if none was."""
        released = self._call(self._client.release)
        with self._book:
            self._gone_because = None
            self._let_go = _which(released)
            if released is None or _which(self._held) == self._let_go:
                self._held = None
        return released["comfy_id"] if released else None

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
        except NoLock:
            self._refuse_to_wander()
            on_lock(self.lock())
            json = self._call(send)
        return self._adopt(json)

    def tasks(self) -> Tasks:
        """Return this kernel's tasks, newest first."""
        return newest_first([self._adopt(each) for each in self._call(self._client.tasks)])

    def task(self, task_id: str) -> Task:
        """Return one of this kernel's tasks.

        Raises:
            UnknownTask: it has none with that id.
        """
        return self._adopt(self._call(lambda me: self._client.task(me, task_id)))

    def refresh(self, task: Task) -> None:
        """Ask for the newest state of `task`; one that the server does not know is lost."""
        try:
            json = self._call(lambda me: self._client.task(me, task.id))
        except UnknownTask:
            reason = f"the Jupyter server does not know it any more: {_FORGOTTEN}"
            json = {**task.json, "state": TaskState.LOST.value, "reason": reason}
        self._tell(json)

    def cancel(self, task: Task) -> None:
        """Ask for the end of `task`."""
        self._tell(self._call(lambda me: self._client.cancel(me, task.id)))

    def fetch(self, path: str) -> bytes:
        """Return the bytes at `path` of the Jupyter server."""
        return self._call(lambda me: self._client.file(me, path))

    # -- the end --------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop listening and, if attached, leave. A managed kernel's end is seen by its server."""
        self._events.stop()
        if self._hello is not None and self.place.kind == "attached" and self._is_mine():
            with suppress(ComfyLockError):
                self._client.leave(self._hello["credential"])

    def _is_mine(self) -> bool:
        return self._pid == os.getpid()

    # -- saying hello ---------------------------------------------------------------------------

    def _call(self, request: Callable[[str], T]) -> T:
        """Do `request` with this kernel's credential.

        A refused credential means that nothing was done, so every request may be repeated once.
        """
        if not self._is_mine():
            msg = (
                f"This belongs to process {self._pid}, of which this process is a fork. Use the "
                "module's functions here; they make this process a holder of its own."
            )
            raise ComfyLockError(msg)
        credential = self._greet()["credential"]
        try:
            return request(credential)
        except UnknownHolder:
            return request(self._greet(refused=credential)["credential"])

    def _greet(self, *, refused: str | None = None) -> HelloJson:
        """Return the answer to our hello; say it if it was not said, or if `refused` came of it."""
        with self._greeting:
            if self._hello is None or self._hello["credential"] == refused:
                if refused is not None:
                    self._gone_because = _FORGOTTEN
                self._hello = self._say_hello()
                self._events.start()
            return self._hello

    def _say_hello(self) -> HelloJson:
        try:
            return self._hello_to(self._client)
        except (UnknownHolder, WrongCredential):
            # Started inside the Jupyter server but not by its kernel manager, as nbconvert
            # does there: the server does not know the kernel, but its user does.
            if self.place.kernel_id is None or not self.place.token:
                raise
            client = ComfyClient(self.place.attached(), transport=self._transport)
            hello = self._hello_to(client)
            self._client, self.place = client, client.place
            return hello

    def _hello_to(self, client: ComfyClient) -> HelloJson:
        return client.hello(
            self._instance,
            kernel_id=client.place.kernel_id or self._attached_id,
            name=own_name(),
        )

    # -- hearing --------------------------------------------------------------------------------

    @contextmanager
    def _open_events(self) -> Iterator[Iterator[ServerSentEvent]]:
        credential = self._greet()["credential"]
        try:
            with self._client.events(credential) as events:
                yield events
        except UnknownHolder:
            self._greet(refused=credential)
            raise

    def _hear(self, event: str, data: Mapping[str, Any]) -> None:
        if event == "task":
            self._tell(data)  # type: ignore[arg-type]
        elif event == "lock":
            self._hear_lock(data)
        elif event == "snapshot":
            self._hear_lock(data)
            for json in data.get("tasks") or []:
                self._tell(json)
            self._look_for({json["task_id"] for json in data.get("tasks") or []})

    def _hear_lock(self, data: Mapping[str, Any]) -> None:
        lock = data.get("lock")
        with self._book:
            # The news of a lock can come when it has been released already.
            if lock and _which(lock) != self._let_go:
                self._hold(lock)
            elif not lock and data.get("reason"):
                self._gone_because = str(data["reason"])

    def _look_for(self, told: set[str]) -> None:
        """Ask for pending tasks that the snapshot left out, so that who waits hears their end."""
        with self._book:
            left_out = [t for t in self._tasks.values() if not t.ended and t.id not in told]
        for task in left_out:
            self.refresh(task)

    def _tell(self, json: TaskJson) -> None:
        with self._book:
            task = self._tasks.get(json["task_id"])
            if task is not None:
                task.hear(json)
                return
            self._unclaimed[json["task_id"]] = json
            self._unclaimed.move_to_end(json["task_id"])
            while len(self._unclaimed) > UNCLAIMED:
                self._unclaimed.popitem(last=False)

    def _adopt(self, json: TaskJson) -> Task:
        """Return the one Task object of `json`, as new as anything heard of it."""
        with self._book:
            task = self._tasks.get(json["task_id"])
            if task is None:
                task = self._tasks[json["task_id"]] = Task(self, json)
            else:
                task.hear(json)
            heard = self._unclaimed.pop(json["task_id"], None)
            if heard is not None:
                task.hear(heard)
            return task

    # -- the lock, remembered -------------------------------------------------------------------

    def _hold(self, lock: LockJson) -> None:
        self._held, self._gone_because = lock, None

    def _refuse_to_wander(self) -> None:
        """Raise if a lock was lost: what to do about it is the user's to decide (R3)."""
        held = self._held
        if held is not None:
            why = self._gone_because or "the Jupyter server released it"
            raise StaleLock(held["comfy_id"], held["fence"], f"{why}; this prompt was not sent")


def _which(lock: LockJson | None) -> tuple[str, int] | None:
    return (lock["comfy_id"], lock["fence"]) if lock else None


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
