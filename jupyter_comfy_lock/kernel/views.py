"""What the API hands out besides tasks: ComfyServers, the lock, this kernel's standing."""

import html
import re
import textwrap
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import ClassVar, Protocol, overload

from jupyter_comfy_lock.domain.errors import ComfyLockError, UnknownComfy, UnknownTask
from jupyter_comfy_lock.kernel.bad_input import WrongType
from jupyter_comfy_lock.kernel.tables import Listing
from jupyter_comfy_lock.kernel.task import Task
from jupyter_comfy_lock.kernel.wire import ComfyHolderJson, ComfyJson, ComfyWaiterJson, LockJson

#: Eight digits of an id are enough to tell kernels apart in a table.
_UUID = re.compile(r"([0-9a-f]{8})(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_CHOSEN = {
    "pin": "which this notebook is pinned to",
    "best": "the best free ComfyServer",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ComfyHolder:
    """One of those who hold a ComfyServer; `since` in seconds since the epoch."""

    holder_id: str
    name: str
    mode: str
    since: float
    #: "held", or "draining" after it let go, until its prompts have left the ComfyServer.
    state: str = "held"

    @classmethod
    def from_json(cls, json: ComfyHolderJson) -> "ComfyHolder":
        """Return the holder of the wire."""
        return cls(
            holder_id=json["holder_id"],
            name=json["name"],
            mode=json["mode"],
            since=json["since"],
            state=json.get("state", "held"),
        )

    def __str__(self) -> str:
        draining = ", draining" if self.state == "draining" else ""
        return f"{_name(self)} ({_since(self)}{draining})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComfyWaiter:
    """One of those who wait for a ComfyServer; `since` in seconds since the epoch."""

    holder_id: str
    name: str
    mode: str
    since: float
    #: 1 for who is next.
    place: int

    @classmethod
    def from_json(cls, json: ComfyWaiterJson) -> "ComfyWaiter":
        """Return the waiter of the wire."""
        return cls(**{key: json[key] for key in cls.__slots__})  # type: ignore[literal-required]

    def __str__(self) -> str:
        return f"{self.place}. {_name(self)} ({_since(self)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comfy:
    """A ComfyServer as it was last seen. `memory_free` in bytes."""

    comfy_id: str
    url: str
    labels: tuple[str, ...]
    capacity: int
    health: str
    reason: str | None
    version: str | None
    device: str | None
    memory_free: int | None
    queue_remaining: int | None
    holders: tuple[ComfyHolder, ...]
    #: Whether this kernel holds it.
    mine: bool
    #: "open", or as an operator wants it: "draining" (no new locks) or "disabled".
    state: str = "open"
    state_by: str | None = None
    state_why: str | None = None
    #: Seconds since the epoch.
    state_since: float | None = None
    #: In the order of their turns.
    waiting: tuple[ComfyWaiter, ...] = ()

    @classmethod
    def from_json(cls, json: ComfyJson) -> "Comfy":
        """Return the ComfyServer of the wire."""
        known = {key: json.get(key) for key in cls.__slots__}
        known["labels"] = tuple(json["labels"])
        known["holders"] = tuple(map(ComfyHolder.from_json, json["holders"]))
        known["state"] = json.get("state") or "open"
        known["waiting"] = tuple(map(ComfyWaiter.from_json, json.get("waiting") or ()))
        return cls(**known)  # type: ignore[arg-type]

    @property
    def standing(self) -> str:
        """How it does, and who closed it if somebody did."""
        does = self.health + (f": {self.reason}" if self.reason else "")
        does = does.replace("_", " ")
        if self.state == "open":
            return does
        by = f" by {self.state_by}" if self.state_by else ""
        since = "" if self.state_since is None else f" ({ago(time.time() - self.state_since)})"
        why = f": {self.state_why}" if self.state_why else ""
        return f"{does}; {self.state}{by}{since}{why}"

    @property
    def free(self) -> int:
        """How many more kernels can share it."""
        if self.state != "open" or any(each.mode == "exclusive" for each in self.holders):
            return 0
        return max(0, self.capacity - len(self.holders))


class Servers(Listing[Comfy]):
    """The ComfyServers of the pool; `servers["gpu-1"]` finds one by its id."""

    columns: ClassVar = (
        *("", "id", "health", "ComfyUI", "device", "queue", "free"),
        *("held by", "waiting"),
    )
    nothing: ClassVar = (
        "No ComfyServer is configured: set c.ComfyLock.pool in jupyter_server_config.py."
    )

    def row(self, item: Comfy) -> tuple[str, ...]:
        """Return the cells of one ComfyServer."""
        queue = "" if item.queue_remaining is None else str(item.queue_remaining)
        memory = "" if item.memory_free is None else f", {item.memory_free / 2**30:.1f} GiB free"
        return (
            "●" if item.mine else "",
            item.comfy_id,
            item.standing,
            item.version or "",
            (item.device or "") + (memory if item.device else ""),
            queue,
            f"{item.free}/{item.capacity}",
            ", ".join(map(str, item.holders)),
            ", ".join(map(str, item.waiting)),
        )

    @overload
    def __getitem__(self, index: int) -> Comfy: ...

    @overload
    def __getitem__(self, index: slice) -> list[Comfy]: ...

    @overload
    def __getitem__(self, index: str) -> Comfy: ...

    def __getitem__(self, index: int | slice | str) -> Comfy | list[Comfy]:
        if not isinstance(index, str):
            return super().__getitem__(index)
        found = next((each for each in self if each.comfy_id == index), None)
        if found is None:
            raise UnknownComfy(index, [each.comfy_id for each in self])
        return found

    def _ipython_key_completions_(self) -> list[str]:
        return [each.comfy_id for each in self]


class Tasks(Listing[Task]):
    """Tasks of this kernel, newest first."""

    columns: ClassVar = ("id", "on", "state", "progress", "seconds", "files", "why")
    nothing: ClassVar = "This kernel has submitted no task."

    def named(self, beginning: object) -> Task:
        """Return the task whose id begins like that.

        Raises:
            UnknownTask: there is none, or several; the message has those that fit.
        """
        if not isinstance(beginning, str):
            msg = f"a task is named by its id (a str), not {type(beginning).__name__}"
            raise WrongType(msg)
        fit = [each for each in self if beginning and each.id.startswith(beginning)]
        if len(fit) != 1:
            raise UnknownTask(beginning, map(str, fit))
        return fit[0]

    def row(self, item: Task) -> tuple[str, ...]:
        """Return the cells of one task."""
        seconds = item.seconds
        error = item.error
        why = item.reason or (f"{error.exception_type}: {error.message}" if error else "")
        return (
            item.id,
            item.comfy_id,
            item.json["state"] + (" (cached)" if item.cached else ""),
            "" if item.ended else str(item.progress),
            "" if seconds is None else f"{seconds:.1f}",
            str(len(item.json.get("files") or [])),
            textwrap.shorten(why, 60, placeholder=" …"),
        )


class LockHome(Protocol):
    """What a lock needs of the session that it belongs to."""

    def has(self, lock: "Lock") -> bool:
        """Whether this kernel has that ComfyServer, as far as is known here."""

    def leave_block(self, lock: "Lock") -> None:
        """Undo what taking the lock did, if this kernel still holds that ComfyServer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """The right of this kernel to use one ComfyServer.

    `with comfy.lock(...):` gives it back at the end of the block, whatever ends the block. What
    this kernel had before the block it has after it.
    """

    comfy_id: str
    url: str
    mode: str
    #: Goes up with each lock of this ComfyServer.
    fence: int
    #: Seconds since the epoch.
    since: float
    #: Whether it was chosen by "name", as the notebook's "pin", or as the "best"; "" unknown.
    chosen_by: str = ""
    #: False where this kernel had the ComfyServer before it asked.
    new: bool = True
    #: The mode in which it had it; None where it had not.
    was: str | None = None
    #: When its ComfyUI was last seen to have been restarted since, in seconds since the epoch.
    restarted_at: float | None = None
    #: Of an exclusive lock: prompts of nobody here that were in its queue when it was got.
    foreign_prompts: int = 0
    _home: LockHome | None = field(default=None, repr=False, compare=False)

    @classmethod
    def from_json(
        cls,
        json: LockJson,
        *,
        chosen_by: str = "",
        new: bool = True,
        was: str | None = None,
        home: LockHome | None = None,
    ) -> "Lock":
        """Return the lock of the wire."""
        return cls(
            comfy_id=json["comfy_id"],
            url=json["url"],
            mode=json["mode"],
            fence=json["fence"],
            since=json["granted_at"],
            chosen_by=chosen_by,
            new=new,
            was=was,
            restarted_at=json.get("restarted_at"),
            foreign_prompts=json.get("foreign_prompts", 0),
            _home=home,
        )

    def sentence(self) -> str:
        """Say which ComfyServer was locked, and why that one."""
        exclusively = " exclusively" if self.mode == "exclusive" else ""
        if not self.new and self.was in (None, self.mode):
            return f"{self.comfy_id} is locked already{exclusively}."
        why = "" if self.chosen_by not in _CHOSEN else f", {_CHOSEN[self.chosen_by]}"
        before = "" if self.was is None else f"; it was {self.was} before"
        foreign = ""
        if self.foreign_prompts:
            many = "s" if self.foreign_prompts > 1 else ""
            foreign = f" {self.foreign_prompts} prompt{many} of others are in its queue."
        return f"Locked {self.comfy_id}{exclusively}{why}{before}.{foreign}"

    def __enter__(self) -> "Lock":
        """Begin a block that uses the lock.

        Raises:
            ComfyLockError: it has been given back or lost; a block needs a lock of its own.
        """
        if self._home is None or not self._home.has(self):
            msg = (
                f"This lock on {self.comfy_id} has been given back or lost. Take a new one for "
                f'the block: with comfy.lock("{self.comfy_id}"): …'
            )
            raise ComfyLockError(msg, comfy_id=self.comfy_id)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the block. A failure to give the lock back does not hide what ended the block."""
        home = self._home
        if home is None:
            return
        try:
            home.leave_block(self)
        except KeyboardInterrupt:
            # An impatient second Ctrl-C must not leave the lock behind.
            with suppress(ComfyLockError):
                home.leave_block(self)
            raise
        except ComfyLockError as failure:
            if error is None:
                raise
            error.add_note(f"The lock on {self.comfy_id} could not be given back: {failure}")

    def __repr__(self) -> str:
        # No fence and no time: a notebook run twice shows the same text twice.
        return f"Lock({self.comfy_id}, {self.mode})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How this kernel stands: who it is, what it holds, what it has running."""

    kernel: str
    server: str
    lock: Lock | None
    tasks: Tasks

    def __repr__(self) -> str:
        pending = sum(not each.ended for each in self.tasks)
        return f"{self._standing()}\n{len(self.tasks)} task(s), {pending} pending"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self._standing())}</p>{self.tasks._repr_html_()}"

    def _standing(self) -> str:
        held = "no lock" if self.lock is None else self.lock.comfy_id
        since = "" if self.lock is None else f" ({_state_of(self.lock)})"
        return f"{held}{since} · kernel {self.kernel} · Jupyter server {self.server}"


class SecretUrl(str):
    """A URL that opens the gateway as this kernel: usable as text, its key masked when shown."""

    __slots__ = ("_shown",)
    _shown: str

    def __new__(cls, url: str, secret: str) -> "SecretUrl":
        """Return `url`, in whose repr `secret` is masked."""
        made = super().__new__(cls, url)
        made._shown = url.replace(secret, "…") if secret else url
        return made

    def __repr__(self) -> str:
        return repr(self._shown)


def ago(seconds: float) -> str:
    """Return "12 s", "3 min" or "2 h" for a length of time."""
    seconds = max(0.0, seconds)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"


def _name(who: ComfyHolder | ComfyWaiter) -> str:
    return who.name or _UUID.sub(r"\1…", who.holder_id)


def _since(who: ComfyHolder | ComfyWaiter) -> str:
    exclusively = ", exclusively" if who.mode == "exclusive" else ""
    return f"{ago(time.time() - who.since)}{exclusively}"


def ago_since(lock: Lock) -> str:
    """Return for how long `lock` has been held."""
    return ago(time.time() - lock.since)


def _state_of(lock: Lock) -> str:
    told = f"{lock.mode}, {ago_since(lock)}"
    if lock.restarted_at is None:
        return told
    return f"{told}; ComfyUI was restarted {ago(time.time() - lock.restarted_at)} ago"


def newest_first(tasks: Sequence[Task]) -> Tasks:
    """Return the tasks as a table, the newest at its top."""
    return Tasks(sorted(tasks, key=lambda each: each.json["created_at"], reverse=True))
