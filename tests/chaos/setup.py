"""What a worker is to be. Imports little: whoever starts workers needs it too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jupyter_comfy_lock.domain.lock import ComfyId
from jupyter_comfy_lock.domain.pool import ComfyServer

WIDE = frozenset({"wide"})
#: Two that one alone can have, and three that three can share.
POOL = tuple(
    ComfyServer(
        comfy_id=ComfyId(name),
        url=f"http://{name}:8188",
        capacity=capacity,
        labels=WIDE if capacity > 1 else frozenset(),
    )
    for name, capacity in (("hot-1", 1), ("hot-2", 1), ("wide-1", 3), ("wide-2", 3), ("wide-3", 3))
)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What one worker is to be."""

    number: int
    #: How many times it was started before.
    life: int
    #: As the setting `c.ComfyLock.store`.
    store: str
    folder: Path
    seed: int
    ttl_s: float
    holders: int = 8
    #: Mean seconds between two things that a holder does, and two uses.
    pause_s: float = 1.0
    use_every_s: float = 0.03
    #: Whether others can see that its process has ended; else only that it does not renew.
    on_this_machine: bool = True
    #: Whether the store's wall clock is this process's, which can be stepped.
    own_clock: bool = True
    clock_offset_s: float = 0.0
    #: A control: forwards go out whatever the lease says.
    without_guard: bool = False
