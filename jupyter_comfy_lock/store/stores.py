"""All that is kept, in one database. Importing this imports SQLAlchemy, which takes a while."""

from dataclasses import dataclass

from jupyter_comfy_lock.store.database import Backend, Database
from jupyter_comfy_lock.store.locks import LockStore
from jupyter_comfy_lock.store.maintenance import MaintenanceStore
from jupyter_comfy_lock.store.nodes import NodeStore
from jupyter_comfy_lock.store.place import Place
from jupyter_comfy_lock.store.sqlite import SqliteFile
from jupyter_comfy_lock.store.tasks import TaskStore
from jupyter_comfy_lock.store.uploads import UploadStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """What is kept of each kind of thing."""

    database: Database
    locks: LockStore
    nodes: NodeStore
    tasks: TaskStore
    maintenance: MaintenanceStore
    uploads: UploadStore


def open_stores(place: Place, *, ttl_s: float) -> Stores:
    """Return the stores at `place`, for a node whose lease lasts `ttl_s` seconds.

    Nothing is opened before it is used: a database that is away now may be there then.
    """
    database = Database(backend_at(place))
    return Stores(
        database=database,
        locks=LockStore(database),
        nodes=NodeStore(database, ttl_s=ttl_s),
        tasks=TaskStore(database),
        maintenance=MaintenanceStore(database),
        uploads=UploadStore(database),
    )


def backend_at(place: Place) -> Backend:
    """Return the kind of database that is at `place`."""
    if place.path is not None:
        return SqliteFile(place.path)
    # Only who uses PostgreSQL has its driver.
    from jupyter_comfy_lock.store.postgres import PostgresServer  # noqa: PLC0415

    return PostgresServer(place.url)
