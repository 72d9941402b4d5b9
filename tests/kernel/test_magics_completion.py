"""What the Tab key offers after `%comfy`, asked of IPython as a front end asks it."""

import json

import pytest
from IPython.core.completer import provisionalcompleter

import jupyter_comfy_lock as comfy
from jupyter_comfy_lock.kernel.magics.cell import CELL_COMMANDS
from jupyter_comfy_lock.kernel.magics.commands import COMMANDS
from jupyter_comfy_lock.kernel.magics.completion import OFFERS

pytestmark = pytest.mark.usefixtures("session")

NAMES = [each.__name__ for each in COMMANDS]
WORKFLOW = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 20, "sampler_name": "euler"}},
    "4": {"class_type": "KSampler", "inputs": {"steps": 3, "add noise": "enable"}},
}
UI = {
    "version": 0.4,
    "links": [],
    "nodes": [{"id": 1, "type": "Saver", "mode": 0, "pos": [0, 0], "widgets_values": ["x"]}],
}
OBJECT_INFO = {
    "KSampler": {
        "input": {
            "required": {
                "sampler_name": [["euler", "dpmpp 2m", "ddim"]],
                "add noise": ["BOOLEAN"],
            }
        }
    },
    "Saver": {"input": {"required": {"prefix": ["STRING"]}}, "output_node": True},
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "flow.json").write_text(json.dumps(WORKFLOW))
    (tmp_path / "my flow.json").write_text(json.dumps(WORKFLOW))
    (tmp_path / "ui.json").write_text(json.dumps(UI))
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden.json").touch()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "a.png").touch()
    monkeypatch.chdir(tmp_path)


def offered(shell, line):
    """What may stand instead of what follows the "|"."""
    before, text = line.split("|")
    whole = before + text
    with provisionalcompleter():
        found = list(shell.Completer.completions(whole, len(whole)))
    ours = [each for each in found if each._origin == "jupyter_comfy_lock"]
    assert all(each.start == len(before) for each in ours)
    assert ours in ([], found), "others offer something as well"
    return [each.text for each in ours]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("%comfy |", NAMES),
        ("%comfy |lo", ["lock"]),
        ("%comfy |S", ["servers", "status", "submit", "sweep", "selftest"]),
        ("x = %comfy |re", ["release"]),
        ("a.b, c = %comfy |re", ["release"]),
        ("%comfy help |sw", ["sweep"]),
        ("%comfy lock |", ["gpu-1", "gpu-2"]),
        ("%comfy lock --exclusive |gpu-2", ["gpu-2"]),
        ("%comfy lock gpu-1 |", []),
        ("%comfy lock |--", ["--exclusive", "--shared", "--wait", "--label", "--help"]),
        ("%comfy lock --wait 3 --label a |--", ["--exclusive", "--shared", "--label", "--help"]),
        ("%comfy lock gpu-1 --wait |", ["forever"]),
        ("%comfy lock --label |", ["flux"]),
        ("%comfy lock --label |fl", ["flux"]),
        ("%comfy release |--", ["--help"]),
        ("%comfy pin |", ["gpu-1", "gpu-2", "none"]),
        ("%comfy url --listen |", ["none"]),
        ("%comfy run |", ["flow.json", "'my flow.json'", "old/", "ui.json"]),
        ("%comfy run --timeout 3 |fl", ["flow.json"]),
        ("%comfy run |m", ["'my flow.json'"]),
        ("%comfy run |'my f", ["'my flow.json'"]),
        ('%comfy run |"my f', ['"my flow.json"']),
        (r"%comfy run |my\ f", ["'my flow.json'"]),
        ("%comfy run |old/", ["old/a.png"]),
        ("%comfy run |nowhere/", []),
        (
            "%comfy run flow.json |",
            ["seed=", "3.steps=", "sampler_name=", "4.steps=", "'add noise='"],
        ),
        ("%comfy run flow.json seed=1 |sa", ["sampler_name="]),
        ("%comfy run 'my flow.json' |sa", ["sampler_name="]),
        ("%comfy sweep flow.json |sa", ["sampler_name="]),
        ("%comfy run flow.json |sampler_name=", []),
        ("%comfy run $wf |sa", ["sampler_name="]),
        ("%comfy run $nothing |sa", []),
        ("%comfy run missing.json |sa", []),
        ("%comfy nothing |", []),
        ("%%comfy |", [each.__name__ for each in CELL_COMMANDS]),
        ("%%comfy submit |--", ["--help"]),
        ("%%comfy |--", ["--timeout", "--help"]),
        ("%%comfy seed=3 |--", ["--timeout", "--help"]),
    ],
)
def test_what_may_follow(shell, line, words):
    shell.user_ns.update(wf=comfy.Workflow(WORKFLOW), nothing=3)
    assert offered(shell, line) == words


def test_the_choices_of_the_locked_comfyserver_are_offered(shell, jupyter):
    jupyter.object_info = OBJECT_INFO
    comfy.lock("gpu-1")
    before = "%comfy run flow.json "
    assert offered(shell, f"{before}|sampler_name=d") == [
        "sampler_name='dpmpp 2m'",
        "sampler_name=ddim",
    ]
    assert offered(shell, f"{before}|3.sampler_name=e") == ["3.sampler_name=euler"]
    assert offered(shell, f"{before}|seed=") == []


def test_a_workflow_of_the_editor_is_known_under_a_lock_and_takes_none(shell, jupyter):
    jupyter.object_info = OBJECT_INFO
    assert offered(shell, "%comfy run ui.json |") == []
    assert jupyter.lock is None
    comfy.lock("gpu-1")
    assert offered(shell, "%comfy run ui.json |") == ["prefix="]


def test_only_tasks_that_go_on_are_offered_each_once(shell, jupyter):
    tasks = [comfy.submit(WORKFLOW) for _ in range(3)]
    jupyter.change(tasks[0].id, state="cancelled")
    jupyter.tasks[tasks[0].id]["state"] = "cancelled"
    assert set(offered(shell, "%comfy cancel |")) == {tasks[1].id, tasks[2].id}
    assert offered(shell, f"%comfy cancel {tasks[1].id} |") == [tasks[2].id]
    assert offered(shell, f"%comfy cancel |{tasks[2].id[:8]}") == [tasks[2].id]


def test_asking_changes_nothing(shell, jupyter):
    for line in ("lock ", "cancel ", "run flow.json ", "run ui.json ", "cleanup ", "selftest "):
        offered(shell, f"%comfy {line}|")
    assert not [each for each in jupyter.calls if each.split()[0] not in ("GET",)][1:]


def test_without_a_jupyter_server_what_needs_none_is_offered(shell, jupyter):
    jupyter.down = True
    assert offered(shell, "%comfy lock |") == []
    assert offered(shell, "%comfy cancel |") == []
    assert offered(shell, "%comfy run |fl") == ["flow.json"]


@pytest.mark.parametrize("line", ["|comfy_th", "%%comfy\n|comfy_th", "|%comf", "%comfy2 |fl"])
def test_other_lines_are_left_alone(shell, line):
    shell.user_ns["comfy_thing"] = 3
    assert offered(shell, line) == []


def test_each_kind_of_argument_has_its_offers():
    kinds = {
        str(action.metavar)
        for commands in (COMMANDS, CELL_COMMANDS)
        for command in commands
        for action in command.parser._actions
        if action.nargs != 0
    }
    assert kinds == set(OFFERS)
