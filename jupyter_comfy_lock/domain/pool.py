"""The pool: which ComfyServers there are, how they do, and which one to offer first."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from jupyter_comfy_lock.domain.line import Waiter, by_comfy, line, waiter_to_json
from jupyter_comfy_lock.domain.lock import ComfyId, HolderId, Lock


@dataclass(frozen=True, slots=True, kw_only=True)
class ComfyServer:
    """One ComfyUI instance."""

    comfy_id: ComfyId
    #: Base URL without a slash at its end.
    url: str
    #: Sent with every request and WebSocket handshake; may hold secrets, so never shown.
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    labels: frozenset[str] = frozenset()
    #: How many holders may share it.
    capacity: int = 4


class Health(StrEnum):
    """What came of the last look at a ComfyServer."""

    UNKNOWN = "unknown"  #: not looked yet
    OK = "ok"
    UNREACHABLE = "unreachable"
    UNAUTHORIZED = "unauthorized"
    NOT_COMFYUI = "not_comfyui"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComfyStatus:
    """A ComfyServer as it was last seen."""

    health: Health = Health.UNKNOWN
    #: Why it is not ok, for people.
    reason: str | None = None
    version: str | None = None
    device: str | None = None
    #: Bytes of device memory.
    memory_free: int | None = None
    #: Prompts waiting and running, anybody's.
    queue_remaining: int | None = None
    epoch: int = 1
    #: When it was last seen to have been restarted, in seconds since the epoch; for people.
    restarted_at: float | None = None

    def restarted(self, at: float) -> "ComfyStatus":
        """Return how it stands after a restart: a new life, in which it has none of our prompts."""
        return replace(self, epoch=self.epoch + 1, restarted_at=at)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComfyChange:
    """That a ComfyServer is not what it was: it was restarted, or has another version."""

    #: Seconds since the epoch at which it was noticed.
    at: float
    #: A phrase that goes on after the ComfyServer's id.
    what: str


class Access(StrEnum):
    """Whether an operator lets holders have a ComfyServer."""

    OPEN = "open"
    DRAINING = "draining"  #: no new locks; those that are held go on
    DISABLED = "disabled"  #: no locks at all


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintenance:
    """What an operator has decided about a ComfyServer."""

    access: Access = Access.OPEN
    by: str = ""
    why: str = ""
    #: Seconds since the epoch; None where nobody has decided anything.
    since: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupancy:
    """Who has which ComfyServer, and who waits for one."""

    locks: Mapping[ComfyId, Collection[Lock]] = field(default_factory=dict)
    waiters: tuple[Waiter, ...] = ()
    maintenance: Mapping[ComfyId, Maintenance] = field(default_factory=dict)

    def of(self, comfy_id: ComfyId) -> Maintenance:
        """Return what an operator has decided about `comfy_id`."""
        return self.maintenance.get(comfy_id, Maintenance())


def occupancy(
    locks: Iterable[Lock],
    waiters: Iterable[Waiter] = (),
    maintenance: Mapping[ComfyId, Maintenance] | None = None,
) -> Occupancy:
    """Return an Occupancy of the active `locks`."""
    return Occupancy(locks=by_comfy(locks), waiters=tuple(waiters), maintenance=maintenance or {})


def ranked(
    pool: Iterable[ComfyServer],
    status: Mapping[ComfyId, ComfyStatus],
    occupied: Occupancy,
    holder_id: HolderId,
    labels: frozenset[str] = frozenset(),
    last_used: Mapping[ComfyId, int] | None = None,
) -> list[ComfyServer]:
    """Return the ComfyServers that would do for `holder_id`, the best first.

    Only healthy, open ones that carry all `labels`. The one it has comes first; then those with
    most free places, with the shortest queue, not used for longest (`last_used` is the newest
    fence of each), in the order of the pool. Whether there is room at all is for the store to say.
    """
    fences = last_used or {}

    def key(place_and_comfy: tuple[int, ComfyServer]) -> tuple[bool, int, int, int, int]:
        number, comfy = place_and_comfy
        holders = {lock.holder_id for lock in occupied.locks.get(comfy.comfy_id, ())}
        queue = line(comfy.comfy_id, occupied.waiters, occupied.locks)
        return (
            holder_id not in holders,
            len(holders) + len(queue) - comfy.capacity,
            status[comfy.comfy_id].queue_remaining or 0,
            fences.get(comfy.comfy_id, 0),
            number,
        )

    usable = [
        (number, comfy)
        for number, comfy in enumerate(pool)
        if status.get(comfy.comfy_id, ComfyStatus()).health is Health.OK
        and occupied.of(comfy.comfy_id).access is Access.OPEN
        and labels <= comfy.labels
    ]
    return [comfy for _, comfy in sorted(usable, key=key)]


def comfy_to_json(
    comfy: ComfyServer, status: ComfyStatus, occupied: Occupancy, mine: HolderId | None
) -> dict[str, Any]:
    """Return a ComfyServer with its holders as REST and events show it. Headers stay out (R10)."""
    locks = sorted(occupied.locks.get(comfy.comfy_id, ()), key=lambda lock: lock.fence)
    decided = occupied.of(comfy.comfy_id)
    return {
        "comfy_id": comfy.comfy_id,
        "url": comfy.url,
        "labels": sorted(comfy.labels),
        "capacity": comfy.capacity,
        "health": status.health.value,
        "reason": status.reason,
        "version": status.version,
        "device": status.device,
        "memory_free": status.memory_free,
        "queue_remaining": status.queue_remaining,
        "state": decided.access.value,
        "state_by": decided.by or None,
        "state_why": decided.why or None,
        "state_since": decided.since,
        "holders": [holder_to_json(lock) for lock in locks],
        "waiting": [
            waiter_to_json(each, occupied.waiters, occupied.locks)
            for each in line(comfy.comfy_id, occupied.waiters, occupied.locks)
        ],
        "mine": any(lock.holder_id == mine for lock in locks),
    }


def holder_to_json(lock: Lock) -> dict[str, Any]:
    """Return who holds a ComfyServer, how and since when (seconds since the epoch)."""
    return {
        "holder_id": lock.holder_id,
        "name": lock.name,
        "mode": lock.mode.value,
        "since": lock.granted_at,
        "state": lock.state.value,
    }
