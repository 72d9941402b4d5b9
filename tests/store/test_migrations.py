"""Stores of other versions: an older one is brought up to date, a newer one is left alone."""

from __future__ import annotations

import asyncio
import hashlib
import json
import multiprocessing
import sqlite3
import time
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import inspect, select, text

from jupyter_comfy_lock.domain.errors import StoreUnavailable
from jupyter_comfy_lock.domain.task import TaskState
from jupyter_comfy_lock.store import schema
from jupyter_comfy_lock.store.database import Database
from jupyter_comfy_lock.store.machine import boot_id
from jupyter_comfy_lock.store.schema import SCHEMA_VERSION
from jupyter_comfy_lock.store.sqlite import SqliteFile
from tests.domain.things import a_snapshot
from tests.store.conftest import postgres_server
from tests.store.site import ONE, Site

pytestmark = pytest.mark.asyncio

VERSION_1 = (Path(__file__).parent / "version_1.sql").read_text()
VERSION_2 = (Path(__file__).parent / "version_2.sql").read_text()
REV = 1_790_000_000_000_000


def now_us():
    return time.monotonic_ns() // 1000


def a_version_1_file(path, *, boot, expires_at_us):
    """A file with a node, its lock, a task that pends and one that has ended."""
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.executescript(VERSION_1)
    connection.execute("INSERT INTO meta VALUES (1, ?, 1)", [REV])
    connection.execute("INSERT INTO nodes VALUES ('old', ?, ?)", [boot, expires_at_us])
    connection.execute(
        "INSERT INTO locks VALUES (?, 'gpu-1', 'k1', 'old', 'exclusive', 'held', 'a.ipynb', 5.0, "
        "NULL, NULL)",
        [REV],
    )
    snapshot = json.dumps(a_snapshot("k1", "gpu-1", REV).to_json())
    for task_id, state, pending in (("t1", "running", 1), ("t2", "succeeded", 0)):
        connection.execute(
            "INSERT INTO tasks VALUES (?, 'k1', 'old', 'gpu-1', 'a.ipynb', ?, ?, ?, 0, 6.0, 7.0, "
            "NULL, NULL, '{}', NULL, 0, '{}')",
            [task_id, snapshot, state, pending],
        )
    connection.commit()
    connection.close()


def what_is_in(path):
    """All that a file holds, whatever its pages look like."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    dumped = "\n".join(connection.iterdump())
    connection.close()
    return hashlib.sha256(dumped.encode()).hexdigest()


OVER = [
    pytest.param(boot_id, lambda: now_us() - 1, id="its-lease-is-over"),
    pytest.param(lambda: "another boot", lambda: now_us() + 10**9, id="it-ran-before-this-boot"),
]


@pytest.mark.parametrize(("boot", "expires_at_us"), OVER)
async def test_a_version_1_file_becomes_one_of_this_version(path, clock, boot, expires_at_us):
    a_version_1_file(path, boot=boot(), expires_at_us=expires_at_us())
    database = Database(SqliteFile(path), clock)
    site = Site(database, clock)
    node = await site.join()
    assert {x.task_id: x.state for x in await site.tasks.newest(None, limit=9)} == {
        "t1": TaskState.RUNNING,
        "t2": TaskState.SUCCEEDED,
    }
    kept = await site.tasks.get("t1")
    assert (kept.name, kept.lock.fence, kept.started_at) == ("a.ipynb", REV, 7.0)
    assert await node.expire() == ([], ["t1"])
    assert (await site.tasks.get("t1")).node_id == node.node_id
    assert await site.active() == []
    lock = await node.take("k2", ONE)
    assert lock.fence > REV
    assert await site.locks.store_id()
    await database.close()


def a_version_2_file(path):
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.executescript(VERSION_2)
    connection.execute("INSERT INTO meta VALUES (1, ?, 2, 'the store')", [REV])
    connection.commit()
    connection.close()


@pytest.mark.parametrize("version", [1, 2])
async def test_a_file_that_was_brought_up_to_date_is_like_a_new_one(path, tmp_path, clock, version):
    if version == 1:
        a_version_1_file(path, boot="another boot", expires_at_us=1)
    else:
        a_version_2_file(path)

    def tables(c):
        seen = inspect(c)
        return {
            name: (
                sorted((x["name"], str(x["type"]), x["nullable"]) for x in seen.get_columns(name)),
                sorted(
                    (x["name"], tuple(x["column_names"]), bool(x["unique"]))
                    for x in seen.get_indexes(name)
                ),
            )
            for name in seen.get_table_names()
        }

    found = []
    for each in (path, tmp_path / "new" / "store.sqlite"):
        database = Database(SqliteFile(each), clock)
        version = await database.run(lambda c: c.scalar(select(schema.meta.c.schema_version)))
        found.append((version, await database.run(tables)))
        await database.close()
    assert found[0] == found[1]


async def test_what_is_held_in_a_version_2_store_stays_held(open_database, clock):
    older = open_database()
    site = Site(older, clock)
    node = await site.join()
    lock = await node.take("k1", ONE)

    def make_older(c):
        for index in ("tasks_by_kernel", "tasks_by_notebook"):
            c.execute(text(f"DROP INDEX {index}"))
        for column in ("given_id", "kernel_id", "notebook"):
            c.execute(text(f"ALTER TABLE tasks DROP COLUMN {column}"))
        c.execute(text("UPDATE meta SET schema_version = 2"))

    await older.run(make_older)
    newer = open_database()
    assert await Site(newer, clock).tasks.newest(None, limit=9) == []
    assert [x.fence for x in await Site(newer, clock).active()] == [lock.fence]
    assert (
        await newer.run(lambda c: c.scalar(select(schema.meta.c.schema_version))) == SCHEMA_VERSION
    )


async def test_tasks_of_an_older_store_are_known_by_their_kernel(path, clock):
    a_version_1_file(path, boot="another boot", expires_at_us=1)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE tasks SET holder_id = 'a.kernel.7' WHERE task_id = 't2'")
    connection.commit()
    connection.close()
    database = Database(SqliteFile(path), clock)
    tasks = Site(database, clock).tasks
    assert [x.task_id for x in await tasks.newest_of("a.kernel", "", limit=9)] == ["t2"]
    assert [x.task_id for x in await tasks.newest_of("k1", "", limit=9)] == ["t1"]
    assert await tasks.newest_of("a", "", limit=9) == []
    await database.close()


async def test_a_file_is_brought_up_to_date_once(path, clock):
    a_version_1_file(path, boot="another boot", expires_at_us=1)
    databases = [Database(SqliteFile(path), clock) for _ in range(4)]
    ids = await asyncio.gather(*(Site(x, clock).locks.store_id() for x in databases))
    assert len(set(ids)) == 1
    for each in databases:
        await each.close()


async def test_a_file_that_an_older_version_uses_is_refused_and_left_as_it_is(path, clock):
    a_version_1_file(path, boot=boot_id(), expires_at_us=now_us() + 10**9)
    before = what_is_in(path)
    database = Database(SqliteFile(path), clock)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="older jupyter_comfy_lock") as refused:
            await Site(database, clock).join()
        assert str(path) in refused.value.message
    assert what_is_in(path) == before
    old = sqlite3.connect(path)
    old.execute("UPDATE nodes SET expires_at_us = 0")
    old.commit()
    old.close()
    assert await (await Site(database, clock).join()).expire() == ([], ["t1"])
    await database.close()


async def test_a_newer_file_is_refused_and_left_as_it_is(path, clock):
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.executescript(
        "PRAGMA journal_mode=WAL; CREATE TABLE meta (id INTEGER PRIMARY KEY, rev BIGINT NOT NULL, "
        "schema_version INTEGER NOT NULL, novelty TEXT NOT NULL); "
        f"INSERT INTO meta VALUES (1, 5, {SCHEMA_VERSION + 1}, 'x');"
    )
    connection.close()
    before = path.read_bytes()
    database = Database(SqliteFile(path), clock)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="newer jupyter_comfy_lock") as refused:
            await Site(database, clock).join()
        assert str(path) in refused.value.message
    await database.close()
    assert path.read_bytes() == before


async def test_a_newer_postgresql_database_is_refused_and_left_as_it_is(empty_postgres_url, clock):
    with psycopg.connect(empty_postgres_url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE meta (id INTEGER PRIMARY KEY, rev BIGINT, schema_version INTEGER, x TEXT)"
        )
        connection.execute("INSERT INTO meta VALUES (1, 5, %s, 'x')", [SCHEMA_VERSION + 1])
        database = Database(postgres_server(empty_postgres_url), clock)
        with pytest.raises(StoreUnavailable, match="newer jupyter_comfy_lock") as refused:
            await Site(database, clock).join()
        assert "***@127.0.0.1" in refused.value.message
        await database.close()
        tables = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        ).fetchall()
        assert tables == [("meta",)]
        rows = connection.execute("SELECT * FROM meta").fetchall()
        assert rows == [(1, 5, SCHEMA_VERSION + 1, "x")]


# -- made by several at once ---------------------------------------------------------------------


async def test_several_threads_that_open_a_new_store_at_once_make_one(open_database):
    databases = [open_database() for _ in range(6)]
    ids = await asyncio.gather(
        *(x.run(lambda c: c.scalars(select(schema.meta.c.store_id)).one()) for x in databases)
    )
    assert len(set(ids)) == 1
    rows = await databases[0].run(lambda c: c.scalar(text("SELECT count(*) FROM meta")))
    assert rows == 1


def open_now(kind, where, start, results):
    """Open the store when all are ready, in a process of its own."""
    backend = SqliteFile(Path(where)) if kind == "sqlite" else postgres_server(where)
    database = Database(backend)
    start.wait(60)
    try:
        results.put(database.transact(lambda c: c.scalars(select(schema.meta.c.store_id)).one()))
    except Exception as error:  # noqa: BLE001 - told to the test
        results.put(error)
    database.dispose()


async def test_several_processes_that_open_a_new_store_at_once_make_one(kind, path, request):
    where = str(path) if kind == "sqlite" else request.getfixturevalue("empty_postgres_url")
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(3), context.Queue()
    processes = [
        context.Process(target=open_now, args=(kind, where, start, results)) for _ in range(3)
    ]
    for each in processes:
        each.start()
    ids = [await asyncio.to_thread(results.get, True, 60) for _ in processes]
    for each in processes:
        await asyncio.to_thread(each.join, 30)
    assert len(set(map(str, ids))) == 1
    assert not isinstance(ids[0], Exception)
