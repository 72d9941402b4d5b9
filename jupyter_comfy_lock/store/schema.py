"""The tables. One schema for each database."""

import re

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    literal_column,
    or_,
    text,
)

#: Goes up with each change of the tables (see `migrations`); a store with a higher one is left
#: alone.
SCHEMA_VERSION = 4

_UNKEPT = re.compile(r"[\x00\ud800-\udfff]")


class Words(TypeDecorator[str]):
    """Any text, without what no database keeps: NUL, and halves of pairs of surrogates.

    What ComfyUI and its nodes say, and the names of files, may hold either; then a replacement
    character is kept instead, and looked for.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return what is handed to the database."""
        return None if value is None else _UNKEPT.sub("\N{REPLACEMENT CHARACTER}", value)


metadata = MetaData()

#: One row. Each change of a lock begins by raising `rev` here, which puts writers in a line and
#: makes the order of revisions the order of commits; a fence is the revision of its grant, and a
#: ticket that of its request.
meta = Table(
    "meta",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("rev", BigInteger, nullable=False),
    Column("schema_version", Integer, nullable=False),
    #: Tells this store's prompts from those of another one on the same ComfyServer.
    Column("store_id", Words, nullable=False),
)

#: One row for each Jupyter server process; renewing it keeps all its holders' locks.
nodes = Table(
    "nodes",
    metadata,
    Column("node_id", Words, primary_key=True),
    #: Where `pid` means something; see `machine`.
    Column("host", Words, nullable=False),
    Column("pid", Integer, nullable=False),
    #: Others take it for dead when they have seen `renewals` unchanged for so long.
    Column("ttl_s", Float, nullable=False),
    Column("renewals", BigInteger, nullable=False),
    #: 1 when it has said good-bye.
    Column("gone", Integer, nullable=False, server_default=text("0")),
)

locks = Table(
    "locks",
    metadata,
    Column("lock_id", Words, primary_key=True),
    Column("holder_id", Words, nullable=False),
    Column("node_id", Words, nullable=False),
    Column("name", Words, nullable=False),
    Column("mode", Words, nullable=False),
    Column("state", Words, nullable=False),
    Column("ticket", BigInteger, nullable=False),
    #: These five are null while it waits.
    Column("fence", BigInteger),
    Column("comfy_id", Words),
    Column("url", Words),
    #: The mode in which its holder held the same ComfyServer just before.
    Column("was", Words),
    #: Seconds since the epoch, for people, as all moments here.
    Column("granted_at", Float),
    Column("requested_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("ended_by", Words),
    Column("forced_by", Words, nullable=False, server_default=""),
    Column("why", Words, nullable=False, server_default=""),
    #: 1 when its node forwards nothing more under it.
    Column("confirmed", Integer, nullable=False, server_default=text("0")),
    #: The revision of its last change.
    Column("rev", BigInteger, nullable=False),
)
# Written as literals: SQLite does not use an index of some rows for a condition with parameters.
IS_HELD = locks.c.state == literal_column("'held'")
IS_WAITING = locks.c.state == literal_column("'waiting'")
IS_DRAINING = locks.c.state == literal_column("'draining'")
#: It takes up room on its ComfyServer.
IS_ACTIVE = or_(IS_HELD, IS_DRAINING)
# R1 as a constraint: whatever the code does, no holder has two, and none is twice in line.
Index(
    "one_lock_per_holder",
    locks.c.holder_id,
    unique=True,
    sqlite_where=IS_HELD,
    postgresql_where=IS_HELD,
)
Index(
    "one_wait_per_holder",
    locks.c.holder_id,
    unique=True,
    sqlite_where=IS_WAITING,
    postgresql_where=IS_WAITING,
)
Index("fences", locks.c.fence, unique=True)
Index(
    "locks_by_comfy",
    locks.c.comfy_id,
    sqlite_where=IS_ACTIVE,
    postgresql_where=IS_ACTIVE,
)
Index("locks_by_url", locks.c.url, sqlite_where=IS_ACTIVE, postgresql_where=IS_ACTIVE)
Index("locks_last_used", locks.c.comfy_id, locks.c.fence)
Index("locks_by_node", locks.c.node_id, locks.c.rev)
Index(
    "locks_held_by_node",
    locks.c.node_id,
    locks.c.fence,
    sqlite_where=IS_HELD,
    postgresql_where=IS_HELD,
)
Index("locks_by_holder", locks.c.holder_id)

#: The ComfyServers that a waiting lock wants, the preferred ones first; nothing for other locks.
wants = Table(
    "wants",
    metadata,
    Column("lock_id", Words, ForeignKey("locks.lock_id", ondelete="CASCADE"), primary_key=True),
    Column("comfy_id", Words, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("capacity", Integer, nullable=False),
    Column("url", Words, nullable=False),
)
Index("wants_by_comfy", wants.c.comfy_id)

#: What operators have decided; nothing for a ComfyServer of which nobody has decided anything.
comfy_servers = Table(
    "comfy_servers",
    metadata,
    Column("comfy_id", Words, primary_key=True),
    Column("access", Words, nullable=False),
    Column("by", Words, nullable=False),
    Column("why", Words, nullable=False),
    Column("since", Float, nullable=False),
)

#: Which kernels uploaded a file to a ComfyServer: more than one if the bytes are the same.
uploads = Table(
    "uploads",
    metadata,
    Column("comfy_id", Words, primary_key=True),
    Column("subfolder", Words, primary_key=True),
    Column("filename", Words, primary_key=True),
    Column("kernel_id", Words, primary_key=True),
    #: What some file systems take for the same name.
    Column("folded", Words, nullable=False),
)
Index("uploads_by_name", uploads.c.comfy_id, uploads.c.folded)

tasks = Table(
    "tasks",
    metadata,
    Column("task_id", Words, primary_key=True),
    Column("holder_id", Words, nullable=False),
    Column("node_id", Words, nullable=False),
    Column("comfy_id", Words, nullable=False),
    Column("name", Words, nullable=False),
    Column("lock", JSON, nullable=False),
    Column("state", Words, nullable=False),
    #: False from the moment the task has ended.
    Column("pending", Integer, nullable=False, server_default=text("1")),
    Column("cancel_requested", Integer, nullable=False, server_default=text("0")),
    #: 1 when its node has it from one that is gone.
    Column("adopted", Integer, nullable=False, server_default=text("0")),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
    Column("reason", Words),
    Column("outputs", JSON, nullable=False),
    Column("error", JSON),
    Column("cached", Integer, nullable=False, server_default=text("0")),
    Column("dropped", JSON, nullable=False),
    #: What the ComfyServer calls it, where that is not the task's id.
    Column("given_id", Words),
    #: Whose it still is when its holder has ended: its kernel's, and its notebook's if it has one.
    Column("kernel_id", Words, nullable=False, server_default=""),
    Column("notebook", Words, nullable=False, server_default=""),
)
Index("tasks_by_holder", tasks.c.holder_id, tasks.c.created_at)
Index("tasks_by_age", tasks.c.created_at)
Index("tasks_by_kernel", tasks.c.kernel_id, tasks.c.created_at)
Index("tasks_by_notebook", tasks.c.notebook, tasks.c.created_at)
IS_PENDING = tasks.c.pending == literal_column("1")
Index(
    "tasks_pending",
    tasks.c.holder_id,
    tasks.c.comfy_id,
    sqlite_where=IS_PENDING,
    postgresql_where=IS_PENDING,
)
Index(
    "tasks_pending_by_node",
    tasks.c.node_id,
    sqlite_where=IS_PENDING,
    postgresql_where=IS_PENDING,
)
