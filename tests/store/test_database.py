import asyncio
import sqlite3
import threading
import time

import psycopg
import pytest
from sqlalchemy import insert, select

from jupyter_comfy_lock.domain.errors import StoreUnavailable
from jupyter_comfy_lock.store import schema
from jupyter_comfy_lock.store.clock import Clock, awake_or_not_s
from jupyter_comfy_lock.store.database import Database
from jupyter_comfy_lock.store.sqlite import SqliteFile
from tests.store.conftest import postgres_server

pytestmark = pytest.mark.asyncio


def a_node(node_id):
    row = {"node_id": node_id, "host": "h", "pid": 1, "ttl_s": 1.0, "renewals": 0}
    return lambda c: c.execute(insert(schema.nodes), row)


async def nodes_in(database):
    return await database.run(lambda c: list(c.execute(select(schema.nodes.c.node_id)).scalars()))


@pytest.fixture
def sqlite(path):
    made = Database(SqliteFile(path))
    yield made
    made.dispose()
    made._worker.shutdown()


# -- any database --------------------------------------------------------------------------------


async def test_work_that_raises_changes_nothing(database):
    def work(c):
        a_node("half")(c)
        msg = "after all, no"
        raise ValueError(msg)

    with pytest.raises(ValueError, match="after all"):
        await database.run(work)
    assert await nodes_in(database) == []


async def test_work_is_done_although_its_caller_went_away(database):
    started, go = threading.Event(), threading.Event()

    def work(c):
        started.set()
        go.wait(10)
        a_node("done")(c)

    caller = asyncio.ensure_future(database.run(work))
    await asyncio.to_thread(started.wait, 10)
    caller.cancel()
    go.set()
    assert await nodes_in(database) == ["done"]


async def test_the_event_loop_runs_on_while_work_waits(database):
    started, go = threading.Event(), threading.Event()

    def work(c):
        started.set()
        return go.wait(10)

    waiting = asyncio.ensure_future(database.run(work))
    assert await asyncio.to_thread(started.wait, 10)
    go.set()
    assert await waiting


async def test_what_was_asked_for_is_done_before_the_store_is_closed(backend, open_database):
    database = Database(backend)
    writing = asyncio.ensure_future(database.run(a_node("last")))
    await asyncio.sleep(0)
    await database.close()
    await writing
    assert await nodes_in(open_database()) == ["last"]


async def test_who_only_looks_waits_for_no_writer(database, open_database):
    await database.run(a_node("before"))
    other = open_database()
    await nodes_in(other)
    started, go = threading.Event(), threading.Event()

    def work(c):
        database.bump(c)
        a_node("during")(c)
        started.set()
        return go.wait(2)

    writing = asyncio.ensure_future(database.run(work))
    await asyncio.to_thread(started.wait, 10)
    seen = await other.read(lambda c: list(c.execute(select(schema.nodes.c.node_id)).scalars()))
    assert not writing.done()
    go.set()
    assert await writing
    assert seen == ["before"]


async def test_a_store_on_real_clocks_has_revisions_that_rise(open_database):
    one, other = open_database(None), open_database(None)
    found = [await each.run(each.bump) for each in (one, other, one, other)]
    assert found == sorted(set(found))
    assert abs(found[-1] / 1e6 - time.time()) < 60


async def test_a_place_that_cannot_be_opened_is_told_again_and_again(tmp_path):
    (tmp_path / "comfy-lock").write_text("a file where a folder should be")
    database = Database(SqliteFile(tmp_path / "comfy-lock" / "store.sqlite"))
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="cannot be kept"):
            await nodes_in(database)
    await database.close()


# -- SQLite --------------------------------------------------------------------------------------


async def test_the_file_is_made_with_its_folder_for_its_owner_alone(sqlite, path):
    await nodes_in(sqlite)
    assert path.exists()
    assert path.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "damage", [b"not a database " * 999, b"SQLite format 3\0" + b"\xff" * 9999]
)
async def test_a_damaged_file_is_reported_by_its_name_and_not_touched(sqlite, path, damage):
    path.parent.mkdir()
    path.write_bytes(damage)
    with pytest.raises(StoreUnavailable) as refused:
        await nodes_in(sqlite)
    assert str(path) in refused.value.message
    assert "Nothing changed" in refused.value.message
    assert refused.value.details["may_have_happened"] is False
    assert path.read_bytes() == damage


@pytest.mark.parametrize("is_open", [True, False])
async def test_a_file_that_another_process_writes_to_is_waited_for(sqlite, path, is_open):
    await nodes_in(sqlite)
    if not is_open:
        await asyncio.to_thread(sqlite.dispose)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    tried = threading.Event()
    sqlite._when_busy = sqlite._when_busy.copy(before_sleep=lambda _: tried.set())
    writing = asyncio.ensure_future(sqlite.run(a_node("patient")))
    assert await asyncio.to_thread(tried.wait, 10)
    assert not writing.done()
    other.execute("COMMIT")
    await writing
    assert await nodes_in(sqlite) == ["patient"]
    other.close()


async def test_a_file_that_is_never_free_is_given_up_with_a_clear_error(sqlite, path):
    database = Database(SqliteFile(path), busy_timeout_s=0.2)
    await nodes_in(sqlite)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreUnavailable, match="database is locked") as refused:
        await database.run(a_node("hasty"))
    assert "Nothing changed; try again" in refused.value.message
    assert refused.value.details["may_have_happened"] is False
    other.execute("COMMIT")
    await database.run(a_node("again"))
    assert await nodes_in(sqlite) == ["again"]
    other.close()
    await database.close()


# -- PostgreSQL that goes away -------------------------------------------------------------------

FAST_S = 5.0


@pytest.fixture
def through_proxy(postgres_proxy, empty_postgres_url):
    """A database behind a connection that can be cut."""
    made = Database(postgres_server(postgres_proxy.through(empty_postgres_url)))
    made.transact(lambda _: None)
    yield made
    made.dispose()
    made._worker.shutdown()


async def unavailable(database, work=lambda c: None):
    """The error, which comes in seconds."""
    began_s = time.monotonic()
    with pytest.raises(StoreUnavailable) as refused:
        await database.run(work)
    assert time.monotonic() - began_s < FAST_S
    return refused.value


def password(url):
    return url.rpartition("@")[0].rpartition(":")[2]


@pytest.mark.parametrize("was_open", [True, False])
async def test_a_server_that_was_killed_is_reported_fast_and_found_again(
    postgres, empty_postgres_url, was_open
):
    database = Database(postgres_server(empty_postgres_url))
    if was_open:
        await database.run(a_node("before"))
    await asyncio.to_thread(postgres.kill)
    try:
        for _ in range(2):
            error = await unavailable(database, a_node("never"))
            assert "127.0.0.1" in error.message
            assert password(empty_postgres_url) not in str(error.to_json())
            assert error.details["may_have_happened"] is False
    finally:
        await asyncio.to_thread(postgres.restart)
    await database.run(a_node("after"))
    assert await nodes_in(database) == ["before", "after"][not was_open :]
    await database.close()


async def test_a_server_that_refuses_is_reported_fast_and_found_again(
    through_proxy, postgres_proxy
):
    postgres_proxy.refuse()
    error = await unavailable(through_proxy)
    assert "Nothing changed" in error.message
    postgres_proxy.resume()
    await through_proxy.run(a_node("after"))


async def test_a_connection_that_was_cut_while_nobody_used_it_is_replaced(
    through_proxy, postgres_proxy
):
    postgres_proxy.refuse()
    postgres_proxy.resume()
    await through_proxy.run(a_node("quiet"))
    assert await nodes_in(through_proxy) == ["quiet"]


async def test_a_transaction_that_was_cut_before_its_end_is_done_again(
    through_proxy, postgres_proxy
):
    postgres_proxy.cut_before_commit()
    await through_proxy.run(a_node("once"))
    postgres_proxy.await_cut()
    assert await nodes_in(through_proxy) == ["once"]


async def test_where_it_is_not_known_whether_it_was_done_the_error_says_so(
    through_proxy, postgres_proxy, empty_postgres_url
):
    done = []

    def work(c):
        if not done:
            a_node("perhaps")(c)
            postgres_proxy.cut_after_commit()
        else:
            c.execute(select(schema.nodes)).all()
            postgres_proxy.cut_before_commit()
        done.append(True)

    error = await unavailable(through_proxy, work)
    assert error.details["may_have_happened"] is True
    assert "Whether it was done is not known" in error.message
    assert await nodes_in(through_proxy) == ["perhaps"]


async def test_it_is_not_known_either_when_the_server_is_away_at_the_second_try(
    through_proxy, postgres_proxy
):
    def work(c):
        a_node("perhaps")(c)
        postgres_proxy.cut_after_commit()
        through_proxy._when_busy = through_proxy._when_busy.copy(
            before_sleep=lambda _: postgres_proxy.refuse()
        )

    error = await unavailable(through_proxy, work)
    assert error.details["may_have_happened"] is True
    postgres_proxy.resume()
    assert await nodes_in(through_proxy) == ["perhaps"]


async def test_a_jupyter_server_that_stops_in_the_middle_stops_nobody_for_long(
    postgres, empty_postgres_url
):
    stopped, other = (Database(postgres_server(empty_postgres_url)) for _ in range(2))
    reached, go, runs = threading.Event(), threading.Event(), []

    def work(c):
        stopped.bump(c)
        runs.append(True)
        if len(runs) == 1:
            reached.set()
            go.wait(20)
        a_node("at last")(c)

    running = asyncio.ensure_future(stopped.run(work))
    await asyncio.to_thread(reached.wait, 10)
    began_s = time.monotonic()
    await other.run(other.bump)
    assert time.monotonic() - began_s < FAST_S
    go.set()
    await running
    assert await nodes_in(other) == ["at last"]
    assert len(runs) == 2
    await stopped.close()
    await other.close()


async def test_two_transactions_that_are_in_each_others_way_are_both_done(
    postgres, empty_postgres_url
):
    one, two = (Database(postgres_server(empty_postgres_url)) for _ in range(2))
    await one.run(lambda c: (a_node("a")(c), a_node("b")(c)))
    both = threading.Barrier(2, timeout=10)

    def touches(first, then):
        tries = []

        def work(c):
            for each in (first, then):
                c.execute(
                    schema.nodes.update()
                    .where(schema.nodes.c.node_id == each)
                    .values(renewals=schema.nodes.c.renewals + 1)
                )
                if each == first and not tries:
                    tries.append(True)
                    both.wait()

        return work

    await asyncio.gather(one.run(touches("a", "b")), two.run(touches("b", "a")))
    renewals = await one.run(lambda c: list(c.execute(select(schema.nodes.c.renewals)).scalars()))
    assert renewals == [2, 2]
    await one.close()
    await two.close()


@pytest.mark.parametrize("query", ["", "?sslpassword=s3cr3t", "?password=s3cr3t"])
async def test_no_password_is_shown_wherever_the_url_has_it(query):
    server = postgres_server(f"postgresql://user:s3cr3t@127.0.0.1:1/base{query}")
    database = Database(server)
    error = await unavailable(database)
    assert "s3cr3t" not in server.shown + str(error.to_json())
    assert "user" in error.message
    assert "base" in error.message
    await database.close()


async def test_a_wrong_password_is_reported_without_it(empty_postgres_url):
    url = empty_postgres_url.replace(password(empty_postgres_url), "wr0ng")
    database = Database(postgres_server(url))
    error = await unavailable(database)
    assert "password authentication failed" in error.message
    assert "wr0ng" not in str(error.to_json())
    await database.close()


# -- being told of changes -----------------------------------------------------------------------


class Told:
    """Counts how often it is called."""

    def __init__(self):
        self.changed = threading.Event()

    def __call__(self):
        self.changed.set()

    async def forget(self):
        self.changed.clear()

    async def soon(self, within_s=1.0):
        return await asyncio.to_thread(self.changed.wait, within_s)


@pytest.fixture
def watching(backend, open_database):
    """Watches the store as another Jupyter server does."""
    open_database().transact(lambda _: None)
    told = Told()
    end = backend.begin_to_watch(told)
    yield told
    end()


def change(database):
    def work(c):
        database.bump(c)
        database.backend.announce(c)

    return database.run(work)


async def until_it_listens(told, database):
    """A watcher begins by telling; from then on it hears."""
    assert await told.soon(10)
    await told.forget()


async def test_a_change_by_another_process_is_told_within_a_second(watching, open_database):
    database = open_database()
    await until_it_listens(watching, database)
    for _ in range(3):
        await change(database)
        assert await watching.soon()
        await watching.forget()


async def test_who_has_ended_watching_is_told_nothing_and_no_thread_is_left(backend, open_database):
    database, told = open_database(), Told()
    await change(database)
    before = set(threading.enumerate())
    end = backend.begin_to_watch(told)
    (thread,) = set(threading.enumerate()) - before
    await until_it_listens(told, database)
    end()
    await asyncio.to_thread(thread.join, 5)
    assert not thread.is_alive()
    await told.forget()
    await change(database)
    assert not told.changed.is_set()


@pytest.mark.parametrize("name", ["a b", "100%25", "what?mode=x", "#1", "ä"])
async def test_a_file_of_any_name_is_watched(tmp_path, name):
    file, told = SqliteFile(tmp_path / name / "store.sqlite"), Told()
    database = Database(file)
    await change(database)
    end = file.begin_to_watch(told)
    await until_it_listens(told, database)
    await change(database)
    assert await told.soon()
    end()
    await database.close()


async def test_a_file_that_is_not_there_yet_is_watched_from_when_it_is(path):
    file, told = SqliteFile(path), Told()
    end = file.begin_to_watch(told)
    database = Database(file)
    await change(database)
    assert await told.soon(5)
    end()
    await database.close()


async def test_listening_goes_on_when_the_database_is_back(postgres, empty_postgres_url):
    server, told = postgres_server(empty_postgres_url), Told()
    database = Database(server)
    await change(database)
    end = server.begin_to_watch(told)
    await until_it_listens(told, database)
    await asyncio.to_thread(postgres.kill)
    await asyncio.to_thread(postgres.restart)
    assert await told.soon(10), "what was missed is looked for"
    await told.forget()
    await change(database)
    assert await told.soon()
    end()
    await database.close()


async def test_what_was_undone_is_not_announced(postgres, empty_postgres_url):
    server = postgres_server(empty_postgres_url)
    database = Database(server)
    await change(database)
    with psycopg.connect(empty_postgres_url, autocommit=True) as listener:
        listener.execute("LISTEN jupyter_comfy_lock")

        def work(c):
            server.announce(c)
            msg = "after all, no"
            raise ValueError(msg)

        with pytest.raises(ValueError, match="after all"):
            await database.run(work)
        await change(database)
        heard = await asyncio.to_thread(lambda: list(listener.notifies(timeout=5, stop_after=1)))
        assert len(heard) == 1
        listener.execute("SELECT 1")
    await database.close()


# -- clocks --------------------------------------------------------------------------------------


async def test_the_real_clocks_go_forward_and_agree():
    clock = Clock()
    assert clock.monotonic_s() <= clock.monotonic_s()
    assert awake_or_not_s() <= awake_or_not_s()
    assert abs(clock.wall_us() / 1e6 - clock.wall_s()) < 60
    assert abs(clock.wall_s() - time.time()) < 60


async def test_each_database_says_by_which_clock_a_lease_is_counted(backend, kind):
    sleeps_too = backend.lease_clock() is awake_or_not_s
    assert sleeps_too == (kind == "postgresql")
    assert backend.one_machine == (kind == "sqlite")
