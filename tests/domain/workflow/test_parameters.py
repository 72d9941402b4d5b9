"""Values are found by the names a person gives them, and fit, or it is said why not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jupyter_comfy_lock.domain.errors import InvalidWorkflow
from jupyter_comfy_lock.domain.workflow.parameters import (
    find_node,
    find_parameter,
    parameters,
    with_value,
)
from tests.domain.workflow.canvas import SPECS


def two_pictures() -> dict[str, Any]:
    return {
        "1": picture("Sky"),
        "2": picture("Sea"),
        "3": {
            "class_type": "Blend",
            "inputs": {"one": ["1", 0], "two": ["2", 0], "factor": 0.5, "mode": "normal"},
        },
    }


def picture(title: str) -> dict[str, Any]:
    inputs = {"width": 8, "seed": 1, "style": "flat"}
    return {"class_type": "Picture", "inputs": inputs, "_meta": {"title": title}}


def sampling() -> dict[str, Any]:
    """As most workflows are: two texts lead to a sampler, one through another node."""
    text = {"class_type": "CLIPTextEncode", "inputs": {"text": "a", "clip": ["9", 1]}}
    return {
        "4": text,
        "5": text,
        "6": {"class_type": "FluxGuidance", "inputs": {"conditioning": ["4", 0], "guidance": 3.5}},
        "7": {
            "class_type": "KSampler",
            "inputs": {"positive": ["6", 0], "negative": ["5", 0], "seed": 3},
        },
        "9": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x"}},
    }


@pytest.mark.parametrize(("key", "node_id"), [("3", "3"), (3, "3"), ("Sky", "1"), ("Blend", "3")])
def test_a_node_is_found_by_id_title_or_class(key: object, node_id: str) -> None:
    assert find_node(two_pictures(), key) == node_id


def test_several_nodes_of_a_name_are_listed() -> None:
    with pytest.raises(InvalidWorkflow) as refused:
        find_node(two_pictures(), "Picture")
    assert "node 1 'Sky' (Picture)" in refused.value.message
    assert "node 2 'Sea' (Picture)" in refused.value.message


def test_a_name_that_no_node_has_brings_a_guess() -> None:
    with pytest.raises(InvalidWorkflow, match=r"no node 'sky'; did you mean 'Sky'\?$"):
        find_node(two_pictures(), "sky")


@pytest.mark.parametrize(
    ("name", "place"),
    [("factor", ("3", "factor")), ("1.seed", ("1", "seed")), ("Sea.seed", ("2", "seed"))],
)
def test_a_parameter_is_found_by_name(name: str, place: tuple[str, str]) -> None:
    assert find_parameter(two_pictures(), name) == place


@pytest.mark.parametrize(
    ("name", "node_id"), [("prompt", "4"), ("positive", "4"), ("negative_prompt", "5")]
)
def test_texts_are_found_by_what_they_are_for(name: str, node_id: str) -> None:
    assert find_parameter(sampling(), name) == (node_id, "text")


@pytest.mark.parametrize(("name", "node_id"), [("prompt", "4"), ("negative_prompt", "5")])
def test_a_node_in_between_passes_each_text_on(name: str, node_id: str) -> None:
    prompt = sampling()
    control = {"positive": ["4", 0], "negative": ["5", 0], "strength": 1.0}
    prompt["8"] = {"class_type": "ControlNetApplyAdvanced", "inputs": control}
    prompt["7"]["inputs"] |= {"positive": ["8", 0], "negative": ["8", 1]}
    assert find_parameter(prompt, name) == (node_id, "text")


def test_a_text_is_found_by_its_nodes_title() -> None:
    prompt = sampling()
    prompt["4"] = {**prompt["4"], "_meta": {"title": "What I want"}}
    assert find_parameter(prompt, "what_i_want") == ("4", "text")


def test_a_name_that_several_nodes_have_lists_them() -> None:
    with pytest.raises(InvalidWorkflow) as refused:
        find_parameter(two_pictures(), "seed")
    assert "'seed' is a parameter of 2 nodes" in refused.value.message
    assert "node 1 'Sky' (Picture): 1" in refused.value.message


def test_what_is_linked_is_said_to_be() -> None:
    with pytest.raises(InvalidWorkflow, match=r"'one' is linked.*node 3 \(Blend\)"):
        find_parameter(two_pictures(), "one")


def test_an_unknown_name_brings_a_guess_or_all_names() -> None:
    with pytest.raises(InvalidWorkflow, match="did you mean 'factor'"):
        find_parameter(two_pictures(), "facto")
    with pytest.raises(InvalidWorkflow, match="It has: width, seed, style, factor, mode"):
        find_parameter(two_pictures(), "zzz")
    with pytest.raises(InvalidWorkflow, match=r"It has: none$"):
        find_parameter({"1": {"class_type": "X", "inputs": {}}}, "size")


@pytest.mark.parametrize(
    ("node_id", "name", "value", "kept"),
    [
        ("1", "width", np.int64(9), 9),
        ("1", "width", 9.0, 9),
        ("3", "factor", 1, 1),
        ("3", "factor", np.float32(0.5), 0.5),
        ("3", "mode", "screen", "screen"),
        ("3", "one", ["2", 0], ["2", 0]),
        ("3", "mask", ["2", 0], ["2", 0]),
    ],
)
def test_a_value_that_fits_is_set(node_id: str, name: str, value: Any, kept: Any) -> None:
    before = two_pictures()
    after = with_value(before, node_id, name, value, SPECS)
    assert after[node_id]["inputs"][name] == kept
    assert type(after[node_id]["inputs"][name]) is type(kept)
    assert before == two_pictures()


def test_true_is_no_fraction() -> None:
    with pytest.raises(InvalidWorkflow, match="must be a number, not True"):
        with_value(two_pictures(), "3", "factor", True, SPECS)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("seeed", 1, "has no input 'seeed'; did you mean 'seed'?"),
        ("seed", -1, "-1 is less than the least, 0"),
        ("seed", True, "must be a whole number, not True"),
        ("seed", 1.5, "must be a whole number, not 1.5"),
        ("style", "Flat", "'Flat' is no choice; did you mean 'flat'? One of: flat, round"),
        ("style", ["8", 0], "there is no node '8' to link it to"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(name: str, value: Any, why: str) -> None:
    with pytest.raises(InvalidWorkflow) as refused:
        with_value(two_pictures(), "1", name, value, SPECS)
    assert refused.value.message.startswith("node 1 'Sky' (Picture)")
    assert why in refused.value.message


def test_of_a_class_that_nobody_knows_any_value_is_right() -> None:
    after = with_value(sampling(), "7", "seed", "whatever")
    assert after["7"]["inputs"]["seed"] == "whatever"


def test_parameters_are_what_is_not_linked() -> None:
    found = [(each.node_id, each.name, each.value) for each in parameters(two_pictures(), SPECS)]
    assert found[-2:] == [("3", "factor", 0.5), ("3", "mode", "normal")]
    assert len(found) == 8
