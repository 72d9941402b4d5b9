"""One database, one thread: each transaction runs whole in a worker, never on the event loop.

A transaction whose statements are awaited one by one on the event loop stays open while anything
else blocks that loop, and everybody else's with it.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from sqlalchemy import BigInteger, ColumnElement, Connection, Engine, bindparam, case, update
from sqlalchemy.exc import DBAPIError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_random,
)

from jupyter_comfy_lock.domain.errors import StoreUnavailable
from jupyter_comfy_lock.store.clock import Clock
from jupyter_comfy_lock.store.migrations import prepare
from jupyter_comfy_lock.store.schema import meta

T = TypeVar("T")


class Backend(Protocol):
    """What differs from one database to another."""

    #: How to call the database in messages; without a password.
    shown: str
    #: Whether all who use it are on one machine.
    one_machine: bool

    def open(self) -> Engine:
        """Return an engine whose connections are set up.

        Raises:
            StoreUnavailable: locks cannot be kept there, whatever is tried.
        """

    def is_busy(self, error: DBAPIError) -> bool:
        """Whether another process is writing just now."""

    def begin_to_prepare(self, connection: Connection) -> None:
        """Have others who want to make the tables wait until this transaction ends."""

    def wall_us(self) -> ColumnElement[int] | None:
        """Return the database's own clock as SQL; None where it is this machine's."""

    def lease_clock(self) -> Callable[[], float]:
        """Return the clock, in seconds, by which a node may count its own lease."""

    def begin_to_watch(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """Call `on_change` soon after each change by other processes, from any thread.

        Returns what ends that. It may be called for nothing, and once too often.
        """

    def announce(self, connection: Connection) -> None:
        """Have those who watch told of this transaction when it is committed."""


class Database:
    """A store, and the one thread that works with it.

    A writer waits for others for `busy_timeout_s` before it gives up.
    """

    def __init__(
        self, backend: Backend, clock: Clock | None = None, *, busy_timeout_s: float = 10.0
    ) -> None:
        self.backend = backend
        self.clock = clock or Clock()
        wall_us = backend.wall_us() if clock is None else None
        if wall_us is None:
            wall_us = bindparam("wall_us", type_=BigInteger)
        self._bump = (
            update(meta)
            .values(rev=case((meta.c.rev >= wall_us, meta.c.rev + 1), else_=wall_us))
            .returning(meta.c.rev)
        )
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="comfy-lock-store")
        self._engine: Engine | None = None
        # Short random waits keep the longest one under 200 ms with eight writers that never rest.
        self._when_busy = Retrying(
            retry=retry_if_exception(self._is_busy) | retry_if_exception(_is_cut),
            wait=wait_random(0.0005, 0.003),
            stop=_StopWhenCutTwice() | stop_after_delay(busy_timeout_s),
            reraise=True,
        )

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction in the worker thread, and return what it returns.

        The transaction is committed when `work` returns and undone when it raises. It is not
        stopped when the caller is cancelled. `work` may run again: when another process is
        writing, and when the connection broke and nobody knows whether it was committed; so what
        it does must be the same when it is done twice.

        Raises:
            StoreUnavailable: the database cannot be read or written. Nothing changed, unless
                `may_have_happened`.
        """
        return await asyncio.get_running_loop().run_in_executor(self._worker, self.transact, work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Do as `run` does for work that changes nothing; it waits for no writer."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._read, work)

    def transact(self, work: Callable[[Connection], T], *, only_reads: bool = False) -> T:
        """Do as `run` does, in the calling thread; for the worker and for tests."""
        cut = False

        def once() -> T:
            nonlocal cut
            try:
                return self._once(work, only_reads)
            except DBAPIError as error:
                # Also when the next try says that nothing is there to be asked.
                cut = cut or _is_cut(error)
                raise

        try:
            result: T = self._when_busy(once)
        except DBAPIError as error:
            outcome = "Whether it was done is not known" if cut else "Nothing changed"
            msg = (
                f"Locks and tasks cannot be read or written now: the store {self.backend.shown} "
                f"says {str(error.orig).strip()!r}. {outcome}; try again."
            )
            raise StoreUnavailable(msg, may_have_happened=cut) from error
        return result

    async def close(self) -> None:
        """Close the store. Work already asked for is done first."""
        await asyncio.get_running_loop().run_in_executor(self._worker, self.dispose)
        self._worker.shutdown(wait=False)

    def dispose(self) -> None:
        """Let go of connections; the next transaction opens one again."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    def bump(self, connection: Connection) -> int:
        """Take the next revision: the first statement of each change of a lock.

        A revision is the wall clock in microseconds, or one more than the last where the clock
        stood still or went back; so it rises even if an older copy of the store is put back.
        """
        rev = connection.scalars(self._bump, {"wall_us": self.clock.wall_us()}).one()
        connection.info["rev"] = int(rev)
        return int(rev)

    def rev(self, connection: Connection) -> int:
        """Return the revision that this transaction took last."""
        return int(connection.info["rev"])

    def _read(self, work: Callable[[Connection], T]) -> T:
        return self.transact(work, only_reads=True)

    def _once(self, work: Callable[[Connection], T], only_reads: bool) -> T:
        if self._engine is None:
            self._engine = self._open()
        with self._engine.connect() as connection:
            if only_reads:
                connection.info["only_reads"] = True
            with connection.begin():
                return work(connection)

    def _open(self) -> Engine:
        engine = self.backend.open()
        try:
            with engine.begin() as connection:
                self.backend.begin_to_prepare(connection)
                prepare(connection, self.backend.shown, self.clock.wall_us())
        except BaseException:
            # Whoever waits for the store tries again and again: each try would leave it open.
            engine.dispose()
            raise
        return engine

    def _is_busy(self, error: BaseException) -> bool:
        return isinstance(error, DBAPIError) and self.backend.is_busy(error)


class _StopWhenCutTwice(stop_after_attempt):
    """A broken connection is worth one more try with a new one; then the database is away."""

    def __init__(self) -> None:
        super().__init__(2)

    def __call__(self, retry_state: RetryCallState) -> bool:
        """Whether to give up."""
        outcome = retry_state.outcome
        error = outcome.exception() if outcome else None
        return error is not None and _is_cut(error) and super().__call__(retry_state)


def _is_cut(error: BaseException) -> bool:
    return isinstance(error, DBAPIError) and error.connection_invalidated
