"""Run workers and the nemesis, check what happened, and print it; exits 1 on violations.

    python -m tests.chaos.run --store sqlite --seconds 60 --seed 1
    python -m tests.chaos.run --store postgresql --operations 200000
    python -m tests.chaos.run --store sqlite --seconds 240 --every 0.5 --only "kill at"
    python -m tests.chaos.run --store sqlite --seconds 20 --break guard     must fail

What was written is kept in a folder, which is named in the end.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from jupyter_comfy_lock.domain.config import lease_policy
from tests.chaos.checker import Report, Rules, check
from tests.chaos.crowd import Crowd
from tests.chaos.history import History, merged
from tests.chaos.nemesis import Nemesis
from tests.chaos.setup import POOL, Setup
from tests.postgres import Postgres, _programs
from tests.tcp_proxy import TcpProxy

LIBFAKETIME = "usr/lib/*-linux-gnu/faketime/libfaketimeMT.so.1"
#: Seconds between two looks at what is active in the store.
_LOOK_EVERY_S = 0.2
#: Seconds that everybody may take to be served and let go of all, when all is well again.
_END_S = 60.0


@dataclass(kw_only=True)
class Result:
    """What came of a run."""

    folder: Path
    report: Report
    operations: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    nemesis: Counter[str] = field(default_factory=Counter)
    #: Places in transactions: where a worker was killed, where stopped, and all that there are.
    places: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def rows(self) -> list[tuple[str, Any]]:
        freed, answered = self.report.freed_s, self.report.answered_s
        total = self.operations.total()
        named = ("ask", "release", "withdraw", "force", "confirm", "renew", "news")
        return [
            ("seconds", round(self.seconds, 1)),
            ("operations", total),
            *((f"  {name}", self.operations[name]) for name in named),
            ("grants", self.events["granted"]),
            ("  after waiting", self.events["waited"]),
            ("refused, timed out, cancelled", self.events["refused"]),
            ("uses", self.events["use"]),
            ("locks lost", self.events["lost"]),
            *((f"nemesis: {kind}", number) for kind, number in sorted(self.nemesis.items())),
            ("processes started", self.events["start"]),
            ("killed", self.events["kill"]),
            ("stopped", self.events["stop"]),
            *((f"places {name}", number) for name, number in self.places.items()),
            ("longest time to free after a kill, s", round(max(freed, default=0.0), 2)),
            ("longest answer after its wait, s", round(max(answered, default=0.0), 2)),
            ("uses of a gateway paused in the middle", len(self.report.paused)),
            *((f"VIOLATION: {kind}", n) for kind, n in sorted(self.report.by_kind.items())),
            ("violations", len(self.report.violations)),
        ]

    def print(self, most: int = 10) -> None:
        for name, value in self.rows:
            print(f"{name:45} {value:>10}")
        for each in self.report.violations[:most]:
            print(f"{each.kind}: {each.text[:1500]}")
        print(f"histories: {self.folder}")


class SqliteStore:
    """Where the workers keep locks, looked at from outside."""

    postgres: Postgres | None = None
    proxy: TcpProxy | None = None
    server_clock: Path | None = None

    def __init__(self, folder: Path) -> None:
        self._path = folder / "store.sqlite"

    def of(self, number: int) -> str:
        return str(self._path)

    def rows(self, statement: str) -> list[dict[str, Any]] | None:
        """The rows of a query; None when the store is not there."""
        try:
            connection = sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True)
            try:
                connection.row_factory = sqlite3.Row
                return [dict(row) for row in connection.execute(statement)]
            finally:
                connection.close()
        except sqlite3.Error:
            return None


class PostgresStore:
    """The same in PostgreSQL. Half of the workers come through a proxy that fails."""

    def __init__(self, postgres: Postgres, proxy: TcpProxy, server_clock: Path | None) -> None:
        self.postgres, self.proxy, self.server_clock = postgres, proxy, server_clock
        self._url = postgres.fresh_database()

    def of(self, number: int) -> str:
        return self.proxy.through(self._url) if number % 2 else self._url

    def rows(self, statement: str) -> list[dict[str, Any]] | None:
        try:
            with psycopg.connect(self._url, connect_timeout=2, row_factory=dict_row) as connection:
                return connection.execute(statement.encode()).fetchall()
        except psycopg.Error:
            return None


Store = SqliteStore | PostgresStore


@contextmanager
def sqlite_store(folder: Path) -> Iterator[Store]:
    yield SqliteStore(folder)


@contextmanager
def postgres_store(folder: Path) -> Iterator[Store]:
    """A PostgreSQL; its wall clock can be stepped where libfaketime is installed."""
    with ExitStack() as stack:
        clock = stack.enter_context(steppable_postgres())
        postgres = stack.enter_context(Postgres())
        proxy = stack.enter_context(TcpProxy("127.0.0.1", postgres.port))
        yield PostgresStore(postgres, proxy, clock)


@contextmanager
def steppable_postgres() -> Iterator[Path | None]:
    """Have PostgreSQL started with a wall clock that a file sets; None without libfaketime."""
    library = next(iter(Path("/").glob(LIBFAKETIME)), None)
    if library is None:
        yield None
        return
    programs = _programs()
    # Others run the server, when we are root.
    with (
        tempfile.TemporaryDirectory(prefix="comfy-clock-") as name,
        pytest.MonkeyPatch.context() as env,
    ):
        folder = Path(name)
        folder.chmod(0o755)
        clock = folder / "clock"
        clock.write_text("+0\n")
        faked = f"LD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE={clock} FAKETIME_NO_CACHE=1"
        faked += " FAKETIME_DONT_FAKE_MONOTONIC=1"
        for program, more in (("postgres", faked), ("initdb", "")):
            script = folder / program
            script.write_text(f'#!/bin/sh\nexec env {more} {programs / program} "$@"\n')
            script.chmod(0o755)
        env.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        yield clock


def run(
    store: str,
    folder: Path,
    *,
    seconds: float | None = None,
    operations: int | None = None,
    seed: int = 1,
    workers: int = 8,
    holders: int = 8,
    ttl_s: float = 2.0,
    nemesis: bool = True,
    every_s: float = 0.8,
    only: Collection[str] = (),
    without_guard: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> Result:
    """Run for so many seconds or operations, and check it."""
    folder.mkdir(parents=True, exist_ok=True)
    history = History(folder / "nemesis.jsonl")
    open_store = {"sqlite": sqlite_store, "postgresql": postgres_store}[store]
    began = time.monotonic()
    with open_store(folder) as there:
        setups = [
            Setup(
                number=number,
                life=0,
                store=there.of(number),
                folder=folder,
                seed=seed,
                ttl_s=ttl_s,
                holders=holders,
                # Of every other one nobody sees that it has ended.
                on_this_machine=number % 4 < 2,
                own_clock=there.server_clock is None,
                without_guard=without_guard,
            )
            for number in range(workers)
        ]
        crowd = Crowd(setups, history)
        look = Look(there, history)
        try:
            for who in crowd.workers:
                crowd.start(who)
            wrong = Nemesis(
                crowd,
                history,
                seed=seed,
                ttl_s=ttl_s,
                every_s=every_s,
                # Nothing but a long stop can show that there is no guard.
                only=("stop",) if without_guard else only,
                stops_s=(1.7 * ttl_s,) if without_guard else None,
                postgres=there.postgres,
                proxy=there.proxy,
                behind_proxy=frozenset(n for n in range(workers) if n % 2),
                server_clock=there.server_clock,
            )
            _wait_for_all(crowd)
            began = time.monotonic()
            while not _enough(began, seconds, crowd, operations):
                if nemesis:
                    wrong.step()
                crowd.listen(0.02)
                look.now_and_then(lambda: tell(f"{crowd.operations} operations"))
            wrong.calm()
            _end(crowd, look, history)
            rows = there.rows("SELECT * FROM locks") or []
            (folder / "locks.json").write_text(json.dumps(rows))
        finally:
            for who in crowd.workers:
                crowd.kill(who)
    seconds_taken = time.monotonic() - began
    return _result(folder, rows, crowd, wrong, seconds_taken, ttl_s)


class Look:
    """Looks at the store now and then, for the history."""

    def __init__(self, store: Store, history: History) -> None:
        self._store = store
        self._history = history
        self._next_s = 0.0
        self._looks = 0

    def now_and_then(self, tell: Callable[[], None] = lambda: None) -> list[str] | None:
        """The nodes on which something active rests; None if it was not looked at."""
        if time.monotonic() < self._next_s:
            return None
        rows = self._store.rows("SELECT DISTINCT node_id FROM locks WHERE state <> 'ended'")
        self._next_s = time.monotonic() + _LOOK_EVERY_S
        self._looks += 1
        if self._looks % 50 == 0:
            tell()
        if rows is None:
            return None
        nodes = [row["node_id"] for row in rows]
        self._history.write("active", nodes=nodes)
        return nodes


def _enough(began: float, seconds: float | None, crowd: Crowd, operations: int | None) -> bool:
    if operations is not None and crowd.operations >= operations:
        return True
    return seconds is not None and time.monotonic() - began >= seconds


def _wait_for_all(crowd: Crowd) -> None:
    """Wait until all are there: the first ones import much."""
    until = time.monotonic() + _END_S
    while not all(who.operations for who in crowd.workers) and time.monotonic() < until:
        crowd.listen(0.02)


def _end(crowd: Crowd, look: Look, history: History) -> None:
    """Have all holders served and ended, then all workers; how far that went is in the store."""
    for who in crowd.workers:
        crowd.tell(who, "end")
    until = time.monotonic() + _END_S
    active: list[str] | None = None
    while time.monotonic() < until:
        crowd.listen(0.02)
        active = look.now_and_then()
        if active == [] and all(who.finished for who in crowd.workers):
            break
    history.write("finished", active=active)
    for who in crowd.workers:
        crowd.tell(who, "leave")
    until = time.monotonic() + _END_S
    while time.monotonic() < until and any(who.process is not None for who in crowd.workers):
        crowd.listen(0.02)


def _result(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    crowd: Crowd,
    nemesis: Nemesis,
    seconds: float,
    ttl_s: float,
) -> Result:
    policy = lease_policy(ttl_s)
    capacity = {comfy.comfy_id: comfy.capacity for comfy in POOL}
    rules = Rules(ttl_s=ttl_s, margin_s=policy.margin_s, capacity=capacity)
    events = merged(folder)
    operations: dict[int, dict[str, int]] = {}
    places: set[str] = set()
    for event in events:
        if event["what"] == "counts":
            operations[event["pid"]] = event["operations"]
        elif event["what"] == "left":
            places.update(event["places"])
    tried = crowd.tried
    killed, stopped = tried[signal.SIGKILL] - {"in a use"}, tried[signal.SIGSTOP] - {"in a use"}
    counted = Counter(event["what"] for event in events)
    counted["waited"] = sum(bool(event.get("waited")) for event in events)
    return Result(
        folder=folder,
        report=check(events, rows, rules),
        operations=sum((Counter(each) for each in operations.values()), Counter()),
        events=counted,
        nemesis=nemesis.done,
        places={
            "killed at": len(killed),
            "stopped at": len(stopped),
            "in all": len(places | killed | stopped),
        },
        seconds=seconds,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--operations", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=float, default=0.8, help="seconds from fault to fault")
    parser.add_argument("--only", action="append", default=[], help="a kind of fault")
    parser.add_argument("--no-nemesis", action="store_true")
    parser.add_argument("--break", choices=["guard"], dest="broken")
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    if asked.seconds is None and asked.operations is None:
        asked.seconds = 30.0
    result = run(
        asked.store,
        asked.folder or Path(tempfile.mkdtemp(prefix="comfy-chaos-")),
        seconds=asked.seconds,
        operations=asked.operations,
        seed=asked.seed,
        every_s=asked.every,
        only=asked.only,
        nemesis=not asked.no_nemesis,
        without_guard=asked.broken == "guard",
        tell=lambda text: print(text, flush=True),
    )
    result.print()
    return 1 if result.report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
