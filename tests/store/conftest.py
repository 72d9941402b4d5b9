"""A store with a clock and a machine that the tests turn, on each database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio
from sqlalchemy.engine import make_url

from jupyter_comfy_lock.store.database import Backend, Database
from jupyter_comfy_lock.store.postgres import PostgresServer
from jupyter_comfy_lock.store.sqlite import SqliteFile
from tests.postgres import Postgres
from tests.store.site import Site, TestClock


def postgres_server(url: str) -> PostgresServer:
    return PostgresServer(make_url(url).set(drivername="postgresql+psycopg"))


def empty(url: str) -> None:
    """Remove all that is in a PostgreSQL database: faster than another one."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET client_min_messages = warning")
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")


@pytest.fixture(scope="session")
def common_postgres_url(postgres: Postgres) -> str:
    return postgres.fresh_database()


@pytest.fixture
def empty_postgres_url(common_postgres_url: str) -> str:
    """The URL of an empty database, which the next test empties again."""
    empty(common_postgres_url)
    return common_postgres_url


@pytest.fixture
def clock() -> TestClock:
    return TestClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "comfy-lock" / "store.sqlite"


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of database: a test that uses a store runs once on each."""
    return str(request.param)


@pytest.fixture
def backend(kind: str, path: Path, request: pytest.FixtureRequest) -> Backend:
    if kind == "sqlite":
        return SqliteFile(path)
    return postgres_server(request.getfixturevalue("empty_postgres_url"))


@pytest.fixture
def open_database(backend: Backend, clock: TestClock) -> Iterator[Callable[[], Database]]:
    """Opens the store once more, as another Jupyter server does."""
    opened: list[Database] = []

    def again(with_clock: TestClock | None = clock) -> Database:
        opened.append(Database(backend, with_clock))
        return opened[-1]

    yield again
    for each in opened:
        each.dispose()
        each._worker.shutdown()


@pytest.fixture
def database(open_database: Callable[[], Database]) -> Database:
    return open_database()


@pytest.fixture
def site(database: Database, clock: TestClock) -> Site:
    return Site(database, clock)


@pytest_asyncio.fixture
async def node(site: Site):
    """A Jupyter server that uses the store."""
    return await site.join()
