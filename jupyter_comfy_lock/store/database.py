"""One database, one thread: each transaction runs whole in a worker, never on the event loop.

A transaction whose statements are awaited one by one on the event loop stays open while anything
else blocks that loop, and everybody else's with it.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine, case, create_engine, event, insert, select, update
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import StaticPool
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random

from jupyter_comfy_lock.domain.errors import StoreUnavailable
from jupyter_comfy_lock.store.clock import Clock
from jupyter_comfy_lock.store.schema import SCHEMA_VERSION, meta, metadata

T = TypeVar("T")


class Database:
    """A SQLite file shared by this user's Jupyter servers on this machine.

    A writer waits for others for `busy_timeout_s` before it gives up.
    """

    def __init__(
        self, path: Path, clock: Clock | None = None, *, busy_timeout_s: float = 10.0
    ) -> None:
        self.path = path
        self.clock = clock or Clock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="comfy-lock-store")
        self._engine: Engine | None = None
        # SQLite's own waiting backs off to 100 ms steps, which starves renewals; short random
        # ones keep the longest wait under 150 ms with eight writers.
        self._when_busy = Retrying(
            retry=retry_if_exception(_is_busy),
            wait=wait_random(0.0005, 0.003),
            stop=stop_after_delay(busy_timeout_s),
            reraise=True,
        )

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction in the worker thread, and return what it returns.

        The transaction is committed when `work` returns and undone when it raises. It is not
        stopped when the caller is cancelled.

        Raises:
            StoreUnavailable: the database cannot be read or written; nothing changed.
        """
        return await asyncio.get_running_loop().run_in_executor(self._worker, self.transact, work)

    def transact(self, work: Callable[[Connection], T]) -> T:
        """Do as `run` does, in the calling thread; for the worker and for tests."""
        try:
            result: T = self._when_busy(self._once, work)
        except DBAPIError as error:
            msg = (
                f"Locks and tasks cannot be read or written now: the store {self.path} says "
                f"{str(error.orig)!r}. Nothing changed; try again."
            )
            raise StoreUnavailable(msg) from error
        return result

    async def close(self) -> None:
        """Close the file. Work already asked for is done first."""
        await asyncio.get_running_loop().run_in_executor(self._worker, self._dispose)
        self._worker.shutdown(wait=False)

    def _dispose(self) -> None:
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    def _once(self, work: Callable[[Connection], T]) -> T:
        if self._engine is None:
            self._engine = self._open()
        with self._engine.begin() as connection:
            return work(connection)

    def _open(self) -> Engine:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            msg = f"Locks and tasks cannot be kept in {self.path}: {error}."
            raise StoreUnavailable(msg) from error
        engine = create_engine(
            URL.create("sqlite", database=str(self.path)),
            # One connection, used by one thread at a time: the worker's.
            poolclass=StaticPool,
            connect_args={"timeout": 0, "check_same_thread": False},
        )
        event.listen(engine, "connect", _on_connect)
        event.listen(engine, "begin", _on_begin)
        try:
            with engine.begin() as connection:
                metadata.create_all(connection)
                self._check_version(connection)
        except BaseException:
            # Whoever waits for the file tries again and again: each try would leave it open.
            engine.dispose()
            raise
        return engine

    def _check_version(self, connection: Connection) -> None:
        version = connection.scalar(select(meta.c.schema_version))
        if version is None:
            connection.execute(
                insert(meta),
                {"id": 1, "rev": self.clock.wall_us(), "schema_version": SCHEMA_VERSION},
            )
        elif version > SCHEMA_VERSION:
            msg = (
                f"The store {self.path} was written by a newer jupyter_comfy_lock (schema "
                f"{version}, this one knows {SCHEMA_VERSION}). It is left as it is; upgrade "
                "jupyter_comfy_lock in this environment."
            )
            raise StoreUnavailable(msg)

    def bump(self, connection: Connection) -> int:
        """Take the next revision: the first statement of each change of a lock.

        A revision is the wall clock in microseconds, or one more than the last where the clock
        stood still or went back; so it rises even if an older copy of the file is put back.
        """
        wall_us = self.clock.wall_us()
        rev = connection.scalars(
            update(meta)
            .values(rev=case((meta.c.rev >= wall_us, meta.c.rev + 1), else_=wall_us))
            .returning(meta.c.rev)
        ).one()
        return int(rev)


def _on_connect(connection: sqlite3.Connection, _: object) -> None:
    # The driver would begin transactions of its own, and late; see _on_begin.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _on_begin(connection: Connection) -> None:
    # A transaction that reads first and writes later cannot always become a writer: be one at once.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _is_busy(error: BaseException) -> bool:
    return isinstance(error, OperationalError) and "locked" in str(error.orig)
