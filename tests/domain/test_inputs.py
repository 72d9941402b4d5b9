"""Files that prompts name (R4)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_comfy_lock.domain.inputs import InputFile, named_files, not_mine

MINE = {("mine_00001_.png", "", "output"), ("t.png", "sub", "temp")}
OTHERS = {InputFile("", "cat.png"), InputFile("", "CAT.PNG"), InputFile("pets", "dog.png")}


def loads(value):
    return {"7": {"class_type": "LoadImage", "inputs": {"image": value}}}


def refused(value):
    files = named_files(loads(value))
    return [each.text for each in not_mine(files, MINE, OTHERS)]


@pytest.mark.parametrize(
    "value",
    [
        "cat.png",
        "CAT.PNG",
        "./cat.png",
        "cat.png [input]",
        "cat.png[input]",
        "pets/dog.png",
        "pets//dog.png",
        "pets\\dog.png",
        "theirs_00001_.png [output]",
        "sub/mine_00001_.png [output]",
        "mine_00001_.png [temp]",
        "anything.mp4 [temp]",
    ],
)
def test_r4_what_others_uploaded_or_made_is_not_loaded(value):
    assert refused(value) == [value]


@pytest.mark.parametrize(
    "value",
    [
        "my own.png",
        "mine_00001_.png [output]",
        "sub/t.png [temp]",
        "sub/t.png[temp]",
        "dog.png",
        "model.safetensors",
        "a cat.png lies\non a mat.png",
        "no file at all",
        "",
        "[output]",
        7,
        None,
        ["1", 0],
    ],
)
def test_whatever_else_a_prompt_says_is_left_alone(value):
    assert refused(value) == []


def test_files_are_found_wherever_a_node_names_them():
    prompt = {
        "1": {"class_type": "A", "inputs": {"files": ["cat.png", {"x": {"y": "pets/dog.png"}}]}},
        "2": {"class_type": "B"},
        "3": {"class_type": "C", "inputs": {"image": "cat.png"}},
    }
    found = not_mine(named_files(prompt), MINE, OTHERS)
    assert [(each.node_id, each.text) for each in found] == [
        ("1", "cat.png"),
        ("1", "pets/dog.png"),
        ("3", "cat.png"),
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), st.fixed_dictionaries({"inputs": JSON})))
def test_no_prompt_is_too_strange(prompt):
    for file in named_files(prompt):
        assert file.filename
        assert "/" not in file.filename
