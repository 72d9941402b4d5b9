"""An error of ours, in a notebook: the cell's own line is the last that the traceback shows."""

from __future__ import annotations

import traceback

import pytest

import jupyter_comfy_lock as comfy
from tests.domain.workflow.canvas import OBJECT_INFO
from tests.kernel.cells import PACKAGE, Cells, shown_lines

pytestmark = pytest.mark.usefixtures("session")

PROMPT = {
    "1": {"class_type": "Picture", "inputs": {"width": 64, "seed": 7, "style": "round"}},
    "2": {"class_type": "Save", "inputs": {"images": ["1", 0], "prefix": "x"}},
}


@pytest.fixture
def cells(jupyter):
    jupyter.object_info = OBJECT_INFO
    made = Cells()
    made.run(f"comfy.lock('gpu-1'); task = comfy.submit({PROMPT!r})")
    made.run(f"wf = comfy.Workflow({PROMPT!r})")
    yield made
    made.close()


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("comfy.lock('nope')", "UnknownComfy: There is no ComfyServer 'nope'"),
        ("comfy.lock(3)", "TypeError: the id of a ComfyServer is text"),
        ("comfy.lock(mode='both')", "ValueError: mode must be"),
        ("comfy.lock(wait=-1)", "ValueError: wait must be a number of seconds"),
        ("comfy.lock(labels='flux')", "TypeError: labels must be a list"),
        ("comfy.locked_server = 3", "TypeError: comfy.locked_server must be"),
        ("comfy.url = 'x'", "AttributeError: comfy.url is read-only"),
        ("comfy.lokc", "AttributeError: module 'jupyter_comfy_lock' has no attribute 'lokc'"),
        ("with comfy.lock('nope'): pass", "UnknownComfy: "),
        ("comfy.servers()['nope']", "UnknownComfy: "),
        ("comfy.tasks()[7]", "IndexError: Tasks has 1 items; there is no number 7"),
        ("comfy.task('nope')", "UnknownTask: "),
        ("comfy.submit('nope.json')", "InvalidWorkflow: "),
        ("comfy.submit(wf, nope=1)", "InvalidWorkflow: The workflow has no parameter 'nope'"),
        ("comfy.run(wf, timeout='1')", "TypeError: timeout must be a number of seconds"),
        ("comfy.run(wf, width='wide')", "InvalidWorkflow: "),
        ("task.wait(timeout=0)", "TimeoutError: not ended after 0 s. Task "),
        ("task.result(-1)", "ValueError: timeout must be a number of seconds"),
        ("task.events('1')", "TypeError: timeout must be a number of seconds"),
        ("list(task.events(0))", "TimeoutError: not ended after 0 s"),
        ("task.images", "TaskNotEnded: Task "),
        ("task.save()", "TaskNotEnded: Task "),
        ("wf['Picture'].width = 99999999999", "InvalidWorkflow: node 1 "),
        ("wf['Picture'].nope", "AttributeError: node 1 "),
        ("wf['Nope']", "InvalidWorkflow: The workflow has no node 'Nope'"),
        ("wf.set(nope=1)", "InvalidWorkflow: The workflow has no parameter 'nope'"),
        ("wf.nodes[9]", "IndexError: Nodes has 2 items"),
        ("wf.save('/nowhere/x.json')", "InvalidWorkflow: Cannot write the workflow"),
    ],
)
def test_the_cells_own_line_is_the_last_frame(cells, line, error):
    shown = cells.traceback(f"before = 1\n{line}\nafter = 2")
    assert shown_lines(shown) == [line]
    assert PACKAGE not in shown
    assert shown.splitlines()[-1].startswith(error), shown


def ended(jupyter, cells, **how):
    task = cells.shell.user_ns["task"]
    jupyter.change(task.id, **how)
    assert list(task.events(20))[-1].kind == "ended"


@pytest.mark.parametrize(
    "line", ["task.wait()", "await task", "await gather(task)", "await wait_for(task, 5)"]
)
def test_a_failed_task_is_shown_at_the_line_that_waited_for_it(jupyter, cells, line):
    error = {"node_id": "1", "node_class": "X", "exception_type": "E", "message": "boom"}
    ended(jupyter, cells, state="failed", error={**error, "traceback": ["in node.py\n"]})
    shown = cells.traceback(f"from asyncio import gather, wait_for\n{line}")
    assert shown_lines(shown)[-1] == line
    assert PACKAGE not in shown
    assert "TaskFailed: Task" in shown
    assert shown.endswith("failed at node 1 (X): E: boom\nin node.py")


def test_what_the_users_own_code_did_before_is_shown(cells):
    cells.run("def inner():\n    comfy.lock('nope')\ndef outer():\n    inner()")
    shown = cells.traceback("try:\n    1/0\nexcept ZeroDivisionError:\n    outer()")
    lines = [line.strip() for line in shown_lines(shown)]
    assert lines == ["1/0", "outer()", "inner()", "comfy.lock('nope')"]
    assert "ZeroDivisionError: division by zero" in shown
    assert PACKAGE not in shown


def test_what_it_came_of_inside_is_not_shown(jupyter, cells):
    jupyter.down = True
    shown = cells.traceback("comfy.servers()")
    assert shown_lines(shown) == ["comfy.servers()"]
    assert "ConnectError" not in shown
    assert "NoServerExtension: The Jupyter server at" in shown


@pytest.mark.parametrize(
    ("mode", "begins"), [("Minimal", "UnknownComfy: "), ("Plain", "Traceback (most recent")]
)
def test_the_mode_that_the_user_chose_is_kept(cells, mode, begins):
    cells.run(f"%xmode {mode}")
    shown = cells.traceback("comfy.lock('nope')")
    assert shown.startswith(begins)
    assert PACKAGE not in shown


def test_a_note_on_an_error_is_shown(cells):
    code = "try:\n    comfy.lock('nope')\nexcept Exception as e:\n    e.add_note('and a note')\n"
    assert "and a note" in cells.traceback(f"{code}    raise")


def test_plain_python_shows_all_of_it():
    with pytest.raises(comfy.UnknownComfy) as refused:
        comfy.lock("nope")
    assert PACKAGE in "".join(traceback.format_exception(refused.value))


def test_showing_an_error_changes_nothing_in_it(jupyter, cells):
    jupyter.down = True
    cells.traceback("try:\n    comfy.servers()\nexcept Exception as e:\n    error = e\n    raise")
    error = cells.shell.user_ns["error"]
    assert error.__cause__ is not None
    assert PACKAGE in "".join(traceback.format_exception(error))
