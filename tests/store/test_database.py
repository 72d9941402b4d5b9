import asyncio
import hashlib
import sqlite3
import threading

import pytest
from sqlalchemy import insert

from jupyter_comfy_lock.domain.errors import StoreUnavailable
from jupyter_comfy_lock.store import schema
from jupyter_comfy_lock.store.clock import Clock
from jupyter_comfy_lock.store.database import Database
from jupyter_comfy_lock.store.locks import LockStore
from jupyter_comfy_lock.store.schema import SCHEMA_VERSION

pytestmark = pytest.mark.asyncio


def a_node(node_id):
    row = {"node_id": node_id, "boot_id": "b", "expires_at_us": 1}
    return lambda c: c.execute(insert(schema.nodes), row)


async def nodes_in(database):
    return await database.run(lambda c: [x.node_id for x in c.execute(schema.nodes.select())])


async def test_the_file_is_made_with_its_folder_for_its_owner_alone(path):
    database = Database(path)
    await LockStore(database, ttl_s=1).join()
    assert path.exists()
    assert path.parent.stat().st_mode & 0o077 == 0
    await database.close()


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


async def test_what_was_asked_for_is_done_before_the_file_is_closed(path):
    database = Database(path)
    writing = asyncio.ensure_future(database.run(a_node("last")))
    await asyncio.sleep(0)
    await database.close()
    await writing
    other = Database(path)
    assert await nodes_in(other) == ["last"]
    await other.close()


async def test_a_newer_store_is_refused_and_left_as_it_is(path, clock):
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.executescript(
        "PRAGMA journal_mode=WAL; CREATE TABLE meta (id INTEGER PRIMARY KEY, rev BIGINT NOT NULL, "
        "schema_version INTEGER NOT NULL, novelty TEXT NOT NULL); "
        f"INSERT INTO meta VALUES (1, 5, {SCHEMA_VERSION + 1}, 'x');"
    )
    connection.close()
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    database = Database(path, clock)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="newer jupyter_comfy_lock") as refused:
            await LockStore(database, ttl_s=1).join()
        assert str(path) in refused.value.message
    await database.close()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


@pytest.mark.parametrize(
    "damage", [b"not a database " * 999, b"SQLite format 3\0" + b"\xff" * 9999]
)
async def test_a_damaged_file_is_reported_by_its_name_and_not_touched(path, damage):
    path.parent.mkdir()
    path.write_bytes(damage)
    database = Database(path)
    with pytest.raises(StoreUnavailable) as refused:
        await LockStore(database, ttl_s=1).join()
    assert str(path) in refused.value.message
    assert "Nothing changed" in refused.value.message
    await database.close()
    assert path.read_bytes() == damage


async def test_a_folder_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "comfy-lock").write_text("a file where a folder should be")
    database = Database(tmp_path / "comfy-lock" / "store.sqlite")
    with pytest.raises(StoreUnavailable, match="cannot be kept"):
        await LockStore(database, ttl_s=1).join()
    await database.close()


@pytest.mark.parametrize("is_open", [True, False])
async def test_a_file_that_another_process_writes_to_is_waited_for(path, is_open):
    database = Database(path)
    await nodes_in(database)
    if not is_open:
        await asyncio.to_thread(database._dispose)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    tried = threading.Event()
    again = database._when_busy.copy(before_sleep=lambda _: tried.set())
    database._when_busy = again
    writing = asyncio.ensure_future(database.run(a_node("patient")))
    assert await asyncio.to_thread(tried.wait, 10)
    assert not writing.done()
    other.execute("COMMIT")
    await writing
    assert await nodes_in(database) == ["patient"]
    other.close()
    await database.close()


async def test_a_file_that_is_never_free_is_given_up_with_a_clear_error(path):
    patient, database = Database(path), Database(path, busy_timeout_s=0.2)
    await nodes_in(patient)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreUnavailable, match="database is locked") as refused:
        await database.run(a_node("hasty"))
    assert "try again" in refused.value.message
    other.execute("COMMIT")
    await database.run(a_node("again"))
    assert await nodes_in(patient) == ["again"]
    other.close()
    await database.close()
    await patient.close()


async def test_the_real_clock_tells_this_boot_and_goes_forward():
    clock = Clock()
    assert clock.boot_id() == clock.boot_id() != ""
    assert clock.monotonic_us() <= clock.monotonic_us()
    assert abs(clock.wall_us() / 1e6 - clock.wall_s()) < 60
