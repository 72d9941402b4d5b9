"""`debug`, `check`, `cleanup` and `selftest` as a notebook has them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

import jupyter_comfy_lock as comfy
from jupyter_comfy_lock.kernel import session as sessions
from jupyter_comfy_lock.kernel.inspect_debug import Debug, Here
from jupyter_comfy_lock.kernel.session import Session
from tests.kernel.fake_jupyter import NOW, FakeJupyter, attached_place
from tests.server.described import check_answer

HOLDER = {
    "holder_id": "k-1.1",
    "kernel_id": "k-1",
    "incarnation": 1,
    "kind": "managed",
    "name": "a.ipynb",
}
LOCK = {
    "comfy_id": "gpu-1",
    "url": "http://gpu-1:8188",
    "holder_id": "k-1.1",
    "name": "a.ipynb",
    "mode": "shared",
    "fence": 7,
    "epoch": 1,
    "restarted_at": None,
    "granted_at": NOW,
    "state": "held",
    "foreign_prompts": 0,
}
DEBUG: dict[str, Any] = {
    "at": NOW + 180,
    "holder": HOLDER,
    "process": 4711,
    "pin": None,
    "port": None,
    "lock": LOCK,
    "comfy": {
        "comfy_id": "gpu-1",
        "health": "ok",
        "reason": None,
        "version": "0.33.0",
        "epoch": 2,
    },
    "lost": None,
    "waiting": [],
    "lease": {"left_s": 20.0, "ttl_s": 30.0, "renew_every_s": 5.0, "renewed_s_ago": None},
    "tasks": {"pending": [], "last": []},
    "sockets": {"gateway": 1, "upstream": "open", "client_id": "c-1"},
    "events": {"streams": 1, "last_ended_s": None},
    "errors": [{"at": NOW + 170, "where": "POST locks", "code": "unknown_comfy", "message": "no"}],
    "versions": {"jupyter_comfy_lock": comfy.__version__, "python": "3.99"},
}
HERE = Here(holder_id="k-1.1", lock=("gpu-1", 7), live=True)
FINDING = {
    "kind": "stale_lock",
    "level": "trouble",
    "what": "The lock of <b>b</b> on gpu-1 is stale",
    "todo": "Clean up",
    "comfy_id": "gpu-1",
    "holder_id": "k-2.1",
    "task_id": None,
    "since": NOW,
}
CHECK = {
    "at": NOW,
    "looked_at": {"servers": 2, "locks": 1, "waiting": 0, "tasks": 0},
    "findings": [FINDING, {**FINDING, "kind": "comfy_changed", "level": "note", "since": None}],
    "left_out": ["The Jupyter user sees all."],
}
STEP = {
    "step_id": "release:l-1",
    "action": "release",
    "holder_id": "k-1.1",
    "comfy_id": "gpu-1",
    "subject": "l-1",
    "what": "release the shared lock on gpu-1",
    "since": NOW,
    "result": "done",
    "why": None,
}
CLEANUP = {
    "kernel": "k-1",
    "holders": ["k-1.1"],
    "dry_run": False,
    "by": "a.ipynb",
    "steps": [STEP],
}
TRIAL = {
    "name": "identity",
    "shows": "each kernel has an id",
    "verdict": "passed",
    "why": "ids differ",
    "seconds": 0.5,
}


@pytest.fixture(autouse=True)
def told(jupyter: FakeJupyter) -> None:
    jupyter.debug, jupyter.check, jupyter.cleanup = DEBUG, CHECK, CLEANUP
    jupyter.selftest = [TRIAL, {**TRIAL, "name": "tasks", "verdict": "skipped"}]


@pytest.fixture
def guest(jupyter: FakeJupyter) -> Iterator[None]:
    """This process has attached with the user's token."""
    made = Session(attached_place(), transport=jupyter.transport)
    sessions.use(made)
    yield
    sessions.use(None)
    made.close()
    jupyter.drop_streams()


@pytest.mark.parametrize(
    ("method", "path", "answer"),
    [
        ("GET", "holders/me/debug", DEBUG),
        ("GET", "check", CHECK),
        ("POST", "cleanup", CLEANUP),
        ("POST", "selftest", {"trial": TRIAL}),
    ],
)
def test_what_is_told_here_is_as_the_jupyter_server_tells_it(method, path, answer):
    media_type = "application/x-ndjson" if path == "selftest" else "application/json"
    body = json.dumps(answer).encode()
    headers = {"Content-Type": media_type}
    check_answer(method, f"comfy-lock/api/{path}", {}, 200, headers, body)


# -- debug -----------------------------------------------------------------------------------------


def test_debug_tells_both_sides(session: Session, jupyter: FakeJupyter):
    told = comfy.debug()
    assert told.json == DEBUG
    assert told.here.holder_id == "k-1.1"
    assert told.here.versions["jupyter_comfy_lock"] == comfy.__version__
    assert told.to_dict()["kernel"]["holder_id"] == "k-1.1"
    # It has not locked anything, by its own knowledge.
    assert any(
        "this kernel knows of no lock, the Jupyter server of gpu-1" in x for x in told.differs
    )


def test_debug_shows_what_is_needed_line_by_line():
    shown = repr(Debug(DEBUG, HERE)).splitlines()
    assert shown[:6] == [
        "kernel   a.ipynb",
        "holder   k-1.1 (managed, process 4711)",
        "lock     gpu-1, shared, fence 7, for 3 min",
        "server   gpu-1 ok, ComfyUI 0.33.0, life 2",
        "lease    the Jupyter server's ends in 20 s if not renewed, which it is every 5 s",
        "sockets  open to the ComfyServer, 1 at the gateway",
    ]
    assert shown[6] == "events   heard here, 1 stream(s) open there"
    assert shown[7] == "error    10 s ago, POST locks: unknown_comfy: no"
    assert not [line for line in shown if line.startswith("differs")]


def test_debug_shows_a_loss_a_wait_and_tasks():
    standing = {"comfy_ids": ["gpu-1", "gpu-2"], "why": "held by b.ipynb, you are 2nd"}
    task = {"task_id": "t-1", "comfy_id": "gpu-1", "state": "running"}
    json = {
        **DEBUG,
        "lock": None,
        "comfy": None,
        "lost": {"comfy_id": "gpu-1", "fence": 7, "why": "taken away by ann"},
        "waiting": [standing],
        "tasks": {"pending": [task], "last": [{**task, "task_id": "t-0", "state": "failed"}]},
        "pin": "gpu-2",
    }
    shown = repr(Debug(json, Here(holder_id="k-1.1", lock=None, live=True)))
    for line in (
        "lock     lost gpu-1: taken away by ann",
        "waits    for gpu-1 or gpu-2: held by b.ipynb, you are 2nd",
        "pending  t-1 on gpu-1, running",
        "last     t-0 on gpu-1, failed",
        "prefers  gpu-2, port none",
    ):
        assert line in shown.splitlines()
    assert "server   " not in shown


@pytest.mark.parametrize(
    ("json", "here", "said"),
    [
        ({}, {"holder_id": "k-1.0"}, "this kernel is k-1.0, and the Jupyter server calls it k-1.1"),
        ({}, {"lock": None}, "this kernel knows of no lock, the Jupyter server of gpu-1"),
        ({"lock": None}, {}, "this kernel knows of gpu-1, the Jupyter server of no lock"),
        ({"events": {"streams": 0}}, {}, "this kernel hears events, and the Jupyter server knows"),
        ({}, {"live": False}, "this kernel hears no events"),
        (
            {"versions": {"jupyter_comfy_lock": "9.9", "python": "3.99"}},
            {},
            "jupyter_comfy_lock is 0.1.0 here and 9.9 in the Jupyter server",
        ),
    ],
)
def test_what_differs_is_said(json: dict[str, Any], here: dict[str, Any], said: str):
    known = {"holder_id": "k-1.1", "lock": ("gpu-1", 7), "live": True}
    told = Debug({**DEBUG, **json}, Here(**{**known, **here}))
    (differs,) = told.differs
    assert differs.startswith(said)
    assert f"differs  {said}" in repr(told)
    assert told.to_dict()["differs"] == [differs]


def test_debug_as_html_is_no_html_of_others():
    error = {**DEBUG["errors"][0], "message": "<script>"}
    shown = Debug({**DEBUG, "errors": [error]}, HERE)._repr_html_()
    assert "&lt;script&gt;" in shown
    assert "<script>" not in shown


# -- check -----------------------------------------------------------------------------------------


def test_check_is_a_table_of_findings(session: Session, jupyter: FakeJupyter):
    found = comfy.check()
    assert [each.kind for each in found] == ["stale_lock", "comfy_changed"]
    assert not found.ok
    assert found.left_out == ("The Jupyter user sees all.",)
    assert found.to_dict() == CHECK
    first, todo, *_ = repr(found).splitlines()
    assert first.startswith("trouble: The lock of <b>b</b> on gpu-1 is stale (for ")
    assert todo == "    Clean up"
    assert repr(found).endswith("The Jupyter user sees all.")
    assert "&lt;b&gt;" in found._repr_html_()
    assert "nowrap" not in found._repr_html_()
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(found)
    assert "The Jupyter user sees all." in console.export_text()
    jupyter.check = {**CHECK, "findings": [CHECK["findings"][1]]}
    assert comfy.check().ok
    jupyter.check = {**CHECK, "findings": [], "left_out": []}
    assert repr(comfy.check()) == "Nothing is wrong."


def test_what_a_newer_jupyter_server_adds_does_no_harm(session: Session, jupyter: FakeJupyter):
    jupyter.check = {**CHECK, "findings": [{**FINDING, "more": 1}], "more": 2}
    assert comfy.check()[0].kind == "stale_lock"


# -- cleanup ---------------------------------------------------------------------------------------


def test_a_kernel_cleans_up_after_itself_and_knows_it_then(session: Session, jupyter: FakeJupyter):
    comfy.lock("gpu-1")
    dry = comfy.cleanup(dry_run=True)
    assert dry.dry_run
    assert repr(dry).endswith("Nothing was done: it was a dry run.")
    jupyter.lock = None
    done = comfy.cleanup()
    assert jupyter.cleanups == [
        ("the kernel", {"kernel": None, "dry_run": True}),
        ("the kernel", {"kernel": None, "dry_run": False}),
    ]
    assert [(each.action, each.result) for each in done] == [("release", "done")]
    assert (done.kernel, done.to_dict()) == ("k-1", CLEANUP)
    # Its lock was let go of, not lost: the next prompt takes a new one.
    assert comfy.submit({"1": {"class_type": "X", "inputs": {}}}).comfy_id in jupyter.pool


def test_a_notebooks_kernel_may_not_clean_up_after_another(session: Session, jupyter: FakeJupyter):
    """R10."""
    with pytest.raises(comfy.NotYours, match="Only the Jupyter user"):
        comfy.cleanup("b.ipynb")
    assert [who for who, _ in jupyter.cleanups] == ["the kernel"]


def test_who_attached_with_the_users_token_may(guest: None, jupyter: FakeJupyter):
    cleaned = comfy.cleanup("b.ipynb", dry_run=True)
    assert jupyter.cleanups[-1] == ("the user", {"kernel": "b.ipynb", "dry_run": True})
    assert [each.action for each in cleaned] == ["release"]
    jupyter.cleanup = {**CLEANUP, "steps": []}
    assert repr(comfy.cleanup()) == "There is nothing to clean up."
    assert jupyter.cleanups[-1][0] == "the kernel"


# -- selftest --------------------------------------------------------------------------------------


def test_selftest_is_a_table_that_says_whether_it_passed(session: Session, jupyter: FakeJupyter):
    came = comfy.selftest()
    assert came.passed
    assert came.skipped == ("tasks",)
    assert [each.name for each in came] == ["identity", "tasks"]
    assert "identity" in repr(came)
    assert came.to_dict() == {"passed": True, "trials": jupyter.selftest}
    jupyter.selftest = [TRIAL, {**TRIAL, "name": "locks", "verdict": "failed"}]
    assert not comfy.selftest().passed


@pytest.mark.parametrize("call", [comfy.cleanup, comfy.selftest])
@pytest.mark.parametrize(("said", "kind"), [(7, TypeError), ("", ValueError)])
def test_what_is_no_name_is_refused_and_nothing_is_sent(session, jupyter, call, said, kind):
    with pytest.raises(kind, match=r"the name of a (kernel|test) is"):
        call(said)
    assert jupyter.calls == []
