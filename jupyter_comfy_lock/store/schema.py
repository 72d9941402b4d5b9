"""The tables. One schema for each database."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    false,
    text,
)

#: Goes up with each change of the tables; a store with a higher one is left alone.
SCHEMA_VERSION = 1

metadata = MetaData()

#: One row. Each change of a lock begins by raising `rev` here, which puts writers in a line and
#: makes the order of revisions the order of commits; a fence is the revision of its grant.
meta = Table(
    "meta",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("rev", BigInteger, nullable=False),
    Column("schema_version", Integer, nullable=False),
)

#: One row for each Jupyter server process; renewing it keeps all its holders' locks.
nodes = Table(
    "nodes",
    metadata,
    Column("node_id", Text, primary_key=True),
    #: The boot in which `expires_at_us` was read: a monotonic clock means nothing in another one.
    Column("boot_id", Text, nullable=False),
    #: Microseconds of the store's clock.
    Column("expires_at_us", BigInteger, nullable=False),
)

locks = Table(
    "locks",
    metadata,
    Column("fence", BigInteger, primary_key=True, autoincrement=False),
    Column("comfy_id", Text, nullable=False),
    Column("holder_id", Text, nullable=False),
    Column("node_id", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("name", Text, nullable=False),
    #: Seconds since the epoch, for people.
    Column("granted_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("ended_by", Text),
)
# R1 as a constraint: whatever the code above does, no holder has two.
Index(
    "one_lock_per_holder",
    locks.c.holder_id,
    unique=True,
    sqlite_where=locks.c.state == "held",
    postgresql_where=locks.c.state == "held",
)
Index("locks_by_comfy", locks.c.comfy_id, locks.c.state)

tasks = Table(
    "tasks",
    metadata,
    Column("task_id", Text, primary_key=True),
    Column("holder_id", Text, nullable=False),
    Column("node_id", Text, nullable=False),
    Column("comfy_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("lock", JSON, nullable=False),
    Column("state", Text, nullable=False),
    #: False from the moment the task has ended.
    Column("pending", Integer, nullable=False, server_default=text("1")),
    Column("cancel_requested", Integer, nullable=False, server_default=false()),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
    Column("reason", Text),
    Column("outputs", JSON, nullable=False),
    Column("error", JSON),
    Column("cached", Integer, nullable=False, server_default=false()),
    Column("dropped", JSON, nullable=False),
)
Index("tasks_by_holder", tasks.c.holder_id, tasks.c.created_at)
Index(
    "tasks_pending",
    tasks.c.holder_id,
    tasks.c.comfy_id,
    sqlite_where=tasks.c.pending == 1,
    postgresql_where=tasks.c.pending == 1,
)
