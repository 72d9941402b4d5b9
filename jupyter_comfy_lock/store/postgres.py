"""The store for many machines: PostgreSQL."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    cast,
    create_engine,
    func,
    select,
)
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, retry_if_exception_type, stop_when_event_set, wait_fixed

from jupyter_comfy_lock.store.clock import awake_or_not_s
from jupyter_comfy_lock.store.place import SECRETS

_CHANNEL = "jupyter_comfy_lock"
#: Any number that nobody else takes an advisory lock on.
_PREPARING = 0x636F6D6679
#: A Jupyter server that stops in the middle of a transaction must not stop all others; a
#: statement that takes longer than this never comes back.
_OPTIONS = (
    "-c idle_in_transaction_session_timeout=3000 -c lock_timeout=10000 -c statement_timeout=15000"
)
#: A dead peer is noticed in ten seconds and not in two hours.
_CONNECT: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "jupyter_comfy_lock",
}
#: Seconds.
_LISTEN_FOR = 0.5
_LISTEN_AGAIN_S = 1.0


class PostgresServer:
    """A PostgreSQL database, which several machines share."""

    one_machine = False

    def __init__(self, url: URL) -> None:
        self._url = url
        self.shown = (
            url.set(drivername="postgresql")
            .difference_update_query(SECRETS)
            .render_as_string(hide_password=True)
        )

    def open(self) -> Engine:
        """Return an engine; a connection that broke while it was idle is replaced."""
        return create_engine(
            self._url,
            pool_size=1,
            max_overflow=0,
            pool_pre_ping=True,
            isolation_level="READ COMMITTED",
            connect_args={**_CONNECT, "options": _OPTIONS},
        )

    def is_busy(self, error: DBAPIError) -> bool:
        """Whether to try again: two transactions were each in the other's way."""
        return isinstance(
            error.orig, psycopg.errors.DeadlockDetected | psycopg.errors.SerializationFailure
        )

    def begin_to_prepare(self, connection: Connection) -> None:
        """Wait for others who make the tables: `CREATE TABLE IF NOT EXISTS` alone can fail."""
        connection.execute(select(func.pg_advisory_xact_lock(_PREPARING)))

    def wall_us(self) -> ColumnElement[int] | None:
        """Return the database's clock: one for all machines."""
        return cast(func.extract("epoch", func.clock_timestamp()) * 1_000_000, BigInteger)

    def lease_clock(self) -> Callable[[], float]:
        """Return a clock that goes on while this machine sleeps, as it does for the others."""
        return awake_or_not_s

    def begin_to_watch(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """Listen, with a connection and a thread of its own."""
        ended = threading.Event()
        dsn = self._url.set(drivername="postgresql").render_as_string(hide_password=False)

        def listen() -> None:
            with psycopg.connect(dsn, autocommit=True, **_CONNECT) as connection:
                connection.execute(f"LISTEN {_CHANNEL}")
                # What came before is known by looking.
                on_change()
                while not ended.is_set():
                    for _ in connection.notifies(timeout=_LISTEN_FOR):
                        on_change()
                        if ended.is_set():
                            break

        def wait(seconds: float) -> None:
            ended.wait(seconds)

        def watch() -> None:
            again = Retrying(
                retry=retry_if_exception_type(psycopg.Error),
                stop=stop_when_event_set(ended),
                wait=wait_fixed(_LISTEN_AGAIN_S),
                sleep=wait,
            )
            with suppress(Exception):
                again(listen)

        threading.Thread(target=watch, name="comfy-lock-watch", daemon=True).start()
        return ended.set

    def announce(self, connection: Connection) -> None:
        """Notify those who listen."""
        connection.execute(select(func.pg_notify(_CHANNEL, "")))
