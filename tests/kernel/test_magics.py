"""`%comfy` in an IPython shell: each command is one call of the Python API."""

import json
import re
from pathlib import Path

import pytest
from IPython.core.error import UsageError

import jupyter_comfy_lock as comfy
from jupyter_comfy_lock.kernel.magics.cell import CELL_COMMANDS
from jupyter_comfy_lock.kernel.magics.commands import COMMANDS
from jupyter_comfy_lock.kernel.magics.declared import summary, usage
from tests.kernel.fake_jupyter import png

pytestmark = pytest.mark.usefixtures("session")

README = Path(__file__).parents[2] / "README.md"
WORKFLOW = {"1": {"class_type": "X", "inputs": {"seed": 7}}}

#: What the project set out to have, and `submit`, which %%comfy has as well.
WANTED = {
    *("servers", "lock", "release", "pin", "status", "tasks", "cancel", "run", "sweep"),
    *("debug", "check", "cleanup", "selftest", "url", "help"),
}


def run(shell, line):
    return shell.run_line_magic("comfy", line)


def test_the_commands_are_those_that_were_wanted():
    assert {each.__name__ for each in COMMANDS} == WANTED | {"submit"}
    assert [each.__name__ for each in CELL_COMMANDS] == ["run", "submit", "check", "set"]


@pytest.mark.parametrize(
    ("line", "name", "arguments", "keywords"),
    [
        ("", "status", (), {}),
        ("status", "status", (), {}),
        ("servers", "servers", (), {}),
        ("tasks", "tasks", (), {}),
        ("lock", "lock", (None,), {"mode": None, "wait": 0, "labels": []}),
        ("lock gpu-1", "lock", ("gpu-1",), {"mode": None, "wait": 0, "labels": []}),
        ("lock -x gpu-1", "lock", ("gpu-1",), {"mode": "exclusive", "wait": 0, "labels": []}),
        (
            "lock gpu-1 --exclusive --wait 0.5",
            "lock",
            ("gpu-1",),
            {"mode": "exclusive", "wait": 0.5, "labels": []},
        ),
        ("lock --shared --wait=3", "lock", (None,), {"mode": "shared", "wait": 3, "labels": []}),
        (
            "lock --wait forever --label flux --label big",
            "lock",
            (None,),
            {"mode": None, "wait": None, "labels": ["flux", "big"]},
        ),
        ("pin gpu-1", "pin", ("gpu-1",), {}),
        ("pin none", "pin", (None,), {}),
        ("release", "release", (), {}),
        ("cancel 3f2a 77", "cancel", ("3f2a", "77"), {"all": False}),
        ("cancel --all", "cancel", (), {"all": True}),
        ("run a.json", "run", ("a.json",), {"timeout": None}),
        (
            "run 'a b.json' seed=7 --timeout 60 3.text='a lake' cfg=1.5",
            "run",
            ("a b.json",),
            {"timeout": 60, "seed": 7, "3.text": "a lake", "cfg": 1.5},
        ),
        ("submit a.png seed=-1", "submit", ("a.png",), {"seed": -1}),
        (
            "sweep a.json seed=0..2",
            "sweep",
            ("a.json",),
            {"in_flight": 4, "max_cells": 256, "seed": [0, 1, 2]},
        ),
        (
            "sweep a.json cfg=4,7 --in-flight 2 seed=1 --max-cells 9",
            "sweep",
            ("a.json",),
            {"in_flight": 2, "max_cells": 9, "cfg": [4, 7], "seed": [1]},
        ),
        ("debug", "debug", (), {}),
        ("check", "check", (), {}),
        ("cleanup", "cleanup", (None,), {"dry_run": False}),
        ("cleanup k-1 --dry-run", "cleanup", ("k-1",), {"dry_run": True}),
        ("selftest", "selftest", (None,), {}),
        ("selftest locks", "selftest", ("locks",), {}),
        ("url --listen", "listen", (0,), {}),
        ("url --listen 8188", "listen", (8188,), {}),
        ("url --listen none", "listen", (None,), {}),
    ],
)
def test_a_command_is_one_call_and_returns_what_it_returns(
    shell, api, line, name, arguments, keywords
):
    api.stand_for(name)
    assert run(shell, line) == f"{name} answer"
    assert api.calls == [(name, arguments, keywords)]


def test_the_calls_are_the_apis(shell, jupyter, capsys):
    assert run(shell, "lock gpu-1").comfy_id == "gpu-1"
    assert run(shell, "").lock.comfy_id == "gpu-1"
    assert run(shell, "servers")["gpu-1"].mine
    run(shell, "pin gpu-2")
    assert jupyter.pin == "gpu-2"
    assert list(run(shell, "tasks")) == []
    assert run(shell, "release") == "gpu-1"
    assert run(shell, "release") is None
    said = capsys.readouterr().out.splitlines()
    assert said[-2:] == ["Released gpu-1.", "No lock to release."]


def test_a_workflow_is_submitted_and_cancelled(shell, jupyter, tmp_path):
    (tmp_path / "w f.json").write_text(json.dumps(WORKFLOW))
    task = run(shell, f"submit '{tmp_path / 'w f.json'}'")
    assert jupyter.prompts == [WORKFLOW]
    assert run(shell, f"cancel {task.id[:8]}")[0].id == task.id
    assert jupyter.count(f"POST tasks/{task.id}/cancel") == 1


@pytest.fixture
def quick(jupyter):
    """A ComfyServer that has run a prompt when it has taken it."""

    def finish(task_id):
        jupyter.add_file(task_id, "a.png", png((4, 3), "red"), "image/png")
        jupyter.change(task_id, state="succeeded")

    jupyter.before_reply = finish


@pytest.mark.usefixtures("quick")
def test_run_waits_and_returns_the_result(shell, jupyter, tmp_path):
    (tmp_path / "w.json").write_text(json.dumps(WORKFLOW))
    result = run(shell, f"run {tmp_path / 'w.json'} seed=9")
    assert [image.size for image in result.images] == [(4, 3)]
    assert jupyter.prompts[0]["1"]["inputs"] == {"seed": 9}


@pytest.mark.usefixtures("quick")
def test_sweep_sends_each_combination(shell, jupyter):
    shell.user_ns["wf"] = comfy.Workflow(WORKFLOW)
    sweep = run(shell, "sweep $wf seed=0..2")
    assert sweep.wait(20).state == "succeeded"
    assert [each["1"]["inputs"]["seed"] for each in jupyter.prompts] == [0, 1, 2]


@pytest.mark.parametrize(
    ("line", "error", "why"),
    [
        ("run $wf sed=1", comfy.InvalidWorkflow, "did you mean 'seed'"),
        ("run $wf --timeout=-1", UsageError, "%comfy run: timeout must be a number of seconds"),
        ("sweep $wf seed=1,1", comfy.InvalidSweep, "seed"),
        ("sweep $wf seed=0..999", comfy.InvalidSweep, "256"),
        ("sweep $wf seed=1 --in-flight 0", comfy.InvalidSweep, "in_flight must be"),
        ("submit nowhere.json", comfy.InvalidWorkflow, "Cannot read the workflow 'nowhere.json'"),
    ],
)
def test_what_the_api_refuses_sends_nothing(shell, jupyter, line, error, why):
    shell.user_ns["wf"] = comfy.Workflow(WORKFLOW)
    with pytest.raises(error, match=why):
        run(shell, line)
    assert jupyter.calls == []


def test_the_value_can_be_kept(shell):
    shell.run_cell("held = %comfy lock gpu-1").raise_error()
    assert shell.user_ns["held"].comfy_id == "gpu-1"
    shell.run_cell("%comfy servers", store_history=True).raise_error()
    shell.run_cell("again = _", store_history=True).raise_error()
    assert shell.user_ns["again"]["gpu-1"].mine


def test_a_variable_is_the_object_itself(shell, api):
    api.stand_for("run")
    picture, workflow = object(), {"1": {}}
    shell.user_ns.update(picture=picture, wf=workflow, text="7", folder="my pictures")
    run(shell, "run $wf image=$picture text=$text prefix={folder}/a seed={3 + 4}")
    [(_, [given], keywords)] = api.calls
    assert given is workflow
    assert keywords.pop("image") is picture
    assert keywords == {"timeout": None, "text": "7", "prefix": "my pictures/a", "seed": 7}


def test_a_functions_own_variables_are_seen(shell, api):
    api.stand_for("cancel")
    code = "def f(task):\n    return get_ipython().run_line_magic('comfy', 'cancel $task')\nf('3f')"
    shell.run_cell(code).raise_error()
    assert api.calls == [("cancel", ("3f",), {"all": False})]


def test_the_url_is_shown_without_its_key_unless_it_is_asked_for(shell):
    hidden, shown = run(shell, "url"), run(shell, "url --show")
    assert hidden == shown == comfy.url
    assert "key-1" not in repr(hidden)
    assert "key-1" in repr(shown)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("lokc", r"%comfy has no command 'lokc'; did you mean 'lock'\?"),
        ("zzz", r"%comfy has no command 'zzz'\. It has: servers, lock, .*, help"),
        ("lock --exlusive", r"no option '--exlusive'; did you mean '--exclusive'\? %comfy lock"),
        ("lock --zzz=4", r"no option '--zzz'\. It has: -x, --exclusive, --shared, --wait"),
        ("release --now", r"no option '--now'\. %comfy release --help"),
        ("lock gpu-1 gpu-2", "%comfy lock: 'gpu-2' is more than it takes"),
        ("lock --wait", "--wait: expected one argument"),
        ("lock --wait soon", "--wait: needs seconds or \"forever\", not 'soon'"),
        ("lock --wait=-3", "%comfy lock: wait must be a number of seconds"),
        ("lock gpu-1 --label flux", "'gpu-1' is chosen already"),
        ("pin", "required: ID"),
        ("cancel", "%comfy cancel: name the tasks to cancel"),
        ("cancel 3f --all", "%comfy cancel: name the tasks to cancel"),
        ("run", "required: FILE"),
        ("run a.json seed", "'seed' is no NAME=VALUE; a value with spaces needs quotes"),
        ("run a.json =7", "'=7' is no NAME=VALUE"),
        ("run a.json seed=1 seed=2", "'seed' is given twice"),
        ("run a.json timeout=1", r"'timeout' is an option: --timeout …; an input of that name is"),
        ("sweep a.json max_cells=9", r"'max_cells' is an option: --max-cells …"),
        ("submit a.json timeout=1", r"an input 'timeout' is named with its node: '3\.timeout=…'"),
        ("run a.json text='a lake", "no closing quotation in text='a lake"),
        ("sweep a.json", "required: NAME=VALUES"),
        ("sweep a.json seed=0..x", "the axis 'seed': '0..x' is no range"),
        ("sweep a.json seed=1 --in-flight few", "--in-flight: needs a whole number, not 'few'"),
        ("url --listen http", "--listen: needs a whole number, not 'http'"),
        ("help lokc", "did you mean 'lock'"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(shell, api, jupyter, line, why):
    api.stand_for("run", "sweep", "submit")
    with pytest.raises(UsageError, match=why):
        run(shell, line)
    assert jupyter.calls == api.calls == []


@pytest.mark.parametrize("line", ["%comfy lokc", "%comfy cancel", "%comfy run x.json s=1 s=2"])
def test_a_usage_error_is_one_line(shell, capsys, line):
    shell.run_cell(line)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("UsageError: ")


def test_an_error_of_the_api_comes_through(shell):
    with pytest.raises(comfy.UnknownComfy, match="gpu-1, gpu-2"):
        run(shell, "lock gpu-9")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
@pytest.mark.parametrize("written", ["{} --help", "{} -h --wrong", "help {}"])
def test_each_command_has_its_own_help(shell, jupyter, capsys, command, written):
    assert run(shell, written.format(command.__name__)) is None
    told = capsys.readouterr().out
    assert " ".join(told.split()).startswith(usage(command))
    assert summary(command) in told
    others = {option for each in COMMANDS for option in options(each)} - options(command)
    assert not any(re.search(rf"{option}\b", told) for option in others)
    assert jupyter.calls == []


def options(command):
    return {name for action in command.parser._actions for name in action.option_strings}


def test_help_is_a_table_of_the_commands(shell):
    for line in ("help", "--help"):
        table = run(shell, line)
        assert [row.split()[1] for row in repr(table).splitlines()[2:]] == list(table.by_name)
    assert "<td" in table._repr_html_()
    assert repr(table) in shell.magics_manager.magics["line"]["comfy"].__doc__


def test_the_readme_has_each_command_as_it_is():
    rows = [
        f"| `{usage(command)}` | {summary(command)} |"
        for commands in (COMMANDS, CELL_COMMANDS)
        for command in commands
    ]
    found = [line for line in README.read_text().splitlines() if re.match(r"\| `%%?comfy ", line)]
    wanted = "\n".join(rows)
    assert found == rows, f"README's table of %comfy must read:\n{wanted}"


def test_loading_it_twice_is_once(shell):
    before = len(shell.Completer.custom_matchers)
    comfy.load_ipython_extension(shell)
    assert len(shell.Completer.custom_matchers) == before
