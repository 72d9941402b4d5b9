from collections.abc import Iterator

import pytest

from jupyter_comfy_lock.kernel import session as sessions
from jupyter_comfy_lock.kernel import task_wait
from jupyter_comfy_lock.kernel.session import Session
from tests.kernel.fake_jupyter import FakeJupyter, managed_place
from tests.kernel.shell import api as api
from tests.kernel.shell import one_shell as one_shell
from tests.kernel.shell import shell as shell


@pytest.fixture
def jupyter() -> FakeJupyter:
    return FakeJupyter()


@pytest.fixture
def session(jupyter: FakeJupyter) -> Iterator[Session]:
    """This process's session, at the fake Jupyter server."""
    made = Session(managed_place(), transport=jupyter.transport)
    sessions.use(made)
    yield made
    sessions.use(None)
    made.close()
    jupyter.drop_streams()


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits looks often, so that a test of it is short."""
    monkeypatch.setattr(task_wait, "POLL_DOWN_S", 0.02)
    monkeypatch.setattr(task_wait, "TICK_S", 0.02)
