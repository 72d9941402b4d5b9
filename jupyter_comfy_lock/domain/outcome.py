"""What the store answers about locks and nodes."""

from collections.abc import Mapping
from dataclasses import dataclass

from jupyter_comfy_lock.domain.line import Waiter
from jupyter_comfy_lock.domain.lock import Ending, HolderId, Lock, LockId, Mode
from jupyter_comfy_lock.domain.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A request that has led to a lock."""

    lock: Lock
    #: The holder had this very lock already (R1).
    had_it: bool = False
    #: The mode in which it held the same ComfyServer just before.
    was: Mode | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A request that stands in line."""

    waiter: Waiter


@dataclass(frozen=True, slots=True, kw_only=True)
class Over:
    """A request that leads to no lock any more; or the lock that it led to is let go of."""

    ending: Ending
    #: The lock that it was.
    lock: Lock | None = None


Outcome = Grant | Waiting | Over


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What has changed for the holders of a node."""

    #: Up to where this goes.
    rev: int
    #: What became of each request that has changed, and whose it is.
    outcomes: Mapping[LockId, tuple[HolderId, Outcome]]


class LeaseLost(Exception):
    """The node was ended before it renewed: its locks are gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """What nodes that were not renewed in time left behind."""

    locks: tuple[Lock, ...]
    #: Tasks of theirs that have not ended and are the caller's now, and nobody else's; also those
    #: that earlier calls have told of.
    tasks: tuple[Task, ...]
