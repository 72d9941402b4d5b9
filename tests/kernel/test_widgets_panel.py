"""The form of a workflow: its fields, what is set in it, what is submitted."""

import threading

import pytest

import jupyter_comfy_lock as comfy
from jupyter_comfy_lock.domain.errors import PromptRejected
from tests.kernel.fake_jupyter import png

widgets = pytest.importorskip(
    "jupyter_comfy_lock.kernel.widgets",
    reason="the widget is not built",
    exc_type=FileNotFoundError,
)

SEED = 2**64 - 1
WORKFLOW = {
    "3": {
        "class_type": "KSampler",
        "inputs": {"seed": SEED, "cfg": 7.5, "sampler": "euler", "positive": ["6", 0]},
        "_meta": {"title": "Sampler"},
    },
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a lake"}},
    "9": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
}
INFO = {
    "KSampler": {
        "input": {
            "required": {
                "seed": ["INT", {"min": 0, "max": SEED}],
                "cfg": ["FLOAT", {"min": 0.0, "max": 100.0, "step": 0.1}],
                "sampler": [["euler", "ddim"], {}],
                "positive": ["CONDITIONING", {}],
            }
        }
    },
    "CLIPTextEncode": {"input": {"required": {"text": ["STRING", {"multiline": True}]}}},
    "LoadImage": {"input": {"required": {"image": [["a.png"], {"image_upload": True}]}}},
}


@pytest.fixture
def workflow(jupyter, session):
    jupyter.object_info = INFO
    session.lock("gpu-1")
    jupyter.wait_for_call("GET events")
    return comfy.Workflow.load(WORKFLOW)


@pytest.fixture
def until():
    """Wait until a form shows something, by the thread that writes it."""

    def wait(panel, shows):
        seen = threading.Event()

        def note(_=None):
            if shows(panel):
                seen.set()

        panel.observe(note)
        note()
        assert seen.wait(20), panel.get_state()

    return wait


def press(panel, kind, buffers=(), **fields):
    panel._handle_custom_msg({"kind": kind, "id": 1, **fields}, list(buffers))


def field(panel, key):
    return next(each for each in panel.fields if each["key"] == key)


def test_each_value_is_a_field_of_its_kind(workflow):
    panel = comfy.panel(workflow)
    kinds = {each["key"]: each["kind"] for each in panel.fields}
    assert kinds == {
        **{"3.seed": "int", "3.cfg": "float", "3.sampler": "choice"},
        **{"6.text": "long", "9.image": "image"},
    }
    seed = field(panel, "3.seed")
    # A page would round them.
    assert (seed["value"], seed["max"], seed["seed"]) == (str(SEED), str(SEED), True)
    assert (field(panel, "3.cfg")["min"], field(panel, "3.cfg")["step"]) == (0.0, 0.1)
    assert field(panel, "3.sampler")["choices"] == ["euler", "ddim"]
    assert field(panel, "3.sampler")["title"] == "Sampler"


def test_names_choose_the_fields_and_their_order(workflow):
    panel = comfy.panel(workflow, "prompt", "3.cfg")
    assert [each["key"] for each in panel.fields] == ["6.text", "3.cfg"]


@pytest.mark.parametrize("name", ["nonsense", "3.positive"])
def test_a_name_that_is_no_value_is_refused(workflow, name):
    with pytest.raises(comfy.InvalidWorkflow, match=name.rpartition(".")[2]):
        comfy.panel(workflow, name)


def test_what_is_set_in_the_form_is_set_in_the_workflow(workflow, until):
    panel = comfy.panel(workflow)
    press(panel, "set", values={"3.seed": "12", "3.cfg": 4, "6.text": "a sea"})
    until(panel, lambda it: it.values["6.text"] == "a sea")
    assert panel.workflow is workflow
    assert workflow["Sampler"].seed == 12
    assert workflow["Sampler"].cfg == 4
    assert panel.values["3.seed"] == "12"


def test_what_does_not_fit_is_told_at_its_field_and_changes_nothing(workflow, until):
    panel = comfy.panel(workflow)
    press(panel, "set", values={"3.cfg": 200, "3.sampler": "eular"})
    until(panel, lambda it: len(it.errors) == 2)
    assert "100" in panel.errors["3.cfg"]
    assert "'euler'" in panel.errors["3.sampler"]
    assert (workflow["Sampler"].cfg, workflow["Sampler"].sampler) == (7.5, "euler")
    press(panel, "set", values={"3.cfg": 100})
    until(panel, lambda it: set(it.errors) == {"3.sampler"})


def test_nothing_is_submitted_while_a_value_does_not_fit(jupyter, workflow, until):
    panel = comfy.panel(workflow)
    press(panel, "submit", values={"3.cfg": 200})
    until(panel, lambda it: it.note)
    assert jupyter.prompts == []


def test_submit_sends_what_the_form_says_and_follows_the_task(jupyter, workflow, until):
    panel = comfy.panel(workflow)
    press(panel, "submit", values={"6.text": "a sea"})
    until(panel, lambda it: it.task)
    (task,) = panel.tasks
    assert jupyter.prompts[0]["6"]["inputs"]["text"] == "a sea"
    assert {"node_id": "6", "name": "text", "value": "a sea"} in panel.parameters
    assert [each["id"] for each in panel.nodes] == ["3", "6", "9"]
    jupyter.add_file(task.id, "a.png", png((4, 4), "red"), "image/png")
    jupyter.change(task.id, state="succeeded")
    until(panel, lambda it: it.task["state"] == "succeeded")
    press(panel, "submit", values={})
    until(panel, lambda it: it.history)
    assert [each["task_id"] for each in panel.history] == [task.id]
    assert panel.read(panel.history[0]["files"][0]["path"]) == png((4, 4), "red")


def test_a_refusal_is_told_and_the_form_can_be_submitted_again(jupyter, workflow, until):
    panel = comfy.panel(workflow)
    jupyter.refuse = PromptRejected("node 3: no")
    press(panel, "submit", values={})
    until(panel, lambda it: it.note == "node 3: no")
    until(panel, lambda it: not it.submitting)
    jupyter.refuse = None
    press(panel, "submit", values={})
    until(panel, lambda it: it.task)
    assert panel.note == ""


def test_a_picture_that_was_dropped_is_uploaded_when_it_is_sent(jupyter, workflow, until):
    panel = comfy.panel(workflow)
    press(panel, "picture", [memoryview(png((4, 4), "red"))], key="9.image", filename="Me.PNG")
    until(panel, lambda it: it.values["9.image"] != "a.png")
    assert panel.values["9.image"].endswith(".png")
    assert jupyter.uploads == []
    press(panel, "submit", values={})
    until(panel, lambda it: it.task)
    assert len(jupyter.uploads) == 1
    assert jupyter.prompts[0]["9"]["inputs"]["image"] == "mine/there.png"


def test_cancel_asks_for_the_end_of_the_newest_task(jupyter, workflow, until):
    panel = comfy.panel(workflow)
    press(panel, "submit", values={})
    until(panel, lambda it: it.task)
    press(panel, "cancel")
    jupyter.wait_for_call(f"POST tasks/{panel.tasks[0].id}/cancel")


def test_the_text_left_in_a_saved_notebook_is_the_same_for_each_run(workflow):
    assert repr(comfy.panel(workflow)) == "Panel(5 fields)"
