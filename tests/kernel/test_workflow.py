"""A workflow in a notebook: loaded from anything, changed by name, checked, shown and sent."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest

import jupyter_comfy_lock as comfy
from jupyter_comfy_lock.domain.errors import NoLock
from tests.domain.workflow.canvas import OBJECT_INFO, Canvas, info
from tests.kernel.fake_jupyter import FakeJupyter

pytestmark = pytest.mark.usefixtures("session")

PROMPT = {
    "1": {
        "class_type": "Picture",
        "inputs": {"width": 64, "seed": 7, "style": "round"},
        "_meta": {"title": "Picture"},
    },
    "2": {
        "class_type": "Save",
        "inputs": {"images": ["1", 0], "prefix": "x"},
        "_meta": {"title": "My save"},
    },
}


@pytest.fixture(autouse=True)
def its_nodes(jupyter: FakeJupyter) -> None:
    jupyter.object_info = OBJECT_INFO


def saved() -> dict[str, Any]:
    """The same as the editor saves it."""
    canvas = Canvas()
    canvas.node("Picture", [64, 7, "randomize", "round"])
    canvas.node("Save", ["x"], images=(1, 0), title="My save")
    return canvas.saved()


def sent(jupyter: FakeJupyter) -> dict[str, Any]:
    """The prompt that was sent last."""
    return jupyter.prompts[-1]


def png(**texts: str) -> bytes:
    notes = PIL.PngImagePlugin.PngInfo()
    for key, text in texts.items():
        # As the front end does it, and as ComfyUI does.
        (notes.add_itxt if "ü" in text else notes.add_text)(key, text)
    stream = io.BytesIO()
    PIL.Image.new("RGB", (4, 4)).save(stream, "PNG", pnginfo=notes)
    return stream.getvalue()


def webp(**texts: str) -> bytes:
    """As SaveAnimatedWEBP writes it: the prompt into Model, the rest from Make on down."""
    exif = PIL.Image.Exif()
    exif[0x0110] = f"prompt:{texts.pop('prompt')}" if "prompt" in texts else "x"
    for below, (key, text) in enumerate(texts.items()):
        exif[0x010F - below] = f"{key}:{text}"
    stream = io.BytesIO()
    PIL.Image.new("RGB", (4, 4)).save(stream, "WEBP", exif=exif)
    return stream.getvalue()


FORMS = {
    "prompt.json": json.dumps(PROMPT).encode(),
    "editor.json": json.dumps(saved()).encode(),
    "wrapped.json": json.dumps({"prompt": PROMPT, "client_id": "a"}).encode(),
    "byte_order_mark.json": b"\xef\xbb\xbf" + json.dumps(PROMPT).encode(),
    "both.png": png(prompt=json.dumps(PROMPT), workflow=json.dumps(saved())),
    "editor.png": png(workflow=json.dumps(saved())),
    "itxt.png": png(workflow=json.dumps(saved() | {"name": "ü"}, ensure_ascii=False)),
    "both.webp": webp(prompt=json.dumps(PROMPT), workflow=json.dumps(saved())),
    "editor.webp": webp(workflow=json.dumps(saved())),
}


class TestLoad:
    """Whatever holds it, it is the same workflow."""

    @pytest.mark.parametrize("name", FORMS)
    def test_the_same_workflow_in_any_file_is_the_same_prompt(self, name, tmp_path):
        path = tmp_path / name
        path.write_bytes(FORMS[name])
        assert comfy.Workflow.load(path).prompt == PROMPT
        assert comfy.Workflow.load(str(path)).prompt == PROMPT

    @pytest.mark.parametrize("form", [PROMPT, saved(), json.dumps(PROMPT), json.dumps(saved())])
    def test_it_may_be_a_mapping_or_json(self, form):
        assert comfy.Workflow.load(form).prompt == PROMPT

    def test_what_the_editor_saved_needs_a_lock_and_says_which_it_took(self, capsys, jupyter):
        comfy.Workflow.load(saved())
        assert capsys.readouterr().out == "Locked gpu-2, the best free ComfyServer.\n"
        comfy.Workflow.load(saved())
        assert jupyter.count("GET gateway object_info") == 1

    def test_a_prompt_needs_nobody(self, jupyter):
        workflow = comfy.Workflow.load(PROMPT).set(seed=1)
        workflow["1"].width = 8
        assert {"width", "seed"} <= set(dir(workflow["1"]))
        assert "round" in workflow._repr_html_()
        assert jupyter.calls == []

    @pytest.mark.parametrize(
        "url", ["http://gpu-1:8188/view", "http://gpu-1:8188/api/view", "{comfy.url}view"]
    )
    def test_a_picture_of_the_locked_server_is_loaded_from_its_url(self, url, jupyter):
        comfy.lock("gpu-1")
        jupyter.files["a b.png"] = FORMS["both.png"]
        address = url.format(comfy=comfy).replace("{comfy.url}", str(comfy.url))
        assert comfy.Workflow.load(f"{address}?filename=a%20b.png&type=output").prompt == PROMPT

    @pytest.mark.parametrize(
        "url",
        [
            "http://elsewhere/view?filename=a.png",
            "http://gpu-2:8188/view?filename=a.png",
            "http://gpu-1:8188/object_info",
            "http://gpu-1:8188@elsewhere/view?filename=a.png",
            "http://gpu-1:8188/../view?filename=a.png",
        ],
    )
    def test_no_other_address_is_asked_for_anything(self, url, jupyter):
        comfy.lock("gpu-1")
        with pytest.raises(comfy.NotYours, match=r"the locked ComfyServer \(gpu-1\)"):
            comfy.Workflow.load(url)
        assert not any("view" in call for call in jupyter.calls)

    def test_a_picture_that_is_not_there_is_told(self):
        comfy.lock("gpu-1")
        with pytest.raises(comfy.ComfyLockError, match="has no such file"):
            comfy.Workflow.load("http://gpu-1:8188/view?filename=gone.png")

    @pytest.mark.parametrize(
        ("name", "content", "why"),
        [
            ("plain.png", png(), "carries no workflow"),
            ("broken.png", FORMS["both.png"][:40], "no picture that can be read"),
            ("torn.png", png(prompt="{"), "The prompt in the workflow .* is not JSON: line 1"),
            ("list.png", png(prompt="[1]"), "a JSON list"),
            ("other.webp", webp(), "carries no workflow"),
            ("noise.bin", b"\xff\xfe\x00", "neither JSON nor a PNG or WebP"),
            ("text.json", b"hello", "not JSON: line 1, column 1"),
            ("deep.json", b"[" * 100_000, "not JSON|nested too deep"),
            ("number.json", b"7", "a JSON int"),
        ],
    )
    def test_what_holds_no_workflow_says_so(self, name, content, why, tmp_path):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(comfy.InvalidWorkflow, match=why):
            comfy.Workflow.load(path)

    def test_missing_nodes_are_named(self, jupyter):
        del jupyter.object_info["Picture"]
        with pytest.raises(comfy.InvalidWorkflow, match=r"node 1 \(Picture\)"):
            comfy.Workflow.load(saved())
        jupyter.object_info["Picture"] = OBJECT_INFO.get("Picture")

    @pytest.fixture(autouse=True)
    def own_copy(self, jupyter):
        jupyter.object_info = dict(OBJECT_INFO)


class TestChange:
    """Values are set by node and name, and checked."""

    def test_a_nodes_values_are_its_attributes(self):
        workflow = comfy.Workflow.load(PROMPT)
        workflow["Picture"].seed = 11
        workflow["My save"]["prefix"] = "y"
        assert workflow["1"].seed == 11
        assert workflow.prompt["2"]["inputs"]["prefix"] == "y"
        assert workflow["2"].images == ["1", 0]

    def test_names_are_found_by_themselves(self):
        workflow = comfy.Workflow.load(PROMPT).set(seed=3, my_save="z", **{"1.width": 32})
        assert workflow.prompt["1"]["inputs"] == {"width": 32, "seed": 3, "style": "round"}
        assert workflow.prompt["2"]["inputs"]["prefix"] == "z"

    def test_all_are_set_or_none(self):
        workflow = comfy.Workflow.load(PROMPT)
        with pytest.raises(comfy.InvalidWorkflow, match="no parameter 'nothing'"):
            workflow.set(seed=3, nothing=4)
        assert workflow.prompt == PROMPT

    def test_with_a_lock_a_value_must_fit(self):
        workflow = comfy.Workflow.load(PROMPT)
        comfy.lock("gpu-1")
        with pytest.raises(comfy.InvalidWorkflow) as refused:
            workflow["Picture"].style = "Flat"
        assert refused.value.message == (
            "node 1 (Picture), input 'style': 'Flat' is no choice; did you mean 'flat'? "
            "One of: flat, round"
        )
        assert workflow.prompt == PROMPT

    def test_a_value_must_fit_the_server_that_is_locked_now(self, jupyter):
        comfy.lock("gpu-1")
        workflow = comfy.Workflow.load(saved()).set(width=100)
        assert jupyter.count("GET gateway object_info") == 1
        jupyter.object_info = {
            **OBJECT_INFO,
            "Picture": info(required={"width": ["INT", {"max": 10}], "seed": ["INT", {}]}),
        }
        comfy.release()
        workflow.set(width=200)
        comfy.lock("gpu-2")
        with pytest.raises(comfy.InvalidWorkflow, match="300 is more than the most, 10"):
            workflow.set(width=300)

    def test_a_misspelt_input_is_told(self):
        workflow = comfy.Workflow.load(PROMPT)
        with pytest.raises(comfy.InvalidWorkflow, match="no input 'seeed'; did you mean 'seed'"):
            workflow["1"].seeed = 1
        with pytest.raises(AttributeError, match="no input 'seeed'; did you mean 'seed'"):
            workflow["1"].seeed  # noqa: B018
        assert not hasattr(workflow["1"], "_repr_markdown_")

    def test_a_copy_is_another_one(self):
        workflow = comfy.Workflow.load(PROMPT)
        other = workflow.copy().set(seed=99)
        workflow.prompt["1"]["inputs"]["seed"] = 5
        assert (workflow["1"].seed, other["1"].seed) == (7, 99)

    def test_names_are_completed(self):
        workflow = comfy.Workflow.load(saved())
        assert workflow._ipython_key_completions_() == ["Picture", "My save"]
        assert {"width", "seed", "style"} <= set(dir(workflow["Picture"]))

    def test_parameters_are_listed_as_set_takes_them(self):
        workflow = comfy.Workflow.load(saved())
        values = workflow.parameters.to_dict()
        assert values == {"1.width": 64, "1.seed": 7, "1.style": "round", "2.prefix": "x"}
        assert workflow.copy().set(**values).prompt == workflow.prompt
        assert "INT 1 to 512" in repr(workflow.parameters)


class TestPictures:
    """What a person has as a picture becomes a file on the ComfyServer, once."""

    def loading(self) -> comfy.Workflow:
        load = {"class_type": "Load", "inputs": {"image": "a.png"}}
        return comfy.Workflow.load({**PROMPT, "1": load})

    def test_a_picture_is_uploaded_when_it_is_sent_and_only_once(self, jupyter):
        workflow = self.loading()
        workflow["Load"].image = PIL.Image.new("RGB", (3, 2), "red")
        assert jupyter.uploads == []
        comfy.submit(workflow)
        comfy.submit(workflow.copy().set(prefix="another"))
        assert len(jupyter.uploads) == 1
        assert sent(jupyter)["1"]["inputs"]["image"] == "mine/there.png"
        json.dumps(workflow.prompt)

    @pytest.mark.parametrize(
        "array",
        [
            np.full((2, 3, 3), 1.0, dtype=np.float32),
            np.full((1, 2, 3, 3), 255, dtype=np.uint8),
            np.full((2, 3), True),
            np.full((2, 3, 1), 1.0),
        ],
    )
    def test_an_array_is_a_picture(self, array, jupyter):
        workflow = self.loading()
        workflow["Load"].image = array
        comfy.submit(workflow)
        start = jupyter.uploads[0].index(b"\x89PNG")
        picture = PIL.Image.open(io.BytesIO(jupyter.uploads[0][start:]))
        assert picture.size == (3, 2)
        assert picture.convert("RGB").getpixel((2, 1)) == (255, 255, 255)

    @pytest.mark.parametrize(
        ("array", "why"),
        [
            (np.zeros(5), r"not \(5,\)"),
            (np.zeros((2, 2, 7)), r"not \(2, 2, 7\)"),
            (np.full((2, 2), 255.0), "from 0 to 1, these are from 255"),
            (np.zeros((2, 2), dtype=np.int64), "not of int64"),
        ],
    )
    def test_what_is_no_picture_says_why(self, array, why):
        with pytest.raises(comfy.InvalidWorkflow, match=why):
            self.loading()["Load"].image = array

    def test_a_path_is_uploaded_as_it_is(self, tmp_path, jupyter):
        path = tmp_path / "x.JPG"
        path.write_bytes(b"jpeg bytes")
        workflow = self.loading()
        workflow["Load"].image = path
        comfy.submit(workflow)
        assert b"jpeg bytes" in jupyter.uploads[0]
        with pytest.raises(comfy.InvalidWorkflow, match=r"Cannot read .*gone.png"):
            workflow["Load"].image = tmp_path / "gone.png"

    def test_a_name_is_a_file_that_is_there_already(self, jupyter):
        workflow = self.loading()
        workflow["Load"].image = PIL.Image.new("L", (1, 1))
        workflow["Load"].image = "b.png"
        comfy.submit(workflow)
        assert jupyter.uploads == []
        assert sent(jupyter)["1"]["inputs"]["image"] == "b.png"

    def test_only_inputs_of_files_take_one(self):
        comfy.lock("gpu-1")
        with pytest.raises(comfy.InvalidWorkflow, match="input 'prefix': takes no file"):
            self.loading()["My save"].prefix = Path(__file__)


class TestCheckSaveShow:
    """Faults at once, files that come back, and a picture of it that is safe."""

    def test_all_faults_are_listed(self):
        comfy.lock("gpu-1")
        wrong = {**PROMPT, "3": {"class_type": "Savee", "inputs": {}}}
        wrong["1"] = {"class_type": "Picture", "inputs": {"width": 0, "seed": 1, "style": "flat"}}
        faults = comfy.Workflow.load(wrong).check()
        assert [(each.node_id, each.kind) for each in faults] == [
            ("3", "missing_node_type"),
            ("1", "value_smaller_than_min"),
        ]
        assert "0 is less than the least, 1" in repr(faults)
        assert not comfy.Workflow.load(PROMPT).check()

    def test_a_check_without_a_lock_says_that_it_needs_one(self):
        with pytest.raises(NoLock, match="holds no lock"):
            comfy.Workflow.load(PROMPT).check()

    def test_what_is_saved_can_be_loaded(self, tmp_path):
        workflow = comfy.Workflow.load(PROMPT).set(prefix="ü")
        workflow.save(tmp_path / "it.json")
        assert comfy.Workflow.load(tmp_path / "it.json").prompt == workflow.prompt
        with pytest.raises(comfy.InvalidWorkflow, match="Cannot write"):
            workflow.save(tmp_path / "no" / "it.json")

    def test_what_comfyui_noted_down_while_it_ran_is_not_sent_again(self, jupyter):
        noted = {"1": {**PROMPT["1"], "is_changed": [float("nan")]}, "2": PROMPT["2"]}
        comfy.submit(noted)
        assert sent(jupyter) == PROMPT

    def test_it_is_drawn_and_nothing_in_it_is_html(self):
        title = "<script>alert(1)</script>"
        evil = {**PROMPT, "1": {**PROMPT["1"], "_meta": {"title": title}}}
        drawn = comfy.Workflow.load(evil).set(prefix="<b onload=x>")._repr_html_()
        assert "<script" not in drawn
        assert "<b " not in drawn
        tree = ElementTree.fromstring(f"<html>{drawn}</html>")
        svg = tree.find(".//{http://www.w3.org/2000/svg}svg")
        assert len(svg.findall(".//{http://www.w3.org/2000/svg}rect")) == 2
        assert len(svg.findall(".//{http://www.w3.org/2000/svg}path")) == 1
        assert title[:21] in "".join(svg.itertext())
        assert "round" in "".join(tree.itertext())

    def test_it_is_listed(self):
        workflow = comfy.Workflow.load(PROMPT)
        assert repr(workflow) == (
            "Workflow of 2 nodes\n"
            "  node 1 (Picture): width=64, seed=7, style='round'\n"
            "  node 2 'My save' (Save): images=→ 1, prefix='x'"
        )
        assert "My save" in repr(workflow.nodes)

    def test_a_large_or_circular_one_is_shown_too(self):
        ring = {
            str(n): {"class_type": "X", "inputs": {"a": [str((n + 1) % 50), 0]}} for n in range(50)
        }
        assert "<svg" in comfy.Workflow.load(ring)._repr_html_()
        many = {str(n): {"class_type": "X", "inputs": {}} for n in range(500)}
        assert "500 nodes" in comfy.Workflow.load(many)._repr_html_()


def test_submit_takes_whatever_load_takes(tmp_path, jupyter):
    path = tmp_path / "editor.png"
    path.write_bytes(FORMS["editor.png"])
    for form in (comfy.Workflow.load(PROMPT), saved(), str(path), PROMPT):
        comfy.submit(form)
        assert sent(jupyter) == PROMPT


class TestRun:
    """`comfy.run`, and values that are given with the workflow."""

    @pytest.fixture(autouse=True)
    def locked(self, jupyter: FakeJupyter, session: Any) -> None:
        comfy.lock("gpu-1")
        jupyter.wait_for_call("GET events")

    def test_values_are_set_on_a_copy(self, jupyter: FakeJupyter) -> None:
        workflow = comfy.Workflow(PROMPT)
        comfy.submit(workflow, seed=8, **{"2.prefix": "y"})
        assert sent(jupyter)["1"]["inputs"]["seed"] == 8
        assert sent(jupyter)["2"]["inputs"]["prefix"] == "y"
        assert workflow["1"].seed == 7

    @pytest.mark.parametrize("call", [comfy.submit, comfy.run])
    @pytest.mark.parametrize(
        ("values", "why"),
        [
            ({"sead": 8}, "no parameter 'sead'.*seed"),
            ({"style": "square"}, "node 1 .*input 'style'"),
            ({"seed": 8, "width": "wide"}, "node 1 .*input 'width'"),
        ],
    )
    def test_a_wrong_value_is_told_in_the_workflows_terms_and_nothing_is_sent(
        self, jupyter: FakeJupyter, call: Any, values: dict[str, Any], why: str
    ) -> None:
        with pytest.raises(comfy.InvalidWorkflow, match=why):
            call(comfy.Workflow(PROMPT), **values)
        assert jupyter.prompts == []

    def test_a_run_waits_and_returns_what_was_made(self, jupyter: FakeJupyter) -> None:
        def end_it(task_id: str) -> None:
            jupyter.add_file(task_id, "a.png", b"", "image/png")
            jupyter.change(task_id, state="succeeded", started_at=1.0, ended_at=3.5, cached=True)

        jupyter.before_reply = end_it
        result = comfy.run(PROMPT, seed=8, timeout=20)
        assert repr(result) == "Result(gpu-1, 1 picture)"
        assert (result.seconds, result.cached, result.texts) == (2.5, True, [])
        assert [each.filename for each in result.files] == ["a.png"]
        assert result.task.state == "succeeded"
        assert sent(jupyter)["1"]["inputs"]["seed"] == 8

    def test_a_run_that_fails_raises_how(self, jupyter: FakeJupyter) -> None:
        jupyter.before_reply = lambda task_id: jupyter.change(task_id, state="lost", reason="gone")
        with pytest.raises(comfy.TaskLost, match="is lost: gone"):
            comfy.run(PROMPT, timeout=20)

    def test_a_run_that_takes_too_long_says_how_to_find_its_task(
        self, jupyter: FakeJupyter
    ) -> None:
        with pytest.raises(TimeoutError, match="goes on on gpu-1") as ended:
            comfy.run(PROMPT, timeout=0)
        [task_id] = jupyter.tasks
        assert f'task = comfy.task("{task_id}") finds it' in str(ended.value)

    def test_a_timeout_that_is_none_is_refused_before_anything_is_sent(
        self, jupyter: FakeJupyter
    ) -> None:
        with pytest.raises(ValueError, match="timeout must be a number of seconds"):
            comfy.run(PROMPT, timeout=-1)
        assert jupyter.prompts == []

    def test_a_dropped_output_is_warned_of_at_the_users_line(self, jupyter: FakeJupyter) -> None:
        jupyter.dropped = {"2": {"class_type": "Save", "errors": []}}
        jupyter.before_reply = lambda task_id: jupyter.change(task_id, state="succeeded")
        for call in (comfy.submit, comfy.run):
            with pytest.warns(comfy.OutputsDropped, match="without its output node 2") as said:
                call(PROMPT)
            assert said[0].filename == __file__
