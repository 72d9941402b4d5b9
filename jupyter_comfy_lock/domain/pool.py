"""The pool: which ComfyServers there are, how they do, and which one to offer first."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from jupyter_comfy_lock.domain.lock import ComfyId, HolderId, Lock, Mode, refusal

#: The first ComfyUI that can interrupt one prompt and takes the prompt id we give it.
MINIMUM_VERSION = (0, 3, 57)


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


def version_number(text: str | None) -> tuple[int, ...]:
    """Return "0.3.75" or "v0.3.75-4-gabc" as (0, 3, 75); () for what is no version."""
    number: list[int] = []
    for part in (text or "").removeprefix("v").split("-")[0].split("."):
        if not part.isdigit():
            break
        number.append(int(part))
    return tuple(number)


def best(
    pool: Iterable[ComfyServer],
    status: Mapping[ComfyId, ComfyStatus],
    locks: Iterable[Lock],
    mode: Mode,
    holder_id: HolderId,
) -> ComfyServer | None:
    """Return the ComfyServer to offer to `holder_id`: the one it has, else the least used.

    Least used is by number of holders, then length of the queue, then place in the pool.
    Only healthy ones with room are offered; None if there is none.
    """
    held: dict[ComfyId, list[Lock]] = {}
    for lock in locks:
        held.setdefault(lock.comfy_id, []).append(lock)
    candidates = [
        (
            all(lock.holder_id != holder_id for lock in holders),
            len(holders),
            seen.queue_remaining or 0,
            place,
            comfy,
        )
        for place, comfy in enumerate(pool)
        if (seen := status.get(comfy.comfy_id, ComfyStatus())).health is Health.OK
        and refusal(
            mode,
            comfy.capacity,
            holders := tuple(held.get(comfy.comfy_id, ())),
            holder_id,
        )
        is None
    ]
    return min(candidates, key=lambda each: each[:4])[4] if candidates else None


def comfy_to_json(
    comfy: ComfyServer, status: ComfyStatus, locks: Iterable[Lock], mine: HolderId | None
) -> dict[str, Any]:
    """Return a ComfyServer with its holders as REST and events show it. Headers stay out (R10)."""
    holders = sorted(
        (lock for lock in locks if lock.comfy_id == comfy.comfy_id), key=lambda lock: lock.fence
    )
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
        "holders": [holder_to_json(lock) for lock in holders],
        "mine": any(lock.holder_id == mine for lock in holders),
    }


def holder_to_json(lock: Lock) -> dict[str, Any]:
    """Return who holds a ComfyServer, how and since when (seconds since the epoch)."""
    return {
        "holder_id": lock.holder_id,
        "name": lock.name,
        "mode": lock.mode.value,
        "since": lock.granted_at,
    }
