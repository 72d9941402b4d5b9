import inspect
from datetime import datetime

import pytest

from jupyter_comfy_lock.domain import errors
from jupyter_comfy_lock.domain.errors import ComfyLockError, error_from_json

#: What programs rely on: these never change.
CODES = {
    *("config_error", "no_server_extension", "wrong_credential", "unknown_holder", "not_yours"),
    *("bad_request", "empty_pool", "unknown_comfy", "comfy_unreachable", "comfy_unauthorized"),
    *("not_comfyui", "comfy_unsupported", "no_lock", "lock_refused", "server_consistency"),
    *("stale_lock", "invalid_workflow", "prompt_rejected", "unknown_task", "unknown_file"),
    *("task_failed", "task_cancelled", "task_lost", "store_unavailable"),
    *("lock_timeout", "comfy_closed", "cannot_interrupt", "other_lock"),
}

MADE = [
    errors.ConfigError("pool", "why"),
    errors.UnknownHolder(),
    errors.BadRequest("mode", "must be text"),
    errors.EmptyPool(),
    errors.UnknownComfy("gpu-9", ["gpu-1", "gpu-2"]),
    errors.ComfyUnreachable("gpu-1", "refused"),
    errors.ComfyUnauthorized("gpu-1", 401),
    errors.NotComfyUI("gpu-1", "no JSON"),
    errors.ComfyUnsupported("gpu-1", "0.3.1", "0.3.33"),
    errors.NoLock("a.ipynb", prompt="t1"),
    errors.LockRefused("gpu-1", "held", [{"name": "a.ipynb", "since": 1.0}]),
    errors.LockTimeout(1.5, "held by a.ipynb", ["gpu-1", "gpu-2"]),
    errors.ComfyClosed("gpu-1", "draining", by="op", why="new driver", since=1.0),
    errors.ServerConsistencyError("k", "lock", asked="b", locked="a", pending=["t1", "t2"]),
    errors.OtherLock("a.ipynb", wanted="gpu-1", locked="gpu-2"),
    errors.StaleLock("gpu-1", 7, "why"),
    errors.UnknownTask("t1"),
    errors.CannotInterrupt("gpu-1", "0.3.33", ["t1", "t2"]),
    errors.PromptRejected("refused", node_errors={}),
]


def our_errors() -> list[type[ComfyLockError]]:
    """Those that cross the border; the kernel side may have more of its own."""
    return [x for x in ComfyLockError.__subclasses__() if x.__module__ == errors.__name__]


def test_codes_are_what_they_always_were_and_each_is_one_class():
    classes = our_errors()
    assert {each.code for each in classes} == CODES
    assert len(classes) == len(CODES)


@pytest.mark.parametrize("error", MADE, ids=lambda each: each.code)
def test_an_error_crosses_a_border_as_the_same_class_with_its_details(error):
    again = error_from_json(error.to_json())
    assert type(again) is type(error)
    assert (again.message, again.details) == (error.message, error.details)
    assert 400 <= error.http_status_hint < 600


@pytest.mark.parametrize("payload", [{}, {"code": "new"}, {"code": None, "details": None}])
def test_an_unknown_code_is_still_one_of_our_errors(payload):
    assert type(error_from_json(payload)) is ComfyLockError


def test_the_list_at_the_top_names_every_error():
    listed = inspect.getdoc(errors) or ""
    assert all(each.__name__ in listed for each in our_errors())


def test_an_unknown_comfy_server_is_answered_with_the_known_ones():
    error = errors.UnknownComfy("gpu-9", ["gpu-1", "gpu-2"])
    assert error.message == "There is no ComfyServer 'gpu-9' in the pool. Known: gpu-1, gpu-2."


def test_moving_while_tasks_pend_names_kernel_operation_both_servers_and_tasks():
    ids = ["t1", "t2", "t3", "t4"]
    error = errors.ServerConsistencyError("a.ipynb", "lock", asked="b", locked="a", pending=ids)
    for part in ("a.ipynb", "lock", "'b'", "'a'", "t1, t2, t3 and 1 more"):
        assert part in error.message
    assert error.details["pending"] == ids


def test_no_lock_names_prompt_and_kernel():
    message = errors.NoLock("a.ipynb", prompt="t1").message
    assert message.startswith(
        "Prompt t1 of a.ipynb was not sent: the kernel holds no lock. Take one"
    )
    # Other calls than a prompt need a lock too.
    message = errors.NoLock("a.ipynb").message
    assert message.startswith("Nothing of a.ipynb was sent: the kernel holds no lock.")


def test_a_wait_in_vain_is_a_timeout_for_whoever_catches_those():
    error = errors.LockTimeout(1.5, "held by a.ipynb, you are 2nd", ["gpu-1", "gpu-2"])
    assert isinstance(error_from_json(error.to_json()), TimeoutError)
    assert error.message.startswith(
        "Waited 1.5 s for gpu-1 or gpu-2 in vain: held by a.ipynb, you are 2nd."
    )


@pytest.mark.parametrize(("why", "text"), [("new driver", ": new driver. It"), ("", ". It")])
def test_a_closed_comfy_server_says_by_whom_since_when_and_what_for(why, text):
    at = datetime(2026, 11, 24, 14, 2).timestamp()
    error = errors.ComfyClosed("gpu-1", "disabled", by="ann", why=why, since=at)
    assert f"'gpu-1' is disabled by ann since 2026-11-24 14:02{text} takes no" in error.message


def test_what_may_have_happened_crosses_the_border():
    error = errors.StoreUnavailable("the store is away", may_have_happened=True)
    assert error_from_json(error.to_json()).details["may_have_happened"] is True
