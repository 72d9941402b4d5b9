"""What goes wrong while the workers work, at random, and where it hurts.

Everything it does ends by itself after a while, and is in the history.
"""

from __future__ import annotations

import heapq
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from itertools import count
from pathlib import Path

from tests.chaos.crowd import Crowd, Worker
from tests.chaos.history import History, S, now
from tests.postgres import Postgres
from tests.tcp_proxy import TcpProxy

#: Seconds that PostgreSQL waits for a session that stopped in the middle of a transaction.
_EVICTED_S = 3.0
HOUR_S = 3600.0


class Nemesis:
    """Does something every `every_s` seconds, in the mean."""

    def __init__(
        self,
        crowd: Crowd,
        history: History,
        *,
        seed: int,
        ttl_s: float,
        every_s: float,
        only: Collection[str] = (),
        stops_s: tuple[float, ...] | None = None,
        postgres: Postgres | None = None,
        proxy: TcpProxy | None = None,
        behind_proxy: frozenset[int] = frozenset(),
        server_clock: Path | None = None,
    ) -> None:
        self._crowd = crowd
        self._history = history
        self._dice = random.Random(f"nemesis {seed}")
        self._ttl_s = ttl_s
        self._every_s = every_s
        self._postgres = postgres
        self._proxy = proxy
        self._behind_proxy = behind_proxy
        #: The file in which the wall clock of PostgreSQL is set; see libfaketime.
        self._server_clock = server_clock
        self._kinds = {kind: n for kind, n in self._all().items() if not only or kind in only}
        #: For how long processes are stopped.
        self._stops_s = stops_s or (0.3, 0.3, ttl_s + 0.3, ttl_s + 0.3, 1.7 * ttl_s)
        #: What is to be done at which monotonic second.
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._is_calm = False
        self._proxy_is_bad = False
        self.done: Counter[str] = Counter()
        crowd.on_stopped = self._has_stopped
        crowd.on_died = self._has_died
        self._at(0.0, self._again)

    def _all(self) -> dict[str, float]:
        """How often what is done, in relation to each other."""
        everywhere = {"kill": 2.0, "kill at": 6.0, "stop": 2.5, "stop at": 4.0, "stop in use": 1.5}
        everywhere |= {"block": 1.5, "clock": 1.0}
        if self._postgres is None:
            return everywhere
        return {**everywhere, "database": 0.5, "cut before": 1.5, "cut after": 3.0, "silence": 0.7,
                "refuse": 0.7}  # fmt: skip

    def step(self) -> None:
        """Do what is due."""
        while self._later and self._later[0][0] <= time.monotonic():
            heapq.heappop(self._later)[2]()

    def calm(self) -> None:
        """Make everything well again, and let it be so."""
        self._is_calm = True
        while self._later:
            heapq.heappop(self._later)[2]()
        for who in self._crowd.workers:
            self._crowd.go_on(who)
            if who.process is None:
                self._crowd.start(who)
            else:
                self._crowd.tell(who, "trap", signal.SIGKILL, None)
        if self._proxy is not None:
            self._proxy.resume()
        self._crowd.on_stopped = self._crowd.go_on
        self._crowd.on_died = self._crowd.start
        self._history.write("calm")

    def _again(self) -> None:
        if self._is_calm:
            return
        self._do(self._dice.choices(list(self._kinds), list(self._kinds.values()))[0])
        self._at(self._dice.expovariate(1 / self._every_s), self._again)

    def _at(self, in_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._later, (time.monotonic() + in_s, next(self._numbers), what))

    def _do(self, kind: str) -> None:
        running = [each for each in self._crowd.workers if each.runs and not each.trapped]
        if len(running) <= len(self._crowd.workers) // 2:
            # Enough is wrong already; who is left should get something done.
            return
        who = self._dice.choice(running)
        self.done[kind] += 1
        match kind:
            case "kill":
                self._crowd.kill(who)
                self._has_died(who)
            case "kill at":
                self._trap(who, signal.SIGKILL)
            case "stop":
                self._crowd.stop(who)
                self._wake(who)
            case "stop at":
                self._trap(who, signal.SIGSTOP)
            case "stop in use":
                self._crowd.tell(who, "stop in use")
                who.trapped = True
            case "block":
                self._crowd.tell(who, "block", self._dice.uniform(0.2, 1.5 * self._ttl_s))
            case "clock":
                self._step_clocks()
            case "database":
                self._crash_database()
            case "cut before" | "cut after":
                self._cut(kind)
            case "silence" | "refuse":
                self._fail_proxy(kind)

    def _trap(self, who: Worker, how: signal.Signals) -> None:
        self._crowd.tell(who, "trap", how, frozenset(self._crowd.tried[how]))
        who.trapped = True
        life = who.setup.life

        def give_up() -> None:
            # There is no such place any more, or none that it comes by.
            if who.trapped and who.setup.life == life:
                self._crowd.tell(who, "trap", how, None)
                who.trapped = False

        self._at(3.0, give_up)

    def _has_died(self, who: Worker) -> None:
        down_s = self._dice.choice([0.0, 0.5, 1.2 * self._ttl_s])

        def restart() -> None:
            if who.process is None:
                self._crowd.start(who)

        self._at(down_s, restart)

    def _has_stopped(self, who: Worker) -> None:
        self.done["has stopped itself"] += 1
        self._wake(who)

    def _wake(self, who: Worker) -> None:
        since, life = now(), who.setup.life
        for_s = self._dice.choice(self._stops_s)

        def go_on() -> None:
            if who.setup.life == life:
                self._crowd.go_on(who)
            self._outage(since, "stopped")

        self._at(for_s, go_on)

    def _outage(self, since: int, why: str) -> None:
        """Note that somebody could do nothing, perhaps in the middle of a transaction.

        Then nobody else can write: SQLite waits for it, PostgreSQL waits a while.
        """
        until = now() if self._postgres is None else min(now(), since + round(_EVICTED_S * S))
        self._history.write("outage", t=until, since=since, why=why)

    # -- clocks ------------------------------------------------------------------------------

    def _step_clocks(self) -> None:
        """Set the wall clock an hour on, or back: that of the machine, or one for each."""
        if self._server_clock is not None:
            self._server_clock.write_text(f"{self._dice.choice(['+0', '+3600', '-3600'])}\n")
            self._history.write("clock", of="database")
            return
        offset_s = self._dice.choice([0.0, HOUR_S, -HOUR_S])
        for who in self._crowd.workers:
            if self._postgres is None or self._dice.random() < 0.5:
                self._crowd.tell(who, "clock", offset_s)
                who.setup = replace(who.setup, clock_offset_s=offset_s)
        self._history.write("clock", offset_s=offset_s)

    # -- PostgreSQL --------------------------------------------------------------------------

    def _crash_database(self) -> None:
        assert self._postgres is not None
        since = now()
        self._postgres.kill()
        time.sleep(self._dice.choice([0.0, 1.0]))
        self._postgres.restart()
        self._history.write("outage", since=since, why="database killed")

    def _cut(self, kind: str) -> None:
        assert self._proxy is not None
        if self._proxy_is_bad:
            return
        if kind == "cut before":
            self._proxy.cut_before_commit()
        else:
            self._proxy.cut_after_commit()
        self._history.write("cut", kind=kind)

    def _fail_proxy(self, kind: str) -> None:
        assert self._proxy is not None
        if self._proxy_is_bad:
            return
        proxy, since = self._proxy, now()
        self._proxy_is_bad = True
        if kind == "silence":
            proxy.silence()
        else:
            proxy.refuse()

        def resume() -> None:
            proxy.resume()
            self._proxy_is_bad = False
            self._outage(since, kind)
            for who in self._crowd.workers:
                if who.process is not None and who.number in self._behind_proxy:
                    self._history.write("hindered", pid=who.pid, since=since, why=kind)

        self._at(self._dice.choice([0.5, self._ttl_s, 2 * self._ttl_s]), resume)
