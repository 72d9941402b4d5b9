"""What only a real kernel of a real Jupyter server shows: interrupts, forks, children."""

import json
import time

import httpx
import pytest

from tests.e2e.comfy import steps_workflow
from tests.e2e.jupyter import CellFailed, running_jupyter, until

FORKED = """
import os
reader, writer = os.pipe()
if (pid := os.fork()) == 0:
    os.write(writer, repr(comfy.locked_server).encode())
    os._exit(0)
os.waitpid(pid, 0)
os.read(reader, 100).decode()
"""

CHILD = """
import subprocess, sys
code = "import jupyter_comfy_lock as comfy; print(comfy.lock('gpu-2').comfy_id)"
subprocess.check_output([sys.executable, "-c", code], text=True)
"""


@pytest.fixture(scope="module")
def jupyter(comfy_urls, tmp_path_factory):
    pool = [{"id": f"gpu-{n}", "url": url} for n, url in enumerate(comfy_urls, start=1)]
    with running_jupyter(pool, folder=tmp_path_factory.mktemp("jupyter")) as running:
        yield running


@pytest.fixture(scope="module")
def kernel(jupyter):
    """A kernel that has locked gpu-1."""
    made = jupyter.kernel("a.ipynb")
    made.run("import jupyter_comfy_lock as comfy; comfy.lock('gpu-1')")
    return made


@pytest.fixture
def other(jupyter):
    """Another kernel, without a lock."""
    made = jupyter.kernel("b.ipynb")
    made.run("import jupyter_comfy_lock as comfy")
    yield made
    jupyter.shut_down(made)


def interrupted(jupyter, kernel, code, *, said="here it goes"):
    """How a cell ended that was interrupted when it had `said` that."""
    message_id = kernel.begin(f"print('here it goes')\n{code}", said=said)
    jupyter.http.post(f"api/kernels/{kernel.kernel_id}/interrupt").raise_for_status()
    while True:
        message = kernel.client.get_shell_msg(timeout=20)
        if message["parent_header"]["msg_id"] == message_id:
            return message["content"]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("waiting", ["task.wait()", "await task"])
def test_an_interrupt_ends_the_waiting_and_not_the_task(jupyter, kernel, waiting):
    workflow = steps_workflow(steps=1000, delay=0.1, seed=time.time_ns() % 2**32)
    kernel.run(f"import json; task = comfy.submit(json.loads({json.dumps(workflow)!r}))")
    until(lambda: kernel.ask("task.state") == "running", within_s=20, what="the start")
    content = interrupted(jupyter, kernel, waiting)
    assert content["status"] == "error"
    assert "goes on on gpu-1" in content["evalue"]
    assert len(content["traceback"]) == 1
    assert kernel.ask("task.state") == "running"
    with pytest.raises(CellFailed, match="was cancelled"):
        kernel.run("task.cancel(); task.wait(60)")


WAIT = "comfy.lock('gpu-1', mode='exclusive', wait=None)"


@pytest.mark.timeout(240)
def test_an_interrupt_leaves_the_line(jupyter, kernel, other):
    content = interrupted(jupyter, other, WAIT, said="Waiting for gpu-1")
    assert content["status"] == "error"
    assert content["evalue"] == "the waiting ended; you left the line; nothing is locked."
    assert len(content["traceback"]) == 1
    assert jupyter.get("locks")["waiting"] == []
    assert other.ask("comfy.locked_server") is None
    assert kernel.ask("comfy.locked_server") == "gpu-1"


@pytest.mark.timeout(240)
def test_an_interrupt_of_a_block_gives_its_lock_back(jupyter, other):
    block = "with comfy.lock('gpu-2'):\n    print('in the block')\n    __import__('time').sleep(60)"
    content = interrupted(jupyter, other, block, said="in the block")
    assert content["ename"] == "KeyboardInterrupt"
    assert other.ask("comfy.locked_server") is None


@pytest.mark.timeout(240)
def test_the_line_under_the_cell_changes_in_place(kernel, other):
    message_id = other.begin(f"with {WAIT}: pass", said="Waiting for gpu-1: held by a.ipynb")
    kernel.run("comfy.release()")
    texts = {}
    while True:
        message = other.client.get_iopub_msg(timeout=20)
        content = message["content"]
        if message["parent_header"].get("msg_id") != message_id:
            continue
        if message["header"]["msg_type"] == "update_display_data":
            texts[content["transient"]["display_id"]] = content["data"]["text/plain"]
        if content.get("execution_state") == "idle":
            break
    assert list(texts.values()) == ["Locked gpu-1 exclusively."]
    kernel.run("comfy.lock('gpu-1')")


@pytest.mark.timeout(240)
def test_a_port_is_there_for_as_long_as_its_kernel(jupyter):
    made = jupyter.kernel("c.ipynb")
    made.run("import jupyter_comfy_lock as comfy, urllib.request; comfy.lock('gpu-2')")
    url = made.ask("comfy.listen()")
    assert made.ask("comfy.listen()") == url
    ask = f"urllib.request.urlopen({url!r} + '/prompt').read().decode()"
    assert json.loads(made.ask(ask)) == {"exec_info": {"queue_remaining": 0}}
    jupyter.shut_down(made)

    def closed() -> bool:
        try:
            httpx.get(url)
        except httpx.ConnectError:
            return True
        return False

    until(closed, within_s=5, what="the end of the port")


@pytest.mark.timeout(240)
def test_a_fork_of_a_kernel_has_no_lock_and_the_kernel_keeps_its_own(kernel):
    assert kernel.run(FORKED).text.strip() == "'None'"
    assert kernel.ask("comfy.locked_server") == "gpu-1"


@pytest.mark.timeout(240)
def test_a_child_of_a_kernel_is_a_holder_of_its_own(jupyter, kernel):
    assert "gpu-2" in kernel.run(CHILD).text
    assert kernel.ask("comfy.locked_server") == "gpu-1"
    until(
        lambda: [lock["comfy_id"] for lock in jupyter.locks()] == ["gpu-1"],
        within_s=10,
        what="the release of the child's lock",
    )
