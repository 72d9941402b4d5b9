from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core import interactiveshell
from IPython.core.events import EventManager, available_events
from IPython.core.formatters import DisplayFormatter

from jupyter_comfy_lock.kernel import session as sessions
from jupyter_comfy_lock.kernel import show, task_wait
from jupyter_comfy_lock.kernel.session import Session
from jupyter_comfy_lock.kernel.task import Task
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
def task(jupyter: FakeJupyter, session: Session) -> Task:
    """A task on gpu-1, with the event stream open."""
    session.lock("gpu-1")
    jupyter.wait_for_call("GET events")
    prompt = {"1": {"class_type": "X", "inputs": {}}}
    return session.submit(prompt, on_lock=lambda _: None)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits looks often, so that a test of it is short."""
    monkeypatch.setattr(task_wait, "POLL_DOWN_S", 0.02)
    monkeypatch.setattr(task_wait, "TICK_S", 0.02)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], str, bool]]:
    """What an IPython kernel sends to its front end: each text, and what it replaces."""
    sent: list[tuple[dict[str, Any], str, bool]] = []

    def publish(*, data, metadata=None, transient=None, update=False, **_):
        sent.append((data, (transient or {}).get("display_id"), update))

    shell = SimpleNamespace(
        kernel=object(),
        display_pub=SimpleNamespace(publish=publish),
        display_formatter=DisplayFormatter(),
        events=EventManager(None, available_events),
    )
    monkeypatch.setattr(show, "_shell", lambda: shell)
    monkeypatch.setattr(
        interactiveshell.InteractiveShell, "initialized", classmethod(lambda cls: True)
    )
    monkeypatch.setattr(
        interactiveshell.InteractiveShell, "instance", classmethod(lambda cls: shell)
    )
    monkeypatch.setattr(show, "_open", set())
    return sent
