"""Faults are told all at once, in the words of the workflow."""

from __future__ import annotations

from typing import Any

import pytest

from jupyter_comfy_lock.domain.workflow.check import check
from jupyter_comfy_lock.domain.workflow.nodes import node_specs
from tests.domain.workflow.canvas import SPECS


def good() -> dict[str, Any]:
    return {
        "1": {"class_type": "Picture", "inputs": {"width": 8, "seed": 1, "style": "flat"}},
        "2": {
            "class_type": "Save",
            "inputs": {"images": ["1", 0], "prefix": "x"},
            "_meta": {"title": "My save"},
        },
    }


def faults(prompt: dict[str, Any]) -> list[str]:
    return [str(each) for each in check(prompt, SPECS)]


def test_nothing_is_wrong_with_a_good_one() -> None:
    assert faults(good()) == []


@pytest.mark.parametrize(
    ("node", "name", "value", "why"),
    [
        ("1", "width", 0, "0 is less than the least, 1"),
        ("1", "width", 513, "513 is more than the most, 512"),
        ("1", "width", "wide", "must be a whole number, not 'wide'"),
        ("1", "style", "flatt", "'flatt' is no choice; did you mean 'flat'? One of: flat, round"),
        ("2", "images", ["9", 0], "a link is [id of a node, number of its output], not ['9', 0]"),
        ("2", "images", ["1", 1], "node 1 (Picture) has 1 output, none with the number 1"),
        ("2", "images", 7, "takes a link to an output of type IMAGE, not 7"),
    ],
)
def test_a_value_that_does_not_fit_is_told(node: str, name: str, value: Any, why: str) -> None:
    prompt = good()
    prompt[node]["inputs"][name] = value
    where = {"1": "node 1 (Picture)", "2": "node 2 'My save' (Save)"}[node]
    assert faults(prompt) == [f"{where}, input {name!r}: {why}"]


def test_all_faults_are_told_at_once() -> None:
    prompt = good()
    prompt["1"]["inputs"] = {"width": 0, "style": "none"}
    del prompt["2"]["inputs"]["prefix"]
    prompt["3"] = {"class_type": "Blendd", "inputs": {}}
    assert faults(prompt) == [
        "node 3 (Blendd): this ComfyServer has no such node. Custom nodes missing? "
        "Did you mean 'Blend'?",
        "node 1 (Picture), input 'width': 0 is less than the least, 1",
        "node 1 (Picture), input 'seed': is missing; it takes a value",
        "node 1 (Picture), input 'style': 'none' is no choice. One of: flat, round",
        "node 2 'My save' (Save), input 'prefix': is missing; it takes a value",
    ]


def test_a_link_must_bring_what_the_input_takes() -> None:
    prompt = good() | {"3": {"class_type": "Mask", "inputs": {"image": ["1", 0]}}}
    prompt["2"]["inputs"]["images"] = ["3", 0]
    assert faults(prompt) == [
        "node 2 'My save' (Save), input 'images': takes IMAGE, but output 0 of node 3 (Mask) "
        "gives MASK"
    ]


def test_a_workflow_without_an_output_has_nothing_to_run_for() -> None:
    prompt = {"1": good()["1"]}
    assert faults(prompt) == ["The workflow has no output: no node that saves or shows something."]


def test_what_no_output_needs_is_left_alone_as_comfyui_does() -> None:
    prompt = good() | {"3": {"class_type": "Picture", "inputs": {}}}
    assert faults(prompt) == []


def test_nodes_that_need_each_other_are_drawn() -> None:
    inputs = {"two": ["1", 0], "factor": 0.5, "mode": "normal"}
    prompt = good() | {
        "3": {"class_type": "Blend", "inputs": {"one": ["4", 0], **inputs}},
        "4": {"class_type": "Blend", "inputs": {"one": ["3", 0], **inputs}},
    }
    prompt["2"]["inputs"]["images"] = ["3", 0]
    assert faults(prompt) == ["These nodes need each other: 3 → 4 → 3."]


def test_a_file_may_have_come_after_the_list_was_made() -> None:
    load = {"class_type": "Load", "inputs": {"image": "new.png"}}
    prompt = good() | {"1": load}
    assert faults(prompt) == []


def test_the_inputs_of_what_a_dynamic_combo_has_chosen_are_needed() -> None:
    inputs = {"image": ["1", 0], "how": "size", "how.w": 3, "sharp": True}
    prompt = good() | {"3": {"class_type": "Resize", "inputs": inputs}}
    prompt["2"]["inputs"]["images"] = ["3", 0]
    assert faults(prompt) == ["node 3 (Resize), input 'how.h': is missing; it takes a value"]


def test_what_cannot_be_read_of_a_class_is_no_fault_of_the_workflow() -> None:
    strange: dict[str, Any] = {
        "Odd": {"input": {"required": {"a": [], "b": "?", "c": [["x"]]}, "optional": 3}},
        "None": None,
    }
    specs = node_specs(strange)
    assert set(specs) == {"Odd"}
    assert [each.name for each in specs["Odd"].inputs] == ["a", "b", "c"]
