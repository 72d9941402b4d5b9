"""What only a real kernel of a real Jupyter server shows: interrupts, forks, children."""

import json
import re

import httpx
import pytest

from tests.e2e.comfy import endless_workflow, steps_workflow
from tests.e2e.jupyter import CellFailed, running_jupyter, until
from tests.kernel.cells import PACKAGE, shown_lines

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
    return reply_to_an_interrupt(jupyter, kernel, message_id)


def reply_to_an_interrupt(jupyter, kernel, message_id):
    jupyter.http.post(f"api/kernels/{kernel.kernel_id}/interrupt").raise_for_status()
    while True:
        message = kernel.client.get_shell_msg(timeout=20)
        if message["parent_header"]["msg_id"] == message_id:
            return message["content"]


def ends_at_the_cell(content, line):
    """The last line that the traceback points at is the cell's own; there is none of ours."""
    shown = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(content["traceback"]))
    assert shown_lines(shown)[-1].startswith(line)
    assert PACKAGE not in shown
    assert shown.endswith(content["evalue"])


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "waiting",
    [
        "task.wait()",
        "await task",
        "task.result()",
        "for event in task.events(): pass",
        "async for event in task: pass",
    ],
)
def test_an_interrupt_ends_the_waiting_and_not_the_task(jupyter, kernel, waiting):
    kernel.run(f"task = comfy.submit({endless_workflow()!r})")
    until(lambda: kernel.ask("task.state") == "running", within_s=20, what="the start")
    content = interrupted(jupyter, kernel, waiting)
    assert content["status"] == "error"
    assert "goes on on gpu-1" in content["evalue"]
    assert "task.cancel() ends it" in content["evalue"]
    ends_at_the_cell(content, waiting)
    assert kernel.ask("task.state") == "running"
    with pytest.raises(CellFailed, match="was cancelled"):
        kernel.run("task.cancel(); task.wait(60)")


@pytest.mark.timeout(240)
def test_an_interrupt_of_a_run_says_how_to_find_its_task(jupyter, kernel):
    run = f"comfy.run({endless_workflow()!r})"
    message_id = kernel.client.execute(run, stop_on_error=False)
    until(lambda: jupyter.get("tasks")["tasks"][0]["state"] == "running", within_s=20, what="it")
    content = reply_to_an_interrupt(jupyter, kernel, message_id)
    found = re.search(r'comfy\.task\("[^"]+"\)', content["evalue"])
    ends_at_the_cell(content, "comfy.run(")
    with pytest.raises(CellFailed, match="was cancelled"):
        kernel.run(f"task = {found[0]}; task.cancel(); task.wait(60)")


@pytest.mark.timeout(240)
def test_wait_and_await_in_one_notebook(kernel):
    short = steps_workflow(steps=2, delay=0.05)
    kernel.run(f"import sys; one, two = (comfy.submit({short!r}, seed=n) for n in (1, 2))")
    kernel.run("one.wait(60)\nassert (await two) is two\nassert two.wait(1) is two")
    kinds = "[each.kind for each in one.events()] + [each.kind async for each in two]"
    kernel.run(f"kinds = {kinds}")
    assert kernel.ask("[kinds, 'nest_asyncio' in sys.modules]") == [["ended", "ended"], False]


WAIT = "comfy.lock('gpu-1', mode='exclusive', wait=None)"


@pytest.mark.timeout(240)
def test_an_interrupt_leaves_the_line(jupyter, kernel, other):
    content = interrupted(jupyter, other, WAIT, said="Waiting for gpu-1")
    assert content["status"] == "error"
    assert content["evalue"] == "the waiting ended; you left the line; nothing is locked."
    ends_at_the_cell(content, WAIT)
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
