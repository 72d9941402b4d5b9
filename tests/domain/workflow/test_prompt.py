import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_comfy_lock.domain.errors import InvalidWorkflow
from jupyter_comfy_lock.domain.workflow import (
    check_api_workflow,
    classes,
    dropped_outputs,
    rejection,
)
from tests.domain.recorded import answers
from tests.domain.test_comfy import JSON

GOOD = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
}


def refusal_of(workflow) -> InvalidWorkflow:
    with pytest.raises(InvalidWorkflow) as refused:
        check_api_workflow(workflow)
    return refused.value


def test_a_good_workflow_is_returned_as_a_prompt_of_its_own():
    prompt = check_api_workflow({1: GOOD["1"], "2": GOOD["2"]})
    assert prompt == GOOD
    assert prompt["1"] is not GOOD["1"]


@pytest.mark.parametrize("workflow", [None, [], "{}", 7, [GOOD]])
def test_what_is_no_mapping_is_refused_by_its_type(workflow):
    assert type(workflow).__name__ in refusal_of(workflow).message


def test_an_empty_workflow_is_refused():
    assert "no nodes" in refusal_of({}).message


def test_the_editors_format_is_recognised_and_the_way_out_named():
    message = refusal_of({"nodes": [], "links": [], "version": 0.4}).message
    assert "Export (API)" in message


def test_every_wrong_node_is_named_at_once():
    error = refusal_of(
        {
            **GOOD,
            "3": "SaveImage",
            "4": {"inputs": {}},
            "5": {"class_type": ""},
            "6": {"class_type": "X", "inputs": []},
            "7": {"class_type": "X", "inputs": {"a": ["99", 0], "b": ["98", 1], "c": ["1", 0]}},
        }
    )
    assert list(error.details["nodes"]) == ["3", "4", "5", "6", "7"]
    assert error.message.splitlines()[1:] == [
        "  node 3: must be an object, got str",
        "  node 4: has no class_type",
        "  node 5: has no class_type",
        "  node 6: inputs must be an object, got list",
        "  node 7: 'a' is linked to node '99', which does not exist; "
        "'b' is linked to node '98', which does not exist",
    ]


def test_a_list_that_is_no_link_is_left_to_comfyui():
    check_api_workflow({"1": {"class_type": "X", "inputs": {"a": ["99", True], "b": [9, 8]}}})


def test_classes_are_found_by_node():
    assert classes(GOOD) == {"1": "EmptyImage", "2": "SaveImage"}


def recorded_refusals():
    return [x for x in answers("10", "/prompt") if isinstance(x, dict) and x.get("node_errors")]


@pytest.mark.parametrize("answer", recorded_refusals())
def test_each_recorded_refusal_names_each_node_and_reason(answer):
    error = rejection("t1", "a.ipynb", "gpu-1", answer)
    first, *lines = error.message.splitlines()
    assert first == (
        "ComfyServer 'gpu-1' refused the prompt of kernel a.ipynb (task t1); nothing ran:"
    )
    for node_id, entry in answer["node_errors"].items():
        for fault in entry["errors"]:
            where = f"node {node_id} ({entry['class_type']})"
            assert any(where in line and fault["message"] in line for line in lines)
    assert error.details["node_errors"] == answer["node_errors"]


def test_a_refusal_names_all_nodes_inputs_and_reasons_at_once():
    def fault(message, name):
        return {"message": message, "details": name, "extra_info": {"input_name": name}}

    answer = {
        "error": {"type": "prompt_outputs_failed_validation", "message": "x", "details": ""},
        "node_errors": {
            "1": {"class_type": "A", "errors": [fault("too small", "w"), fault("missing", "h")]},
            "2": {"class_type": "B", "errors": [fault("not in list", "name")]},
        },
    }
    assert rejection("t1", "k", "gpu-1", answer).message.splitlines()[1:] == [
        "  node 1 (A), input 'w': too small (w)",
        "  node 1 (A), input 'h': missing (h)",
        "  node 2 (B), input 'name': not in list (name)",
    ]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"error": {"message": "Prompt has no outputs", "details": ""}}, "Prompt has no outputs"),
        ({"error": {"message": "No node", "details": "Node ID '#1'"}}, "No node (Node ID '#1')"),
        ({"error": "too large"}, "too large"),
        ({}, "no reason"),
        ({"node_errors": {"1": "odd"}}, "node 1: odd"),
        ({"node_errors": {"1": {}}}, "node 1 (?): refused"),
        ({"node_errors": []}, "no reason"),
    ],
)
def test_a_refusal_in_any_form_gives_its_reason(answer, reason):
    assert rejection("t1", "k", "gpu-1", answer).message.splitlines()[-1].strip() == reason


@given(
    faults=st.dictionaries(
        st.sampled_from(["1", "2", "9"]),
        JSON | st.fixed_dictionaries({"errors": JSON, "dependent_outputs": JSON}),
    )
)
def test_outputs_that_are_dropped_for_any_reason_are_named(faults):
    dropped = dropped_outputs(faults, GOOD)
    assert bool(dropped) == bool(faults)
    assert all(each["class_type"] for each in dropped.values())
