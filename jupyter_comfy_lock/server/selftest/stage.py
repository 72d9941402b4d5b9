"""Where trials are done: throw-away holders, places that are free, and who makes order after."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from jupyter_comfy_lock.domain.lock import Mode
from jupyter_comfy_lock.domain.pool import Access, Health
from jupyter_comfy_lock.domain.selftest import Place
from jupyter_comfy_lock.server.facts import gather
from jupyter_comfy_lock.server.selftest.actor import Actor, Broken, CannotTry, new_actor
from jupyter_comfy_lock.server.services import Services

if TYPE_CHECKING:
    import aiohttp


class Stage:
    """One trial's holders; all of them leave at its end, however it ends."""

    def __init__(self, services: Services, http: "aiohttp.ClientSession", base: str) -> None:
        self.services = services
        self._http = http
        self._base = base
        self._actors: list[Actor] = []

    async def actor(self, name: str) -> Actor:
        """Add a holder."""
        actor = await new_actor(self.services, self._http, self._base, f"self-test {name}")
        self._actors.append(actor)
        return actor

    async def places(self) -> list[Place]:
        """Return where there is room for shared locks without being in anybody's way."""
        facts = await gather(self.services)
        found = []
        for each in facts.seen:
            comfy_id = each.comfy.comfy_id
            locks = facts.occupied.locks.get(comfy_id, ())
            alone = any(lock.mode is Mode.EXCLUSIVE for lock in locks)
            waited_for = any(comfy_id in waiter.wants for waiter in facts.occupied.waiters)
            is_open = facts.occupied.of(comfy_id).access is Access.OPEN
            free = each.comfy.capacity - len({lock.holder_id for lock in locks})
            if each.status.health is Health.OK and is_open and not alone and not waited_for:
                place = Place(comfy_id=comfy_id, free=free, queue=len(each.prompts))
                found.append(place)
        return [place for place in found if place.free > 0]

    async def place(self, *, for_prompts: bool = False) -> str:
        """Return a ComfyServer that one holder can share.

        Raises:
            CannotTry: there is none.
        """
        return (await self.two(for_prompts=for_prompts))[0]

    async def two(self, *, for_prompts: bool = False) -> tuple[str, str | None]:
        """Return where two holders can be: different ComfyServers if possible, else the same.

        None for the second one if there is one place only. `for_prompts`: where a prompt would
        keep nobody waiting, and would not wait itself.

        Raises:
            CannotTry: there is no place at all.
        """
        places = await self.places()
        if not places:
            msg = (
                "no ComfyServer has a free place for a shared lock: each is held exclusively, "
                "full, waited for, closed or away"
            )
            raise CannotTry(msg)
        idle = [place for place in places if place.queue == 0 or not for_prompts]
        if not idle:
            busy = ", ".join(f"{each.comfy_id} ({each.queue})" for each in places)
            msg = f"each ComfyServer with a free place has prompts in its queue: {busy}"
            raise CannotTry(msg)
        first = idle[0]
        if len(idle) > 1:
            return first.comfy_id, idle[1].comfy_id
        return first.comfy_id, first.comfy_id if first.free > 1 else None

    async def clear(self) -> None:
        """Have all holders leave.

        Raises:
            Broken: something is left of one.
        """
        left = await asyncio.gather(*(actor.leave() for actor in self._actors))
        told = [f"{x.name}: {what}" for x, what in zip(self._actors, left, strict=True) if what]
        if told:
            msg = f"left behind: {'; '.join(told)}"
            raise Broken(msg)


@asynccontextmanager
async def stage(
    services: Services, http: "aiohttp.ClientSession", base: str
) -> AsyncIterator[Stage]:
    """Open a stage, and clear it in the end, also when the trial was broken off."""
    made = Stage(services, http, base)
    try:
        yield made
    except BaseException:
        clearing = asyncio.ensure_future(made.clear())
        # Whoever breaks it off once more does not break this off.
        await asyncio.wait([clearing])
        if not clearing.cancelled():
            clearing.exception()
        raise
    await made.clear()
