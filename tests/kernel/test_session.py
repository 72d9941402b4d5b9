"""Hello, the lock, and what happens when the Jupyter server forgets us."""

import os
import threading

import pytest

from jupyter_comfy_lock.domain.errors import (
    ComfyLockError,
    LockRefused,
    NoServerExtension,
    StaleLock,
    UnknownComfy,
    WrongCredential,
)
from jupyter_comfy_lock.kernel import session as sessions
from jupyter_comfy_lock.kernel.session import Session
from tests.kernel.fake_jupyter import KERNEL_ID, FakeJupyter, attached_place, managed_place

PROMPT = {"1": {"class_type": "X", "inputs": {}}}


def at(jupyter: FakeJupyter, place) -> Session:
    return Session(place, transport=jupyter.transport)


def submit(session: Session):
    return session.submit(PROMPT, on_lock=lambda _: None)


def test_a_managed_kernel_says_hello_with_its_proof_once(jupyter, session):
    session.servers()
    session.servers()
    [hello] = jupyter.hellos
    assert hello["kernel_id"] == KERNEL_ID


def test_nothing_is_sent_before_the_first_call(jupyter, session):
    assert jupyter.calls == []


def test_an_attached_process_says_hello_with_the_token_under_an_id_of_its_own(jupyter):
    session = at(jupyter, attached_place())
    session.servers()
    [hello] = jupyter.hellos
    assert hello["kernel_id"].startswith("attached-")
    assert hello["kernel_id"].startswith("attached-")
    session.close()


def test_an_attached_process_leaves_when_it_ends_and_a_managed_one_does_not(jupyter):
    for place, leaves in ((managed_place(), 0), (attached_place(), 1)):
        session = at(jupyter, place)
        session.servers()
        session.close()
        assert jupyter.count("DELETE holders/me") == leaves


def test_a_kernel_that_its_server_does_not_know_attaches_with_the_servers_token(jupyter):
    jupyter.knows_kernel = False
    session = at(jupyter, managed_place(token="the-token"))
    session.servers()
    assert jupyter.hellos[0]["kernel_id"].startswith("attached-")
    session.close()


def test_a_wrong_token_is_said_to_be_wrong(jupyter):
    with pytest.raises(WrongCredential, match="the token in COMFY_LOCK_TOKEN"):
        at(jupyter, attached_place(token="bad")).servers()


def test_a_missing_token_is_said_to_be_missing(jupyter):
    with pytest.raises(WrongCredential, match="COMFY_LOCK_TOKEN is not set"):
        at(jupyter, attached_place(token="")).servers()


def test_a_server_without_the_extension_is_told_how_to_check_it(jupyter, session):
    jupyter.installed = False
    with pytest.raises(NoServerExtension, match="jupyter server extension list"):
        session.servers()


def test_a_silent_server_is_named(jupyter, session):
    jupyter.down = True
    with pytest.raises(NoServerExtension, match=r"http://jupyter\.test/base/.*does not answer"):
        session.servers()


def test_after_a_failed_hello_the_next_call_tries_again(jupyter, session):
    jupyter.down = True
    with pytest.raises(NoServerExtension):
        session.servers()
    jupyter.down = False
    assert len(session.servers()) == 2


@pytest.mark.complaint(20)
def test_a_prompt_whose_answer_was_lost_is_one_task_all_the_same(jupyter, session):
    session.lock("gpu-1")
    jupyter.lose_replies = 1
    task = submit(session)
    assert [task.id] == list(jupyter.tasks)
    assert jupyter.count("POST tasks") == 2


def test_many_threads_say_one_hello(jupyter, session):
    threads = [threading.Thread(target=session.servers) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(jupyter.hellos) == 1


def test_locking_the_same_comfyserver_again_gives_the_same_lock(session):
    first, again = session.lock("gpu-1"), session.lock("gpu-1")
    assert (first.fence, first.new) == (1, True)
    assert (again.fence, again.new) == (1, False)


def test_an_unknown_comfyserver_names_the_known_ones_and_loses_nothing(session):
    session.lock("gpu-1")
    with pytest.raises(UnknownComfy, match="gpu-1, gpu-2"):
        session.lock("gpu-9")
    assert session.locked().comfy_id == "gpu-1"


def test_a_refused_lock_says_what_the_server_said(jupyter, session):
    jupyter.refuse = LockRefused("gpu-1", "b.ipynb holds it exclusively", [])
    with pytest.raises(LockRefused, match=r"b\.ipynb holds it exclusively"):
        session.lock("gpu-1")


def test_release_tells_what_was_held(session):
    session.lock("gpu-1")
    assert session.release() == "gpu-1"
    assert session.release() is None


def test_a_forgotten_kernel_says_hello_again_and_the_call_succeeds(jupyter, session):
    session.servers()
    jupyter.forget()
    assert len(session.servers()) == 2
    assert len(jupyter.hellos) >= 2


@pytest.mark.complaint(14)
def test_a_forgotten_lock_is_told_and_not_silently_replaced(jupyter, session):
    session.lock("gpu-1")
    jupyter.forget()
    for _ in range(2):
        with pytest.raises(StaleLock, match=r"'gpu-1'.*Jupyter server was restarted"):
            submit(session)
    assert jupyter.count("POST locks") == 1
    session.lock("gpu-2")
    assert submit(session).comfy_id == "gpu-2"


def test_a_lock_that_was_taken_away_is_told_with_the_reason(jupyter, session):
    session.lock("gpu-1")
    jupyter.wait_for_call("GET events")
    jupyter.take_lock_away("released by the operator")
    heard = submit_until_told(session, "released by the operator")
    assert heard.details["comfy_id"] == "gpu-1"


def submit_until_told(session: Session, reason: str) -> StaleLock:
    """The refusal, once the news of the reason has arrived."""
    deadline = threading.Event()
    for _ in range(400):
        with pytest.raises(StaleLock) as refused:
            submit(session)
        if reason in str(refused.value):
            return refused.value
        deadline.wait(0.01)
    raise AssertionError(str(refused.value))


def test_after_a_release_submitting_locks_afresh(session):
    session.lock("gpu-1")
    session.release()
    told = []
    session.submit(PROMPT, on_lock=told.append)
    assert [each.comfy_id for each in told] == ["gpu-2"]


def test_a_call_is_repeated_once_only(jupyter, session, monkeypatch):
    session.servers()
    monkeypatch.setattr(jupyter, "holders", {})
    real = jupyter._hello

    def hello_and_forget(request):
        answer = real(request)
        jupyter.holders = {}
        return answer

    monkeypatch.setattr(jupyter, "_hello", hello_and_forget)
    with pytest.raises(ComfyLockError, match="credential"):
        session.servers()
    assert jupyter.count("GET pool") <= 3


def test_the_gateways_url_is_absolute_and_shows_no_secret(session):
    assert session.url == "http://jupyter.test/base/comfy-lock/gateway/key-1/"
    assert "key-1" not in repr(session.url)


def test_a_port_is_opened_and_closed_on_request(jupyter, session):
    assert session.listen(0) == "http://127.0.0.1:40123"
    assert session.listen(8188) == "http://127.0.0.1:8188"
    assert session.listen(None) is None
    assert jupyter.port is None


def test_a_server_on_a_socket_has_no_gateway_url(jupyter):
    with pytest.raises(ComfyLockError, match="listens on the socket"):
        _ = at(jupyter, managed_place(uds="/run/j.sock")).url


def test_a_fork_gets_a_session_of_its_own(session):
    assert sessions.current() is session
    pid = os.fork()
    if pid == 0:
        os._exit(0 if sessions._current is None else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_an_object_of_the_parent_says_so_in_a_fork(session, monkeypatch):
    task = submit(session)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(ComfyLockError, match="is a fork"):
        task.cancel()
