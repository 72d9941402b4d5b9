"""Shows after the tests how long the end of a kernel took."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.comfy import empty
from tests.e2e.releases import Releases

_releases = pytest.StashKey[Releases]()


@pytest.fixture(scope="session")
def releases(request: pytest.FixtureRequest) -> Releases:
    """Where tests write down how long releases took."""
    return request.config.stash.setdefault(_releases, Releases())


@pytest.fixture(autouse=True)
def _empty_queues(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave no prompt behind: after a test that failed the next one would wait for it."""
    yield
    for pool in {"comfy_pool", "embedded_pool"}.intersection(request.fixturenames):
        for comfy in request.getfixturevalue(pool):
            empty(comfy["url"])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print what was written down."""
    table = config.stash.get(_releases, Releases()).table()
    if table:
        terminalreporter.section("seconds from the end of a kernel until everything was released")
        terminalreporter.write_line(table)
