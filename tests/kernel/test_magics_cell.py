"""`%%comfy`: the workflow is the rest of the cell, JSON or Python."""

import json

import pytest
from IPython.core.error import UsageError

import jupyter_comfy_lock as comfy

pytestmark = pytest.mark.usefixtures("session")

WORKFLOW = {"1": {"class_type": "X", "inputs": {"seed": 7, "on": True}}}
ONE_SEED = {"1": {"class_type": "X", "inputs": {"seed": 7}}}
UI = {"nodes": [], "links": [], "version": 0.4}


@pytest.mark.parametrize(
    ("line", "name", "keywords"),
    [
        ("", "run", {"timeout": None}),
        ("run", "run", {"timeout": None}),
        ("run seed=3 --timeout 5", "run", {"timeout": 5, "seed": 3}),
        ("seed=3", "run", {"timeout": None, "seed": 3}),
        ("--timeout 5", "run", {"timeout": 5}),
        ("submit seed=3", "submit", {"seed": 3}),
    ],
)
def test_the_workflow_of_the_cell_is_given_to_the_api(shell, api, line, name, keywords):
    api.stand_for(name)
    assert shell.run_cell_magic("comfy", line, json.dumps(WORKFLOW)) == f"{name} answer"
    assert api.calls == [(name, (WORKFLOW,), keywords)]


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(WORKFLOW, indent=2),
        f"\n  {json.dumps(WORKFLOW)}\n",
        "wf",
        "base = dict(wf)\n\nbase",
        "{**wf}",
        "{'1': {'class_type': 'X', 'inputs': {'seed': seed, 'on': True}}}",
        "%timeit -n1 -r1 -q 0\nwf",
        json.dumps(UI),
    ],
)
def test_the_cell_is_json_or_python(shell, api, body):
    api.stand_for("run")
    shell.user_ns.update(wf=WORKFLOW, seed=7)
    shell.run_cell_magic("comfy", "", body)
    assert api.calls[0][1] == (UI if "nodes" in body else WORKFLOW,)


def test_what_the_cell_calls_something_stays(shell, api):
    api.stand_for("run")
    shell.run_cell_magic("comfy", "", "mine = {'1': {}}\nmine")
    assert shell.user_ns["mine"] == {"1": {}}


def test_set_returns_the_workflow_and_sends_nothing(shell, jupyter):
    made = shell.run_cell_magic("comfy", "set seed=9", json.dumps(WORKFLOW))
    assert made["1"].seed == 9
    assert not [call for call in jupyter.calls if call.startswith("POST")]


def test_check_tells_what_would_be_refused(shell, jupyter):
    comfy.lock("gpu-1")
    jupyter.object_info = {
        "X": {"input": {"required": {"seed": ["INT", {"max": 8}]}}, "output_node": True}
    }
    assert list(shell.run_cell_magic("comfy", "check seed=8", json.dumps(ONE_SEED))) == []
    with pytest.raises(comfy.InvalidWorkflow, match="9 is more than the most, 8"):
        shell.run_cell_magic("comfy", "check seed=9", json.dumps(ONE_SEED))
    unknown = {"1": {"class_type": "Y", "inputs": {}}}
    assert "Y" in repr(shell.run_cell_magic("comfy", "check", json.dumps(unknown)))
    assert jupyter.prompts == []


@pytest.mark.parametrize(
    ("line", "body", "why"),
    [
        ("servers", "wf", r"%%comfy has no command 'servers'. It has: run, submit, check, set"),
        ("sumbit", "wf", "did you mean 'submit'"),
        ("run a.json", "wf", "'a.json' is no NAME=VALUE"),
        ("run --timout 3", "wf", "did you mean '--timeout'"),
        ("run", "x = 1", "last line of the cell gives no workflow"),
        ("run", "  \n", "last line of the cell gives no workflow"),
        ("run", "None", "last line of the cell gives no workflow"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(shell, api, line, body, why):
    api.stand_for("run")
    with pytest.raises(UsageError, match=why):
        shell.run_cell_magic("comfy", line, body)
    assert api.calls == []


def test_a_bad_line_is_told_before_the_cell_runs(shell):
    with pytest.raises(UsageError):
        shell.run_cell_magic("comfy", "run seed", "ran = True")
    assert "ran" not in shell.user_ns


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ('{"1": {"class_type": "X"},\n "2": }', r"is not JSON: line 3, column 7: Expecting value"),
        ('{"1": {"on": true},}', r"is not JSON: line 2, column 20"),
        ("wf = (\n1 +", "is no Python: line "),
        ("a = 1\nawait a", "is no Python: line 3: 'await' outside function"),
        ("5", "got int"),
    ],
)
def test_what_is_neither_is_told_with_its_line(shell, body, why):
    with pytest.raises(comfy.InvalidWorkflow, match=why):
        shell.run_cell_magic("comfy", "submit", body)
