"""An attached process says that it is there; the kernels of a Jupyter server need not."""

import queue
import threading

import pytest

from jupyter_comfy_lock.domain.errors import UnknownHolder
from jupyter_comfy_lock.kernel.lease import LeaseThread
from jupyter_comfy_lock.kernel.session import Session
from tests.kernel.fake_jupyter import TOKEN, attached_place, managed_place

RENEWAL = "PUT holders/me/lease"
#: Seconds between two renewals: as good as none.
AT_ONCE_S = 0.001


@pytest.fixture
def at(jupyter):
    made = []

    def session(place):
        made.append(Session(place, transport=jupyter.transport))
        return made[-1]

    yield session
    for each in made:
        each.close()
    jupyter.drop_streams()


def lease_threads():
    return [each for each in threading.enumerate() if each.name == "comfy-lock-lease"]


def test_an_attached_process_renews_as_often_as_it_is_told(jupyter, at):
    jupyter.lease = {"ttl_s": 0.003, "renew_every_s": AT_ONCE_S}
    at(attached_place()).servers()
    jupyter.wait_for_call(RENEWAL, times=3)


def test_a_kernel_that_its_server_does_not_know_renews_as_the_guest_that_it_is(jupyter, at):
    jupyter.knows_kernel = False
    jupyter.lease = {"ttl_s": 0.003, "renew_every_s": AT_ONCE_S}
    at(managed_place(token=TOKEN)).servers()
    jupyter.wait_for_call(RENEWAL)


@pytest.mark.parametrize("place", [managed_place(), attached_place()])
def test_a_managed_kernel_and_a_guest_of_an_older_server_renew_nothing(jupyter, at, place):
    before = set(lease_threads())
    if place.kind == "attached":
        jupyter.lease = None
    at(place).servers()
    assert set(lease_threads()) <= before


def test_no_failure_ends_the_renewals():
    tried: queue.Queue[int] = queue.Queue()
    failures = [UnknownHolder(), RuntimeError("a bug")]

    def renew():
        tried.put(1)
        if failures:
            raise failures.pop()

    thread = LeaseThread(renew)
    thread.keep(AT_ONCE_S)
    for _ in range(4):
        tried.get(timeout=20)
    thread.stop()


def test_the_renewals_end_with_the_session(jupyter, at):
    jupyter.lease = {"ttl_s": 0.003, "renew_every_s": AT_ONCE_S}
    before = lease_threads()
    session = at(attached_place())
    session.servers()
    [thread] = set(lease_threads()) - set(before)
    session.close()
    thread.join(20)
    assert not thread.is_alive()


def test_a_debugger_at_a_breakpoint_stops_neither_renewals_nor_events(jupyter, at):
    at(attached_place()).servers()
    ours = [each for each in threading.enumerate() if each.name.startswith("comfy-lock-")]
    assert {"comfy-lock-lease", "comfy-lock-events"} <= {each.name for each in ours}
    assert all(each.pydev_do_not_trace and each.is_pydev_daemon_thread for each in ours)
