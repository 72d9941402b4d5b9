"""What a holder asks for, and what comes of it."""

from dataclasses import dataclass
from typing import Literal

from jupyter_comfy_lock.domain.lock import ComfyId, HolderId, Lock, LockId, Mode

ChosenBy = Literal["name", "pin", "best"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a holder asks for."""

    holder_id: HolderId
    #: What people call it.
    name: str
    #: The ComfyServer it names; None: the pin, or else the best one.
    comfy_id: ComfyId | None = None
    #: The ComfyServer that its notebook is pinned to.
    pin: ComfyId | None = None
    mode: Mode = Mode.SHARED
    #: Whether a lock that it has on the same ComfyServer will do in whatever mode it is.
    any_mode: bool = False
    #: For how many seconds it waits in line; None: for ever.
    wait_s: float | None = 0.0
    #: What the ComfyServer must have, when it is not named.
    labels: frozenset[str] = frozenset()
    #: The same for the same request, asked again.
    request_id: LockId | None = None

    @property
    def named(self) -> ComfyId | None:
        """The one ComfyServer that will do."""
        return self.comfy_id or (None if self.labels else self.pin)

    @property
    def waits(self) -> bool:
        """Whether it stands in line if need be."""
        return self.wait_s != 0

    @property
    def chosen_by(self) -> ChosenBy:
        """What decides which ComfyServer it is."""
        return "name" if self.comfy_id else "pin" if self.named else "best"


@dataclass(frozen=True, slots=True, kw_only=True)
class Locked:
    """What came of a wish."""

    lock: Lock
    chosen_by: ChosenBy
    had_it: bool = False
    #: The mode in which the holder had the same ComfyServer just before.
    was: Mode | None = None
    #: Prompts in the queue of a ComfyServer that is locked exclusively which came past the gateway.
    foreign_prompts: int = 0
