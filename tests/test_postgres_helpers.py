"""The PostgreSQL of the tests, and the proxy that fails connections to it."""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest

from tests import postgres as postgres_module
from tests.comfy_servers import ROOT
from tests.postgres import Postgres, PostgresDidNotStart, PostgresMissing
from tests.tcp_proxy import COMMIT, TcpProxy

DEADLINE_S = 15.0


def until(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.02)
    return False


def family(server: Postgres) -> list[psutil.Process]:
    assert server.pid is not None
    process = psutil.Process(server.pid)
    return [process, *process.children(recursive=True)]


def all_gone(processes: list[psutil.Process]) -> bool:
    def gone(process: psutil.Process) -> bool:
        try:
            return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return until(lambda: all(gone(process) for process in processes))


# The server


def test_a_fresh_database_is_empty_and_its_users_own(postgres: Postgres) -> None:
    urls = {postgres.fresh_database() for _ in range(2)}
    assert len(urls) == 2
    for url in urls:
        with psycopg.connect(url) as connection:
            # The other one's table of that name is not here.
            connection.execute("CREATE TABLE it (x INTEGER)")
            who = connection.execute(
                "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
            ).fetchone()
            assert who == (False,)


def test_nobody_connects_without_the_password(postgres: Postgres, postgres_url: str) -> None:
    assert urlsplit(postgres_url).password == postgres.password
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(postgres_url.replace(postgres.password, "wrong"))


def test_it_listens_on_this_machine_alone(postgres: Postgres) -> None:
    assert postgres.pid is not None
    listening = [
        each.laddr
        for each in psutil.Process(postgres.pid).net_connections("all")
        if each.status == psutil.CONN_LISTEN or each.family == socket.AF_UNIX
    ]
    assert [tuple(address) for address in listening if address] == [("127.0.0.1", postgres.port)]


def test_it_takes_many_connections_and_does_not_wait_for_disks(postgres: Postgres) -> None:
    assert postgres.execute("SHOW max_connections") == [("200",)]
    assert postgres.execute("SHOW fsync") == [("off",)]


@pytest.fixture
def own() -> Iterator[Postgres]:
    """A server that this test alone uses."""
    with Postgres(fsync=True) as server:
        yield server


def test_a_crash_keeps_what_was_committed_and_a_restart_the_url(own: Postgres) -> None:
    url = own.fresh_database()
    assert own.execute("SHOW fsync") == [("on",)]
    connection = psycopg.connect(url, autocommit=True)
    connection.execute("CREATE TABLE it (x INTEGER)")
    connection.execute("INSERT INTO it VALUES (1)")
    connection.execute("BEGIN")
    connection.execute("INSERT INTO it VALUES (2)")
    processes = family(own)
    own.kill()
    assert not any(each.is_running() for each in processes)
    with pytest.raises(psycopg.OperationalError):
        connection.execute("COMMIT")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)
    own.restart()
    assert "not properly shut down" in own.log.read_text()
    with psycopg.connect(url) as again:
        assert again.execute("SELECT x FROM it").fetchall() == [(1,)]


def test_a_restart_ends_connections_and_keeps_what_was_committed(own: Postgres) -> None:
    url = own.fresh_database()
    connection = psycopg.connect(url, autocommit=True)
    connection.execute("CREATE TABLE it (x INTEGER)")
    own.restart()
    assert "not properly shut down" not in own.log.read_text()
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT x FROM it")
    with psycopg.connect(url) as again:
        assert again.execute("SELECT x FROM it").fetchall() == []


def test_a_stopped_server_leaves_nothing_although_a_client_is_connected() -> None:
    server = Postgres()
    server.start()
    connection = psycopg.connect(server.url)
    folder, processes = server.log.parent, family(server)
    server.stop()
    assert all_gone(processes)
    assert not folder.exists()
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    server.stop()


def test_a_server_ends_when_the_tests_are_killed() -> None:
    command = [sys.executable, "-m", "tests.postgres"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            (leash,) = psutil.Process(process.pid).children()
            (server,) = leash.children()
            folder = Path(server.cmdline()[2]).parent
            processes = [leash, server, *server.children()]
            # That a client is connected must not keep the server.
            connection = psycopg.connect(url)
        finally:
            process.kill()
    assert all_gone(processes)
    connection.close()
    shutil.rmtree(folder)


def test_a_server_that_cannot_start_says_why_and_leaves_nothing() -> None:
    server = Postgres(max_connections=-1)
    with pytest.raises(PostgresDidNotStart, match="max_connections"):
        server.start()
    assert server.pid is None
    assert server.port == 0


def test_a_machine_without_postgresql_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgres_module, "DEBIAN", tmp_path)
    with pytest.raises(PostgresMissing, match="apt-get install postgresql"):
        Postgres().start()


def test_the_newest_of_debians_versions_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for version in ("9.6", "9", "15", "100"):
        (tmp_path / version / "bin").mkdir(parents=True)
        for name in ("initdb", "postgres"):
            (tmp_path / version / "bin" / name).touch()
    (tmp_path / "101" / "bin").mkdir(parents=True)  # the clients alone
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgres_module, "DEBIAN", tmp_path)
    assert postgres_module._programs() == tmp_path / "100" / "bin"


# The proxy


@pytest.fixture
def url(postgres_url: str) -> str:
    """A database with the table `it`."""
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TABLE it (x INTEGER)")
    return postgres_url


def rows(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        return [x for (x,) in connection.execute("SELECT x FROM it ORDER BY x")]


def test_it_passes_on_what_is_not_to_fail(url: str, postgres_proxy: TcpProxy) -> None:
    with psycopg.connect(postgres_proxy.through(url)) as connection:
        connection.execute("INSERT INTO it SELECT generate_series(1, 50000)")
        big = connection.execute("SELECT repeat('x', 1000000)").fetchone()
        assert big is not None
        assert len(big[0]) == 1_000_000
        with connection.cursor().copy("COPY it FROM STDIN") as copy:
            for _ in range(1000):
                copy.write("0\n" * 100)
    assert len(rows(url)) == 150_000


def test_a_commit_that_is_cut_off_before_does_nothing(url: str, postgres_proxy: TcpProxy) -> None:
    connection = psycopg.connect(postgres_proxy.through(url))
    postgres_proxy.cut_before_commit()
    connection.execute("INSERT INTO it VALUES (1)")
    with pytest.raises(psycopg.OperationalError):
        connection.commit()
    postgres_proxy.await_cut()
    assert rows(url) == []


def test_a_commit_that_is_cut_off_after_is_done(url: str, postgres_proxy: TcpProxy) -> None:
    connection = psycopg.connect(postgres_proxy.through(url))
    postgres_proxy.cut_after_commit()
    connection.execute("INSERT INTO it VALUES (1)")
    with pytest.raises(psycopg.OperationalError):
        connection.commit()
    postgres_proxy.await_cut()
    assert rows(url) == [1]


@pytest.mark.parametrize("way", ["prepared", "pipeline", "text", "several"])
@pytest.mark.parametrize("done", [False, True])
def test_a_commit_is_seen_in_each_way_it_is_sent(
    way: str, done: bool, url: str, postgres_proxy: TcpProxy
) -> None:
    connection = psycopg.connect(postgres_proxy.through(url), autocommit=True)
    if way == "prepared":
        connection.execute("COMMIT", prepare=True)
    if done:
        postgres_proxy.cut_after_commit()
    else:
        postgres_proxy.cut_before_commit()
    with pytest.raises(psycopg.OperationalError):
        insert_one(connection, way)
    postgres_proxy.await_cut()
    assert rows(url) == ([1] if done else [])


def insert_one(connection: psycopg.Connection, way: str) -> None:
    if way == "several":
        connection.execute("BEGIN; INSERT INTO it VALUES (1); commit; SELECT 1")
    elif way == "pipeline":
        with connection.pipeline(), connection.transaction():
            connection.execute("INSERT INTO it VALUES (%s)", [1])
    else:
        connection.execute("BEGIN")
        connection.execute("INSERT INTO it VALUES (1)")
        connection.execute(" end" if way == "text" else "COMMIT", prepare=way == "prepared")


def test_one_commit_is_cut_off_and_the_next_is_not(url: str, postgres_proxy: TcpProxy) -> None:
    through = postgres_proxy.through(url)
    first, second = psycopg.connect(through), psycopg.connect(through)
    first.execute("INSERT INTO it VALUES (1)")
    second.execute("INSERT INTO it VALUES (2)")
    postgres_proxy.cut_before_commit()
    with pytest.raises(psycopg.OperationalError):
        first.commit()
    second.commit()
    assert rows(url) == [2]


def test_other_statements_and_undoing_are_not_cut_off(url: str, postgres_proxy: TcpProxy) -> None:
    postgres_proxy.cut_before_commit()
    connection = psycopg.connect(postgres_proxy.through(url))
    connection.execute("SHOW synchronous_commit")
    connection.execute("SELECT 'they commit', %s", ["COMMIT"])
    connection.rollback()
    with pytest.raises(TimeoutError):
        postgres_proxy.await_cut(0.0)
    postgres_proxy.resume()
    connection.execute("INSERT INTO it VALUES (1)")
    connection.commit()
    assert rows(url) == [1]


@pytest.mark.parametrize("text", [b"COMMIT", b"commit ;", b"x; COMMIT", b"END\0", b" \n commit"])
def test_a_commit_is_a_statement(text: bytes) -> None:
    assert COMMIT.search(text)


@pytest.mark.parametrize("text", [b"SELECT 'x COMMIT'", b"committed", b"ENDPOINT", b"a end b"])
def test_its_word_alone_is_no_commit(text: bytes) -> None:
    assert not COMMIT.search(text)


def test_in_silence_connections_stay_open_and_say_nothing(
    url: str, postgres_proxy: TcpProxy
) -> None:
    through = postgres_proxy.through(url)
    connection = psycopg.connect(through, autocommit=True)
    postgres_proxy.silence()
    with pytest.raises(psycopg.errors.ConnectionTimeout):
        psycopg.connect(through, connect_timeout=2)
    connection.pgconn.send_query(b"INSERT INTO it VALUES (1)")
    connection.pgconn.flush()
    # Nothing comes: neither an answer nor an end.
    assert not readable(connection.pgconn.socket, 0.2)
    assert rows(url) == []
    postgres_proxy.resume()
    assert readable(connection.pgconn.socket, DEADLINE_S)
    assert until(lambda: rows(url) == [1])


def test_in_silence_an_answer_is_held_back(
    url: str, postgres: Postgres, postgres_proxy: TcpProxy
) -> None:
    connection = psycopg.connect(postgres_proxy.through(url), autocommit=True)
    pid = connection.info.backend_pid
    state = f"SELECT state, wait_event_type FROM pg_stat_activity WHERE pid = {pid}"
    with psycopg.connect(url) as other:
        other.execute("LOCK TABLE it")
        connection.pgconn.send_query(b"INSERT INTO it VALUES (1)")
        connection.pgconn.flush()
        assert until(lambda: postgres.execute(state) == [("active", "Lock")])
        postgres_proxy.silence()
    assert until(lambda: postgres.execute(state) == [("idle", "Client")])
    assert not readable(connection.pgconn.socket, 0.2)
    postgres_proxy.resume()
    assert readable(connection.pgconn.socket, DEADLINE_S)


def test_in_silence_the_server_does_not_hear_that_its_client_went_away(
    url: str, postgres: Postgres, postgres_proxy: TcpProxy
) -> None:
    connection = psycopg.connect(postgres_proxy.through(url))
    pid = connection.info.backend_pid
    connected = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}"
    postgres_proxy.silence()
    # As a killed process does: the socket ends without a goodbye.
    with socket.socket(fileno=os.dup(connection.pgconn.socket)) as mine:
        mine.shutdown(socket.SHUT_RDWR)
    time.sleep(0.2)
    assert postgres.execute(connected) == [(1,)]
    postgres_proxy.resume()
    assert until(lambda: postgres.execute(connected) == [(0,)])


def test_refusing_cuts_what_there_is_and_takes_no_more(url: str, postgres_proxy: TcpProxy) -> None:
    through = postgres_proxy.through(url)
    connection = psycopg.connect(through)
    connection.execute("INSERT INTO it VALUES (1)")
    postgres_proxy.refuse()
    with pytest.raises(psycopg.OperationalError):
        connection.commit()
    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(through)
    assert rows(url) == []
    postgres_proxy.resume()
    with psycopg.connect(through) as again:
        again.execute("INSERT INTO it VALUES (2)")
    assert rows(url) == [2]


def test_a_server_that_is_not_there_ends_the_connection(own: Postgres) -> None:
    with TcpProxy("127.0.0.1", own.port) as proxy:
        connection = psycopg.connect(proxy.through(own.url))
        own.kill()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(proxy.through(own.url))
        own.restart()
        psycopg.connect(proxy.through(own.url)).close()


def readable(descriptor: int, timeout_s: float) -> bool:
    return bool(select.select([descriptor], [], [], timeout_s)[0])
