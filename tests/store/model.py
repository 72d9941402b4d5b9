"""What the store promises, said once more and in other words: a second opinion.

The model does not foretell who is let in. It is told, and says whether that was right: each grant
in the order of fences, and that nobody is left waiting who should not be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field

SHARED, EXCLUSIVE = "shared", "exclusive"


@dataclass
class Has:
    """A lock that takes up room."""

    lock_id: str
    holder: str
    comfy: str
    mode: str
    node: str
    fence: int
    held: bool = True
    confirmed: bool = False


@dataclass
class Wants:
    """A place in line; places are in the order of the list."""

    lock_id: str
    holder: str
    mode: str
    comfys: list[str]
    node: str


@dataclass
class Event:
    """What the store did to a waiter: let it in, or sent it away at its turn."""

    lock_id: str
    #: None: it was sent away.
    comfy: str | None
    fence: int


@dataclass
class Model:
    capacity: dict[str, int]
    has: list[Has] = field(default_factory=list)
    wants: list[Wants] = field(default_factory=list)
    #: Pending tasks: id -> holder and ComfyServer.
    tasks: dict[str, tuple[str, str]] = field(default_factory=dict)
    closed: dict[str, str] = field(default_factory=dict)
    highest: int = 0

    # -- what there is -----------------------------------------------------------------------

    def held(self, holder: str) -> Has | None:
        return next((x for x in self.has if x.holder == holder and x.held), None)

    def waits(self, holder: str) -> Wants | None:
        return next((x for x in self.wants if x.holder == holder), None)

    def homes(self, holder: str) -> set[str]:
        return {comfy for who, comfy in self.tasks.values() if who == holder}

    def first(self, comfy: str) -> Wants | None:
        """Who is the next: whoever has it already, else whoever came first."""
        standing = [x for x in self.wants if comfy in x.comfys]
        insiders = [
            x for x in standing if (mine := self.held(x.holder)) is not None and mine.comfy == comfy
        ]
        return next(iter([*insiders, *standing]), None)

    def has_room(self, comfy: str, holder: str, mode: str) -> bool:
        others = [x for x in self.has if x.comfy == comfy and x.holder != holder]
        if mode == EXCLUSIVE:
            return not others
        if any(x.mode == EXCLUSIVE for x in others):
            return False
        return len({x.holder for x in others}) < self.capacity[comfy]

    def may_have(self, comfy: str, wish: Wants) -> bool:
        """Whether its turn has come, there."""
        return (
            comfy in wish.comfys
            and self.first(comfy) is wish
            and self.has_room(comfy, wish.holder, wish.mode)
        )

    # -- what happens ------------------------------------------------------------------------

    def let_go(self, lock: Has, *, confirmed: bool) -> None:
        lock.held, lock.confirmed = False, lock.confirmed or confirmed
        self.drain(lock.holder, lock.comfy)

    def drain(self, holder: str, comfy: str) -> None:
        if comfy in self.homes(holder):
            return
        self.has = [
            x
            for x in self.has
            if x.held or not x.confirmed or (x.holder, x.comfy) != (holder, comfy)
        ]

    def grant(self, wish: Wants, comfy: str, fence: int) -> None:
        assert fence > self.highest, "R7: fences rise"
        self.highest = fence
        for lock in [x for x in self.has if x.holder == wish.holder]:
            if lock.comfy == comfy and lock.node == wish.node:
                self.has.remove(lock)
            elif lock.held:
                self.let_go(lock, confirmed=False)
        self.wants.remove(wish)
        self.has.append(Has(wish.lock_id, wish.holder, comfy, wish.mode, wish.node, fence))

    def happens(self, event: Event) -> bool:
        """Let in or send away whom the store did, if that was right."""
        wish = next((x for x in self.wants if x.lock_id == event.lock_id), None)
        if wish is None:
            return False
        if event.comfy is None:
            for comfy in wish.comfys:
                if self.may_have(comfy, wish) and self.homes(wish.holder) - {comfy}:
                    self.wants.remove(wish)
                    return True
            return False
        better = wish.comfys[: wish.comfys.index(event.comfy)]
        if (
            not self.may_have(event.comfy, wish)
            or any(self.may_have(x, wish) for x in better)
            or self.homes(wish.holder) - {event.comfy}
        ):
            return False
        self.grant(wish, event.comfy, event.fence)
        return True

    def follow(self, steps: Iterable[Callable[[], None]], events: list[Event]) -> None:
        """Take each step, and see that all that the store did follows from them."""
        left = list(events)
        for step in steps:
            step()
            while left and self.happens(left[0]):
                left.pop(0)
        assert not left, f"nobody should have been let in or sent away like this: {left}"
        for comfy in self.capacity:
            first = self.first(comfy)
            assert first is None or not self.may_have(comfy, first), f"{first} waits for nothing"

    # -- what would happen -------------------------------------------------------------------

    def settle(self) -> None:
        """Let in all whose turn has come, in the order of the line."""
        found = True
        while found:
            found = False
            for wish in list(self.wants):
                comfy = next((x for x in wish.comfys if self.may_have(x, wish)), None)
                if comfy is not None:
                    self.grant(wish, comfy, self.highest + 1)
                    found = True
                    break

    def never_gets_its_turn(self, lock_id: str) -> bool:
        """Whether it waits in vain though all who wait for nothing let go, and all drains."""
        world = deepcopy(self)
        world.tasks = {}
        while any(x.lock_id == lock_id for x in world.wants):
            waiting = {x.holder for x in world.wants}
            world.has = [x for x in world.has if x.held and x.holder in waiting]
            before = len(world.wants)
            world.settle()
            if len(world.wants) == before:
                return True
        return False

    # -- what always holds -------------------------------------------------------------------

    def check(self) -> None:
        holders = [x.holder for x in self.has if x.held]
        assert len(holders) == len(set(holders)), "R1"
        assert len({x.holder for x in self.wants}) == len(self.wants), "R1"
        for comfy, capacity in self.capacity.items():
            there = [x for x in self.has if x.comfy == comfy]
            who = {x.holder for x in there}
            assert len(who) <= capacity, "R6: capacity"
            if any(x.mode == EXCLUSIVE for x in there):
                assert len(who) == 1, "R6: exclusive"
        for holder, comfy in self.tasks.values():
            held = self.held(holder)
            assert held is None or held.comfy == comfy, "R3"
            assert any((x.holder, x.comfy) == (holder, comfy) for x in self.has), "R6: draining"
        for wish in self.wants:
            assert not self.never_gets_its_turn(wish.lock_id), "R6: nobody waits for ever"
