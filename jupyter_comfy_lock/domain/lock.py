"""The lock: this kernel uses that ComfyServer. Its record, and its whole life as one table."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NewType

ComfyId = NewType("ComfyId", str)
#: `<kernel id>.<incarnation>`: one process life of one kernel.
HolderId = NewType("HolderId", str)


class Mode(StrEnum):
    """How a lock shares its ComfyServer with others."""

    SHARED = "shared"  #: with as many holders as the ComfyServer has capacity
    EXCLUSIVE = "exclusive"  #: with nobody


class LockState(StrEnum):
    """Whether the holder may send prompts."""

    HELD = "held"
    ENDED = "ended"


class LockEvent(StrEnum):
    """What can happen to a lock."""

    RELEASED = "released"  #: the user let go
    HOLDER_GONE = "holder_gone"  #: the kernel was shut down, restarted or died
    EXPIRED = "expired"  #: its node did not renew in time


#: A lock ends once; letting go of an ended one is harmless, because a restart, a release and an
#: expiry do meet in practice.
TRANSITIONS: Mapping[LockState, Mapping[LockEvent, LockState]] = {
    LockState.HELD: dict.fromkeys(LockEvent, LockState.ENDED),
    LockState.ENDED: dict.fromkeys(LockEvent, LockState.ENDED),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """The right of one holder to use one ComfyServer."""

    comfy_id: ComfyId
    holder_id: HolderId
    #: The node (Jupyter server process) that renews it.
    node_id: str
    mode: Mode
    #: Strictly rising per ComfyServer and never reused.
    fence: int
    #: Seconds since the epoch, wall clock: for people only, nothing is decided by it.
    granted_at: float
    #: What people call the kernel: its notebook's path where known, else "".
    name: str = ""
    state: LockState = LockState.HELD


def advance(lock: Lock, event: LockEvent) -> Lock:
    """Return `lock` as it is after `event`."""
    return replace(lock, state=TRANSITIONS[lock.state][event])


def refusal(
    mode: Mode, capacity: int, holders: tuple[Lock, ...], mine: HolderId | None = None
) -> str | None:
    """Why a lock of `mode` does not fit beside `holders`; None if it does.

    `capacity` counts holders. A lock of `mine` among the holders does not stand in its own way.
    """
    others = tuple(each for each in holders if each.holder_id != mine)
    exclusive = next((each for each in others if each.mode is Mode.EXCLUSIVE), None)
    if exclusive is not None:
        return f"{who(exclusive)} holds it exclusively"
    if mode is Mode.EXCLUSIVE and others:
        return "an exclusive lock was asked for and it is held by " + ", ".join(map(who, others))
    if len(others) >= capacity:
        return f"all {capacity} places are held, by " + ", ".join(map(who, others))
    return None


def who(lock: Lock) -> str:
    """What to call the holder of `lock` in a sentence."""
    return lock.name or f"kernel {lock.holder_id}"


def lock_to_json(lock: Lock, *, url: str, epoch: int) -> dict[str, Any]:
    """Return the lock as REST and events show it."""
    return {
        "comfy_id": lock.comfy_id,
        "url": url,
        "holder_id": lock.holder_id,
        "name": lock.name,
        "mode": lock.mode.value,
        "fence": lock.fence,
        "epoch": epoch,
        "granted_at": lock.granted_at,
    }
