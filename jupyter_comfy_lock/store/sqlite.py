"""The default store: a SQLite file, shared by one user's Jupyter servers on one machine."""

import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import ColumnElement, Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import StaticPool

from jupyter_comfy_lock.domain.errors import StoreUnavailable
from jupyter_comfy_lock.store.place import refusal, untrusted_file_system

#: Seconds between two looks at whether another process has written.
_LOOK_EVERY_S = 0.02
#: Seconds that SQLite itself waits for another writer, before `Database` tries again. Its steps
#: start at 1 ms and grow to 100 ms, which would starve renewals; the first ones are cheap.
_WAIT_IN_SQLITE_S = 0.01


class SqliteFile:
    """A SQLite file on a local disk."""

    one_machine = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shown = str(path)

    def open(self) -> Engine:
        """Return an engine of one connection: one thread uses it."""
        untrusted = untrusted_file_system(self.path)
        if untrusted is not None:
            raise refusal(self.path, untrusted)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            msg = f"Locks and tasks cannot be kept in {self.path}: {error}."
            raise StoreUnavailable(msg) from error
        engine = create_engine(
            URL.create("sqlite", database=str(self.path)),
            poolclass=StaticPool,
            connect_args={"timeout": _WAIT_IN_SQLITE_S, "check_same_thread": False},
        )
        event.listen(engine, "connect", _on_connect)
        event.listen(engine, "begin", _on_begin)
        return engine

    def is_busy(self, error: DBAPIError) -> bool:
        """Whether another process is writing just now."""
        return isinstance(error, OperationalError) and "locked" in str(error.orig)

    def begin_to_prepare(self, connection: Connection) -> None:
        """Do nothing: every transaction that may write is alone."""

    def wall_us(self) -> ColumnElement[int] | None:
        """Return None: it is this machine's."""
        return None

    def lease_clock(self) -> Callable[[], float]:
        """Return the clock that all Jupyter servers of this machine share.

        It stands still while a laptop sleeps, for all of them, so that nobody loses a lock by it.
        """
        return time.monotonic

    def begin_to_watch(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """Look at the file's change counter, in a thread of its own."""
        ended = threading.Event()

        def watch() -> None:
            seen: int | None = None
            connection: sqlite3.Connection | None = None
            while not ended.is_set():
                try:
                    if connection is None:
                        connection = sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True)
                    (now,) = connection.execute("PRAGMA data_version").fetchone()
                except sqlite3.Error:
                    # Whoever works with the file says what is wrong with it.
                    now = None
                if now != seen:
                    seen = now
                    on_change()
                ended.wait(_LOOK_EVERY_S)
            if connection is not None:
                connection.close()

        threading.Thread(target=watch, name="comfy-lock-watch", daemon=True).start()
        return ended.set

    def announce(self, connection: Connection) -> None:
        """Do nothing: the file itself tells."""


def _on_connect(connection: sqlite3.Connection, _: object) -> None:
    # The driver would begin transactions of its own, and late; see _on_begin.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _on_begin(connection: Connection) -> None:
    # A transaction that reads first and writes later cannot always become a writer: be one at once.
    only_reads = connection.info.pop("only_reads", False)
    connection.exec_driver_sql("BEGIN" if only_reads else "BEGIN IMMEDIATE")
