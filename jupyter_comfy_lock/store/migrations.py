"""How a store of an older version becomes one of this version."""

import time
from collections.abc import Callable
from uuid import uuid4

from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Column, Connection, Integer, Text, insert, inspect, select, text
from sqlalchemy import update as update_rows

from jupyter_comfy_lock.domain.errors import StoreUnavailable
from jupyter_comfy_lock.domain.lock import kernel_of
from jupyter_comfy_lock.store import schema
from jupyter_comfy_lock.store.machine import boot_id


def prepare(c: Connection, shown: str, wall_us: int) -> None:
    """Make the tables, or bring older ones up to date, in the caller's transaction.

    Raises:
        StoreUnavailable: the store was written by a newer version, or one that is still running
            uses it; it is left as it is.
    """
    if not inspect(c).has_table("meta"):
        _create(c, wall_us)
        return
    version = c.scalar(text("SELECT schema_version FROM meta"))
    if version is None:
        _create(c, wall_us)
        return
    if version > schema.SCHEMA_VERSION:
        msg = (
            f"The store {shown} was written by a newer jupyter_comfy_lock (schema "
            f"{version}, this one knows {schema.SCHEMA_VERSION}). It is left as it is; upgrade "
            "jupyter_comfy_lock in this environment."
        )
        raise StoreUnavailable(msg)
    for each in range(version, schema.SCHEMA_VERSION):
        _STEPS[each](c, shown)
    if version != schema.SCHEMA_VERSION:
        c.execute(update_rows(schema.meta).values(schema_version=schema.SCHEMA_VERSION))


def _create(c: Connection, wall_us: int) -> None:
    schema.metadata.create_all(c)
    if c.scalar(select(schema.meta.c.id)) is None:
        c.execute(
            insert(schema.meta),
            {
                "id": 1,
                "rev": wall_us,
                "schema_version": schema.SCHEMA_VERSION,
                "store_id": str(uuid4()),
            },
        )


def _lines_leases_and_drains(c: Connection, shown: str) -> None:
    """1 -> 2: locks can wait and drain; nodes are known by their process; the store has an id."""
    alive = text("SELECT count(*) FROM nodes WHERE boot_id = :boot_id AND expires_at_us > :now_us")
    if c.scalar(alive, {"boot_id": boot_id(), "now_us": time.monotonic_ns() // 1000}):
        msg = (
            f"The store {shown} is in use by a Jupyter server with an older jupyter_comfy_lock. "
            "Stop that one first (or wait: when it was killed, its lease ends by itself), then "
            "this one goes on."
        )
        raise StoreUnavailable(msg)
    op = Operations(MigrationContext.configure(c))
    left = list(c.scalars(text("SELECT node_id FROM nodes")))
    # Whoever held a lock is gone, as has just been seen. Their tasks remain, for others to end.
    for table in ("locks", "nodes"):
        op.drop_table(table)
    op.add_column("meta", Column("store_id", Text, nullable=False, server_default=""))
    c.execute(update_rows(schema.meta).values(store_id=str(uuid4())))
    op.add_column("tasks", Column("adopted", Integer, nullable=False, server_default=text("0")))
    schema.metadata.create_all(c)
    for node_id in left:
        row = {"node_id": node_id, "host": "", "pid": 0, "ttl_s": 0.0, "renewals": 0, "gone": 1}
        c.execute(insert(schema.nodes), row)


def _given_ids_and_uploads(c: Connection, shown: str) -> None:
    """2 -> 3: a ComfyUI may call a prompt otherwise, and uploads are known to all.

    A running Jupyter server of version 2 goes on.
    """
    op = Operations(MigrationContext.configure(c))
    op.add_column("tasks", Column("given_id", Text))
    schema.uploads.create(c, checkfirst=True)


def _whose_tasks_are(c: Connection, shown: str) -> None:
    """3 -> 4: a task is found again by its kernel, and by its notebook.

    A running Jupyter server of version 3 goes on. What it adds is found by its holder alone.
    """
    op = Operations(MigrationContext.configure(c))
    for name in ("kernel_id", "notebook"):
        op.add_column("tasks", Column(name, Text, nullable=False, server_default=""))
    for holder_id in c.scalars(text("SELECT DISTINCT holder_id FROM tasks")).all():
        c.execute(
            text("UPDATE tasks SET kernel_id = :kernel_id WHERE holder_id = :holder_id"),
            {"holder_id": holder_id, "kernel_id": kernel_of(holder_id)},
        )
    for index in schema.tasks.indexes:
        index.create(c, checkfirst=True)


#: From each version to the next.
_STEPS: dict[int, Callable[[Connection, str], None]] = {
    1: _lines_leases_and_drains,
    2: _given_ids_and_uploads,
    3: _whose_tasks_are,
}
