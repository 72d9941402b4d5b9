"""A real PostgreSQL for tests, in a folder of its own, which ends with whoever started it.

    with Postgres() as postgres:
        url = postgres.fresh_database()

As fixtures: `postgres` is one for all tests, `postgres_url` an empty database in it, and
`postgres_proxy` a connection to it that can be cut. As a program, it runs one until Ctrl-C:
`python -m tests.postgres`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.comfy_servers import leashed

if TYPE_CHECKING:
    import psycopg

    from tests.tcp_proxy import TcpProxy

#: Seconds until a server answers; after a crash it reads its journal first.
START_S = 60.0
#: Seconds until one that was asked to stop has ended.
STOP_S = 20.0
#: Debian keeps these programs out of PATH, each version beside the other.
DEBIAN = Path("/usr/lib/postgresql")
PROGRAMS = ("initdb", "postgres")
#: Owner of the server, and of each database that a test gets.
ADMIN, USER = "postgres", "comfy"


class PostgresMissing(Exception):
    """PostgreSQL cannot be run on this machine."""


class PostgresDidNotStart(Exception):
    """The server ended, or did not answer in time; its log is in the message."""


class Postgres:
    """One PostgreSQL server on 127.0.0.1, on a port that it keeps.

    With `fsync` a commit outlives a crash of the machine, at the cost of time; without it, one
    of the server alone.
    """

    def __init__(self, *, fsync: bool = False, max_connections: int = 200) -> None:
        self.password = secrets.token_hex(16)
        self.port = 0
        self._settings = {
            "fsync": "on" if fsync else "off",
            "listen_addresses": "127.0.0.1",
            "log_timezone": "UTC",
            "max_connections": str(max_connections),
            "unix_socket_directories": "",
        }
        self._folder: Path | None = None
        self._leash = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Postgres:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Of the database "postgres", as the superuser."""
        return self._url(ADMIN, ADMIN)

    @property
    def log(self) -> Path:
        """What the server says, since it was started last."""
        assert self._folder is not None
        return self._folder / "log"

    @property
    def pid(self) -> int | None:
        """The process of the server, whose children serve one connection each; None: no more."""
        if self._process is None or self._process.poll() is not None:
            return None
        # Not from its own file, which may be left over from a server that was killed.
        held = psutil.Process(self._process.pid).children()
        return held[0].pid if held else None

    def start(self) -> None:
        """Run the server; what it kept is there if it ran before.

        Raises:
            PostgresMissing: it is not installed.
            PostgresDidNotStart: its log says why.
        """
        assert self._process is None, "it runs already"
        programs = _programs()
        try:
            if self._folder is None:
                self._make(programs)
            self._run(programs)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server, close its connections and remove all it kept."""
        self._end()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder, self.port = None, 0

    def kill(self) -> None:
        """Crash: all processes of the server end at once, and nothing is written any more."""
        pid = self.pid
        assert self._process is not None, "it does not run"
        assert pid is not None, "it does not run"
        server = psutil.Process(pid)
        # Stopped first, so that it cannot start a new child in between.
        server.suspend()
        family = [*server.children(recursive=True), server]
        for each in family:
            each.kill()
        psutil.wait_procs(family, timeout=STOP_S)
        self._process.wait(STOP_S)
        self._end()

    def restart(self) -> None:
        """Start again, on the same port: after `kill`, or else it is stopped first."""
        self._end()
        self.start()

    def fresh_database(self) -> str:
        """The URL of a new, empty database, whose owner is no superuser."""
        name = f"test_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name} OWNER {USER}")
        return self._url(USER, name)

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """The rows of one statement, done by the superuser."""
        with self.connect() as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def connect(self) -> psycopg.Connection:
        """A connection of the superuser; each statement is a transaction."""
        import psycopg

        return psycopg.connect(self.url, autocommit=True, connect_timeout=10)

    @property
    def _data(self) -> Path:
        assert self._folder is not None
        return self._folder / "data"

    def _url(self, user: str, database: str) -> str:
        return f"postgresql://{user}:{self.password}@127.0.0.1:{self.port}/{database}"

    def _make(self, programs: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="comfy-postgres-"))
        password = self._folder / "password"
        password.write_text(self.password)
        if owner := _owner():
            os.chown(self._folder, *owner)
            os.chown(password, *owner)
        command = [
            *(str(programs / "initdb"), "--pgdata", str(self._data), "--no-sync"),
            *("--username", ADMIN, "--pwfile", str(password), "--auth", "scram-sha-256"),
            *("--encoding", "UTF8", "--locale", "C"),
        ]
        made = subprocess.run(
            _as_owner(command),
            cwd=self._folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=START_S,
            check=False,
        )
        if made.returncode:
            msg = f"initdb ended with code {made.returncode}:\n{made.stdout.decode()}"
            raise PostgresDidNotStart(msg)

    def _run(self, programs: Path) -> None:
        first = self.port == 0
        if first:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.port = free.getsockname()[1]
        settings = {**self._settings, "port": str(self.port)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(programs / "postgres"), "-D", str(self._data), *options]
        assert self._folder is not None
        self._process = self._leash.enter_context(
            leashed(_as_owner(command), log=self.log, cwd=self._folder, env=_environment())
        )
        self._await_answer()
        if first:
            self.execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{self.password}'")

    def _await_answer(self) -> None:
        import psycopg

        assert self._process is not None
        deadline = time.monotonic() + START_S
        while True:
            try:
                self.connect().close()
            except psycopg.OperationalError as error:
                reason = str(error)
            else:
                return
            if self._process.poll() is not None:
                reason = f"it ended with code {self._process.returncode}"
            elif time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            msg = f"PostgreSQL did not start: {reason}. Its log:\n{self._last_words()}"
            raise PostgresDidNotStart(msg)

    def _last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    def _end(self) -> None:
        if self._process is not None and (pid := self.pid) is not None:
            # If it hangs, the leash ends it.
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                # SIGINT: at once, though clients are connected; SIGTERM would wait for them.
                os.kill(pid, signal.SIGINT)
                self._process.wait(STOP_S)
        self._process = None
        self._leash.close()


def _programs() -> Path:
    """The folder with PostgreSQL's programs: that of PATH, or Debian's newest.

    Raises:
        PostgresMissing: there is none, and what to do about it.
    """
    found = [Path(each).resolve().parent for name in PROGRAMS if (each := shutil.which(name))]
    if len(found) == len(PROGRAMS) and len(set(found)) == 1:
        return found[0]
    versions = [
        folder
        for folder in DEBIAN.glob("*/bin")
        if folder.parent.name.isdecimal() and all((folder / name).exists() for name in PROGRAMS)
    ]
    if not versions:
        msg = (
            "These tests need PostgreSQL's server, which is neither in PATH nor in "
            f"{DEBIAN}/*/bin. On Debian or Ubuntu: apt-get install postgresql; on macOS: "
            "brew install postgresql."
        )
        raise PostgresMissing(msg)
    return max(versions, key=lambda folder: int(folder.parent.name))


def _owner() -> tuple[int, int] | None:
    """User and group that run the server in place of root, for whom it does not run.

    None when we are not root, and run it ourselves.
    """
    if os.geteuid() != 0:
        return None
    import pwd

    known = {user.pw_name: (user.pw_uid, user.pw_gid) for user in pwd.getpwall()}
    owner = known.get("postgres") or known.get("nobody")
    if owner is None or not shutil.which("setpriv"):
        msg = (
            "PostgreSQL does not run as root. Run the tests as another user, or install "
            "util-linux's setpriv and make a user named postgres."
        )
        raise PostgresMissing(msg)
    return owner


def _as_owner(command: Sequence[str]) -> list[str]:
    owner = _owner()
    if owner is None:
        return list(command)
    user, group = owner
    # It becomes the command, so what is stopped and killed is the server.
    return ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--", *command]


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C"}


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One PostgreSQL for all tests; whoever kills it restarts it."""
    with Postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    """The URL of a new, empty database."""
    return postgres.fresh_database()


@pytest.fixture
def postgres_proxy(postgres: Postgres) -> Iterator[TcpProxy]:
    """A proxy before `postgres`: `postgres_proxy.through(postgres_url)` leads through it."""
    from tests.tcp_proxy import TcpProxy

    with TcpProxy("127.0.0.1", postgres.port) as proxy:
        yield proxy


if __name__ == "__main__":
    with Postgres() as running:
        print(running.fresh_database(), flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            print()
