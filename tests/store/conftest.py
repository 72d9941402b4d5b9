"""A store with a clock that the tests turn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_comfy_lock.store.clock import Clock
from jupyter_comfy_lock.store.database import Database
from jupyter_comfy_lock.store.locks import LockStore
from jupyter_comfy_lock.store.tasks import TaskStore

TTL_S = 30.0


class TestClock(Clock):
    """Time that passes when a test says so."""

    __test__ = False

    def __init__(self) -> None:
        self.monotonic_s = 100.0
        self.wall = 1_000_000.0
        self.boot = "boot-1"

    def pass_(self, seconds: float) -> None:
        self.monotonic_s += seconds
        self.wall += seconds

    def monotonic_us(self) -> int:
        return round(self.monotonic_s * 1_000_000)

    def wall_us(self) -> int:
        return round(self.wall * 1_000_000)

    def wall_s(self) -> float:
        return self.wall

    def boot_id(self) -> str:
        return self.boot


@pytest.fixture
def clock() -> TestClock:
    return TestClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "comfy-lock" / "store.sqlite"


@pytest.fixture
def database(path: Path, clock: TestClock) -> Iterator[Database]:
    made = Database(path, clock)
    yield made
    made._dispose()
    made._worker.shutdown()


@pytest.fixture
def locks(database: Database) -> LockStore:
    return LockStore(database, ttl_s=TTL_S)


@pytest.fixture
def tasks(database: Database) -> TaskStore:
    return TaskStore(database)
