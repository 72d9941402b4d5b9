"""`comfy.check()`: what is wrong in the pool, as whoever asks may know it."""

import asyncio
from dataclasses import dataclass
from typing import Any

from jupyter_comfy_lock.domain.check_pool import Finding, findings
from jupyter_comfy_lock.domain.lock import HolderId
from jupyter_comfy_lock.domain.pool_facts import Facts
from jupyter_comfy_lock.server.facts import gather
from jupyter_comfy_lock.server.services import Services

#: Seconds between two looks. What both have found is no step between two states: what ends or
#: begins does so faster.
_AGAIN_AFTER_S = 0.4

#: Why a kernel is not told everything, and who is.
_LEFT_OUT = (
    "Tasks and prompts of other kernels were not looked at: a kernel sees its own only.",
    "Who sends prompts past the gateway is not told to a kernel, only how many there are.",
    "The Jupyter user sees all: GET comfy-lock/api/check with the Jupyter server's token.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What came of a check."""

    #: Seconds since the epoch.
    at: float
    findings: tuple[Finding, ...]
    left_out: tuple[str, ...]
    facts: Facts

    def to_json(self) -> dict[str, Any]:
        """Return it as REST shows it."""
        occupied = self.facts.occupied
        return {
            "at": self.at,
            "looked_at": {
                "servers": len(self.facts.seen),
                "locks": sum(len(locks) for locks in occupied.locks.values()),
                "waiting": len(occupied.waiters),
                "tasks": len(self.facts.pending),
            },
            "findings": [each.to_json() for each in self.findings],
            "left_out": list(self.left_out),
        }


async def check(services: Services, holder_id: HolderId | None) -> Checked:
    """Look at all kernels and ComfyServers; for a holder at what it may see, None: at all.

    Raises:
        StoreUnavailable: locks and tasks cannot be read now.
    """
    first, facts = await _look(services, holder_id)
    found = first
    if first:
        await asyncio.sleep(_AGAIN_AFTER_S)
        again, facts = await _look(services, holder_id)
        keys = {each.key for each in first}
        found = [each for each in again if each.key in keys]
    return Checked(
        at=facts.now,
        findings=tuple(found),
        left_out=() if holder_id is None else _LEFT_OUT,
        facts=facts,
    )


async def _look(services: Services, holder_id: HolderId | None) -> tuple[list[Finding], Facts]:
    facts = await gather(services)
    if holder_id is not None:
        facts = facts.seen_by(holder_id)
    return findings(facts), facts
