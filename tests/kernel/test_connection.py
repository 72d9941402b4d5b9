"""Which Jupyter server a process belongs to."""

import hashlib
import hmac
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from jupyter_comfy_lock.domain.errors import NoServerExtension
from jupyter_comfy_lock.domain.proof import proof
from jupyter_comfy_lock.kernel import connection
from jupyter_comfy_lock.kernel.connection import Place, find_place, own_name

ATTACH = {"COMFY_LOCK_URL": "http://host:8888/base/", "COMFY_LOCK_TOKEN": "t"}
HUB = {"JUPYTERHUB_SERVICE_URL": "http://127.0.0.1:1/user/ann/", "JUPYTERHUB_API_TOKEN": "h"}


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def server_file(runtime: Path, pid: int = 4242, **facts: object) -> dict[str, str]:
    known = {"url": "http://127.0.0.1:8888/", "base_url": "/", "token": "t", "sock": "", "pid": pid}
    (runtime / f"jpserver-{pid}.json").write_text(json.dumps({**known, **facts}))
    return {"JPY_PARENT_PID": str(pid)}


@pytest.fixture
def in_kernel(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """As if this process were the kernel k-9, started by a Jupyter server."""
    app = SimpleNamespace(
        connection_file="/run/kernel-k-9.json",
        session=SimpleNamespace(key=b"the-key"),
        heartbeat=threading.current_thread(),
    )
    application = SimpleNamespace(initialized=lambda: True, instance=lambda: app)
    module = SimpleNamespace(IPKernelApp=application)
    monkeypatch.setitem(sys.modules, "ipykernel.kernelapp", module)
    return app


def test_a_kernel_finds_the_server_that_started_it(runtime, in_kernel):
    place = find_place(server_file(runtime))
    assert (place.url, place.kind, place.kernel_id) == ("http://127.0.0.1:8888/", "managed", "k-9")


def test_what_the_environment_says_comes_first(runtime, in_kernel):
    place = find_place({**server_file(runtime), **HUB, **ATTACH})
    assert (place.url, place.kind) == ("http://host:8888/base/", "attached")


def test_jupyterhub_comes_last(runtime, in_kernel):
    assert find_place({**server_file(runtime), **HUB}).kind == "managed"
    place = find_place(HUB)
    assert (place.url, place.authorization()) == ("http://127.0.0.1:1/user/ann/", "token h")


def test_a_process_started_by_a_kernel_attaches_to_the_kernels_server(runtime):
    place = find_place(server_file(runtime))
    assert (place.kind, place.authorization()) == ("attached", "token t")


def test_a_fork_of_a_kernel_does_not_speak_in_its_name(runtime, in_kernel):
    environ = server_file(runtime)
    assert find_place(environ).kind == "managed"
    in_kernel.heartbeat = threading.Thread(target=threading.Event().wait, daemon=True)
    in_kernel.heartbeat.start()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if find_place(environ).kind == "attached" else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert find_place(environ).kind == "managed"


def test_a_kernel_with_a_connection_file_of_another_name_attaches(runtime, in_kernel):
    in_kernel.connection_file = "/run/mine.json"
    assert find_place(server_file(runtime)).kind == "attached"


def test_the_parent_process_is_asked_where_no_variable_names_it(runtime):
    server_file(runtime, pid=os.getppid())
    assert find_place({}).url == "http://127.0.0.1:8888/"


def test_a_broken_runtime_file_is_as_none(runtime):
    (runtime / "jpserver-7.json").write_text("{")
    with pytest.raises(NoServerExtension):
        find_place({"JPY_PARENT_PID": "7"})


def test_a_server_on_a_unix_socket_is_reached_through_it(runtime):
    place = find_place(
        server_file(runtime, sock="/run/j.sock", base_url="/b/", url="http+unix://x")
    )
    assert (place.url, place.uds) == ("http://localhost/b/", "/run/j.sock")


@pytest.mark.parametrize(
    ("told", "url", "token"),
    [
        ("http://h:1", "http://h:1/", "t"),
        ("http://h:1/base/lab/tree/a.ipynb", "http://h:1/base/", "t"),
        ("http://h:1/lab?token=copied", "http://h:1/", "copied"),
        ("https://h/user/ann/tree", "https://h/user/ann/", "t"),
    ],
)
def test_an_address_copied_from_the_browser_is_understood(told, url, token):
    environ = {"COMFY_LOCK_URL": told, "COMFY_LOCK_TOKEN": "t" if token == "t" else ""}
    place = find_place(environ)
    assert (place.url, place.token) == (url, token)


def test_an_address_that_is_none_is_refused_without_repeating_its_token():
    with pytest.raises(NoServerExtension, match="COMFY_LOCK_URL must be") as refused:
        find_place({"COMFY_LOCK_URL": "localhost:8888?token=secret"})
    assert "secret" not in str(refused.value)


def test_no_server_at_all_names_every_way_out(runtime):
    with pytest.raises(NoServerExtension) as refused:
        find_place({})
    for way in ("JupyterLab", "COMFY_LOCK_URL", "COMFY_LOCK_TOKEN", "jupyter comfy-lock demo"):
        assert way in str(refused.value)


def test_the_proof_is_an_hmac_of_the_kernels_id_with_its_session_key():
    expected = hmac.new(b"key", b"jupyter-comfy-lock/v1|k-1", hashlib.sha256).hexdigest()
    assert proof(b"key", "k-1") == expected
    place = Place(url="http://h/", found_by="x", kernel_id="k-1", key=b"key")
    assert place.authorization() == f"ComfyKernelProof k-1:{expected}"


def test_no_secret_is_in_the_repr_of_a_place():
    shown = repr(
        Place(url="http://h/", found_by="x", kernel_id="k", key=b"abc-key", token="tok-en")
    )
    assert "abc-key" not in shown
    assert "tok-en" not in shown


def test_a_script_is_called_by_its_own_name_not_by_the_notebook_that_started_it(tmp_path):
    script = tmp_path / "batch.py"
    script.write_text(
        "from jupyter_comfy_lock.kernel.connection import own_name; print(own_name())"
    )
    environ = {**os.environ, "JPY_SESSION_NAME": "a.ipynb"}
    ran = subprocess.run([sys.executable, script], env=environ, capture_output=True, check=True)
    assert ran.stdout.decode().strip() == "batch.py"


@pytest.mark.usefixtures("in_kernel")
def test_a_kernel_is_called_by_its_notebook_unless_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace())
    assert own_name({"JPY_SESSION_NAME": "a.ipynb", "COMFY_LOCK_NAME": "night run"}) == "night run"
    assert own_name({"JPY_SESSION_NAME": "a.ipynb"}) == "a.ipynb"
    vscode = SimpleNamespace(__vsc_ipynb_file__="/b.ipynb")
    monkeypatch.setitem(sys.modules, "__main__", vscode)
    assert own_name({}) == "/b.ipynb"


@pytest.mark.parametrize("name", ["b\udce4r.py", "two\nlines.py", "a\x1b[2J"])
def test_a_name_that_is_no_text_is_told_without_what_is_none_in_it(name):
    told = own_name({"COMFY_LOCK_NAME": name})
    assert told.isprintable()
    assert told[0] == name[0]
    assert len(told) == len(name)


def test_this_test_process_is_no_kernel():
    assert connection.this_kernel() is None
