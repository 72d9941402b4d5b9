from __future__ import annotations

import pytest

from jupyter_comfy_lock.embedded.nodes import BUILT_IN
from jupyter_comfy_lock.embedded.nodes.spec import Input, NodeResult, NodeSpec
from jupyter_comfy_lock.embedded.prompts import check, is_prompt_id
from tests.embedded.client import node, picture, save

MANY = NodeSpec(
    "Many",
    lambda context, choice: NodeResult(),
    inputs=(Input("choice", "COMBO", choices=tuple(f"c{i}" for i in range(21))),),
    output_node=True,
)
ANY = NodeSpec(
    "Any",
    lambda context, value: NodeResult(),
    inputs=(Input("value", "*"),),
    output_node=True,
)
NODES = {x.class_type: x for x in (*BUILT_IN, MANY, ANY)}


@pytest.fixture
def verdict(folders):
    return lambda prompt, targets=None: check(prompt, NODES, folders, targets)


def types(verdict):
    return {k: [x["type"] for x in v["errors"]] for k, v in verdict.node_errors.items()}


def test_a_good_prompt_has_no_error(verdict):
    found = verdict({"1": picture(), "2": save("1")})
    assert (found.error, found.outputs, found.node_errors) == (None, ["2"], {})


def test_values_are_coerced_in_place(verdict):
    prompt = {"1": picture(), "2": save("1", prefix=5)}
    prompt["1"]["inputs"] |= {"width": "16", "height": 12.9}
    assert verdict(prompt).error is None
    assert prompt["1"]["inputs"]["width"] == 16
    assert prompt["1"]["inputs"]["height"] == 12
    assert prompt["2"]["inputs"]["filename_prefix"] == "5"


def test_a_wrapped_value_is_unwrapped(verdict):
    prompt = {"1": node("Any", value={"__value__": [1, 2, 3]})}
    assert verdict(prompt).error is None
    assert prompt["1"]["inputs"]["value"] == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"width": 0}, "value_smaller_than_min"),
        ({"width": 16385}, "value_bigger_than_max"),
        ({"width": "wide"}, "invalid_input_type"),
        ({"width": None}, "invalid_input_type"),
        ({"width": ["1"]}, "bad_linked_input"),
    ],
)
def test_a_wrong_value_is_named(verdict, change, expected):
    prompt = {"1": picture(), "2": save("1")}
    prompt["1"]["inputs"] |= change
    found = verdict(prompt)
    assert found.error["type"] == "prompt_outputs_failed_validation"
    assert types(found) == {"1": [expected]}
    assert found.node_errors["1"]["dependent_outputs"] == ["2"]


def test_all_problems_of_a_node_are_told_at_once(verdict):
    prompt = {"1": node("EmptyImage", width=0, color=-1), "2": save("1")}
    assert types(verdict(prompt))["1"] == [
        "value_smaller_than_min",
        "required_input_missing",
        "required_input_missing",
        "value_smaller_than_min",
    ]


def test_a_long_list_of_choices_is_not_spelled_out(verdict):
    (found,) = verdict({"1": node("Many", choice="x")}).node_errors["1"]["errors"]
    assert found["details"] == "choice: 'x' not in (list of length 21)"
    assert found["extra_info"]["input_config"] is None


def test_a_link_must_carry_the_right_type(verdict):
    prompt = {"1": node("SolidMask", value=1, width=8, height=8), "2": save("1")}
    found = verdict(prompt)
    assert types(found) == {"2": ["return_type_mismatch"]}
    details = found.node_errors["2"]["errors"][0]["details"]
    assert details == "images, received_type(MASK) mismatch input_type(IMAGE)"


def test_a_wildcard_takes_any_type(verdict):
    assert verdict({"1": picture(), "2": node("Any", value=["1", 0])}).error is None


def test_a_link_to_nowhere_is_told_of_the_node_that_links(verdict):
    prompt = {"1": node("ImageInvert", image=["99", 0]), "2": save("1")}
    assert types(verdict(prompt)) == {"1": ["exception_during_inner_validation"]}
    prompt = {"2": save("99")}
    assert types(verdict(prompt)) == {"2": ["exception_during_validation"]}


def test_a_cycle_names_its_members(verdict):
    prompt = {
        "1": node("ImageInvert", image=["2", 0]),
        "2": node("ImageInvert", image=["1", 0]),
        "3": save("1"),
    }
    found = verdict(prompt)
    assert types(found) == {"1": ["dependency_cycle"], "2": ["dependency_cycle"]}
    details = found.node_errors["1"]["errors"][0]["details"]
    assert details == "1 (ImageInvert) -> 2 (ImageInvert) -> 1 (ImageInvert)"


def test_good_outputs_run_although_others_are_dropped(verdict):
    found = verdict({"1": picture(), "2": save("1"), "9": node("SaveImage")})
    assert found.error is None
    assert found.outputs == ["2"]
    assert types(found) == {"9": ["required_input_missing", "required_input_missing"]}


def test_a_shared_fault_names_every_output_it_spoils(verdict):
    prompt = {"1": picture(), "2": save("1"), "3": save("1")}
    prompt["1"]["inputs"]["width"] = 0
    assert verdict(prompt).node_errors["1"]["dependent_outputs"] == ["2", "3"]


def test_only_targets_run_if_there_are_any(verdict):
    prompt = {"1": picture(), "2": save("1"), "3": save("1")}
    assert verdict(prompt, ["3"]).outputs == ["3"]
    assert verdict(prompt, ["1"]).error["type"] == "prompt_no_outputs"


def test_a_missing_file_is_told_before_anything_runs(verdict, folders):
    prompt = {"1": node("LoadImage", image="gone.png"), "2": save("1")}
    (found,) = verdict(prompt).node_errors["1"]["errors"]
    assert found["type"] == "custom_validation_failed"
    assert found["details"] == "image - Invalid image file: gone.png"
    prompt["1"]["inputs"]["image"] = "../../etc/passwd"
    assert types(verdict(prompt)) == {"1": ["custom_validation_failed"]}


def test_an_unknown_class_is_named_by_its_title(verdict):
    prompt = {"7": {"class_type": "Gone", "inputs": {}, "_meta": {"title": "My node"}}}
    error = verdict(prompt).error
    assert error["type"] == "missing_node_type"
    assert error["message"].startswith("Node 'My node' not found.")


@pytest.mark.parametrize("prompt", [None, [], {"1": "x"}])
def test_what_is_no_prompt_at_all_is_a_fault_of_the_caller(verdict, prompt):
    with pytest.raises((AttributeError, TypeError)):
        verdict(prompt)


@pytest.mark.parametrize(
    ("value", "is_valid"),
    [
        ("2f4cb3f4-3f53-4d4c-a2e5-0d6f5a3a1b11", True),
        ("2F4CB3F4-3F53-4D4C-A2E5-0D6F5A3A1B11", False),
        ("2f4cb3f43f534d4ca2e50d6f5a3a1b11", False),
        ("", False),
        (5, False),
    ],
)
def test_an_id_is_a_canonical_uuid(value, is_valid):
    assert is_prompt_id(value) is is_valid
