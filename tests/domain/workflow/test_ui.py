"""What the editor saves becomes the prompt that it would send."""

from __future__ import annotations

import copy
import json
import random
from contextlib import suppress
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_comfy_lock.domain.errors import InvalidWorkflow
from tests.domain.workflow.canvas import BYPASSED, MUTED, Canvas, inputs_of, prompt_of
from tests.fuzz.mutate import STRANGE


def picture(canvas: Canvas, seed: int = 7, **options: Any) -> int:
    return canvas.node("Picture", [64, seed, "randomize", "round"], **options)


def test_values_and_links_are_those_of_the_fields_and_wires() -> None:
    canvas = Canvas()
    one, two = picture(canvas, 1), picture(canvas, 2)
    both = canvas.node("Blend", [0.25, "screen"], one=(one, 0), two=(two, 0), title="My blend")
    canvas.node("Save", ["x"], images=(both, 0))
    assert prompt_of(canvas.saved()) == {
        "1": node("Picture", width=64, seed=1, style="round"),
        "2": node("Picture", width=64, seed=2, style="round"),
        "3": node("Blend", "My blend", one=["1", 0], two=["2", 0], factor=0.25, mode="screen"),
        "4": node("Save", images=["3", 0], prefix="x"),
    }


def node(kind: str, title: str | None = None, /, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": title or kind}}


def test_the_two_versions_of_the_format_are_the_same_workflow() -> None:
    canvas = Canvas()
    canvas.node("Save", images=(picture(canvas), 0))
    assert prompt_of(canvas.saved(version=1)) == prompt_of(canvas.saved(version=0.4))


def test_what_is_said_after_a_seed_is_no_value_of_another_field() -> None:
    canvas = Canvas()
    canvas.node("Picture", [64, 9, "fixed", "flat"])
    canvas.node("Number", [5, "increment"])
    assert inputs_of(canvas.saved(), 1) == {"width": 64, "seed": 9, "style": "flat"}
    assert inputs_of(canvas.saved(), 2) == {"value": 5}


def test_a_list_that_goes_on_by_itself_has_a_filter_too() -> None:
    canvas = Canvas()
    canvas.node("Cycle", ["b", "increment", "/x/", 7])
    assert inputs_of(canvas.saved(), 1) == {"name": "b", "size": 7}


def test_upload_buttons_have_a_value_that_nobody_sends() -> None:
    canvas = Canvas()
    canvas.node("Load", ["b.png", "image"])
    assert inputs_of(canvas.saved(), 1) == {"image": "b.png"}


def test_values_that_are_missing_are_the_defaults() -> None:
    canvas = Canvas()
    canvas.node("Picture", [32])
    assert inputs_of(canvas.saved(), 1) == {"width": 32, "seed": 0, "style": "flat"}


def test_values_by_name_are_found_by_name() -> None:
    canvas = Canvas()
    canvas.node("Picture", {"style": "round", "videopreview": {}, "width": 16})
    assert inputs_of(canvas.saved(), 1) == {"width": 16, "seed": 0, "style": "round"}


def test_old_editors_saved_a_value_for_inputs_that_can_only_be_linked() -> None:
    canvas = Canvas()
    number = canvas.node("Number", [3, "fixed"])
    canvas.node("Old", [0, 128], forced=(number, 0))
    assert inputs_of(canvas.saved(), 2) == {"forced": ["1", 0], "size": 128}


def test_a_field_that_was_made_an_input_takes_what_is_linked_to_it() -> None:
    canvas = Canvas()
    number = canvas.node("Number", [3, "fixed"])
    canvas.node("Picture", [64, 9, "fixed", "flat"], width=(number, 0))
    assert inputs_of(canvas.saved(), 2)["width"] == ["1", 0]


def test_a_files_name_is_made_of_dates_and_values() -> None:
    canvas = Canvas()
    sky = canvas.node("Picture", [64, 9, "fixed", "flat"], title="Sky")
    canvas.node("Text", ["a/b"], properties={"Node name for S&R": "Sky 2"})
    name = "%date:yyyy-MM-dd_hh:m:ss yy%/%Sky.seed% %Sky 2.text% %Sky.no% %width% %No.x%"
    canvas.node("SaveImage", [name], images=(sky, 0))
    moment = datetime(2026, 3, 4, 15, 6, 7)
    named = inputs_of(canvas.saved(), 3, now=moment)["filename_prefix"]
    assert named == "2026-03-04_15:6:07 26/9 a_b %Sky.no% %width% %No.x%"
    assert inputs_of(canvas.saved(), 3)["filename_prefix"].startswith("%date:yyyy")


def test_a_list_as_a_value_is_not_taken_for_a_link() -> None:
    canvas = Canvas()
    canvas.node("Text", [["a", 0]])
    assert inputs_of(canvas.saved(), 1) == {"text": {"__value__": ["a", 0]}}


def test_of_alternatives_one_is_sent_and_of_comments_nothing() -> None:
    canvas = Canvas()
    canvas.node("Text", ["a {red|{old|new} blue} car /* or\n two */ \\{so\\} // end"])
    texts = [inputs_of(canvas.saved(), 1, choose=lambda n, i=i: i % n)["text"] for i in (0, 1)]
    assert texts == ["a red car  {so} ", "a new blue car  {so} "]


def test_a_dynamic_combo_has_the_fields_of_what_is_chosen() -> None:
    canvas = Canvas()
    image = picture(canvas)
    canvas.node("Resize", ["size", 30, 20, True], image=(image, 0))
    canvas.node("Resize", ["factor", 2.5, True], image=(image, 0))
    size = {"how": "size", "how.w": 30, "how.h": 20, "sharp": True, "image": ["1", 0]}
    assert inputs_of(canvas.saved(), 2) == size
    factor = {"how": "factor", "how.by": 2.5, "sharp": True, "image": ["1", 0]}
    assert inputs_of(canvas.saved(), 3) == factor


def test_notes_and_groups_are_not_sent() -> None:
    canvas = Canvas()
    canvas.node("Note", ["hello"], outputs=[])
    canvas.node("MarkdownNote", ["# hello"], outputs=[])
    canvas.node("SomebodysLabel", ["x"], outputs=[])
    picture(canvas)
    assert list(prompt_of(canvas.saved())) == ["4"]


def test_a_reroute_is_a_wire() -> None:
    canvas = Canvas()
    first = canvas.node("Reroute", any=(picture(canvas), 0))
    second = canvas.node("Reroute", any=(first, 0))
    canvas.node("Save", images=(second, 0))
    prompt = prompt_of(canvas.saved())
    assert set(prompt) == {"1", "4"}
    assert prompt["4"]["inputs"]["images"] == ["1", 0]


def test_reroutes_on_a_link_change_nothing() -> None:
    canvas = Canvas()
    canvas.node("Save", images=(picture(canvas), 0))
    plain = prompt_of(canvas.saved())
    saved = canvas.saved()
    saved["extra"] = {
        "reroutes": [{"id": 1, "pos": [0, 0], "linkIds": [1]}],
        "linkExtensions": [{"id": 1, "parentId": 1}],
    }
    assert prompt_of(saved) == plain


def test_a_primitive_node_is_the_value_of_all_it_leads_to() -> None:
    canvas = Canvas()
    number = canvas.node("PrimitiveNode", [77, "fixed"], outputs=["INT"])
    canvas.node("Picture", [64, 1, "fixed", "flat"], seed=(number, 0))
    canvas.node("Picture", [64, 2, "fixed", "flat"], seed=(number, 0))
    prompt = prompt_of(canvas.saved())
    assert [prompt[x]["inputs"]["seed"] for x in ("2", "3")] == [77, 77]
    assert "1" not in prompt


def test_a_getter_gets_what_the_setter_of_that_name_was_given() -> None:
    canvas = Canvas()
    canvas.node("SetNode", ["sky"], any=(picture(canvas), 0))
    getter = canvas.node("GetNode", ["sky"])
    canvas.node("Save", images=(getter, 0))
    assert inputs_of(canvas.saved(), 4)["images"] == ["1", 0]


def test_a_muted_node_leaves_what_it_leads_to_without_a_value() -> None:
    canvas = Canvas()
    canvas.node("Save", images=(picture(canvas, mode=MUTED), 0))
    assert prompt_of(canvas.saved()) == {"2": node("Save", prefix="pic")}


def test_a_bypassed_node_passes_on_the_input_that_fits() -> None:
    canvas = Canvas()
    one, two = picture(canvas), picture(canvas)
    blend = canvas.node("Blend", [], mode=BYPASSED, one=(one, 0), two=(two, 0))
    canvas.node("Save", images=(blend, 0))
    prompt = prompt_of(canvas.saved())
    assert prompt["4"]["inputs"]["images"] == ["1", 0]
    assert "3" not in prompt


def test_a_bypassed_node_with_nothing_that_fits_passes_on_nothing() -> None:
    canvas = Canvas()
    mask = canvas.node("Mask", mode=BYPASSED, image=(picture(canvas), 0))
    blend = canvas.node("Blend", [], one=(1, 0), two=(1, 0), mask=(mask, 0))
    assert "mask" not in inputs_of(canvas.saved(), blend)


def test_what_a_bypassed_node_passes_on_is_what_stands_at_the_end_of_the_wire() -> None:
    canvas = Canvas()
    mask = canvas.node("Mask", mode=BYPASSED, image=(picture(canvas), 0))
    wire = canvas.node("Reroute", any=(mask, 0))
    blend = canvas.node("Blend", [], one=(1, 0), two=(1, 0), mask=(wire, 0))
    assert "mask" not in inputs_of(canvas.saved(), blend)


def test_missing_classes_are_named_all_at_once_and_only_where_they_would_run() -> None:
    canvas = Canvas()
    canvas.node("FancyLoader", title="My loader")
    canvas.node("Upscaler")
    canvas.node("Unused", mode=MUTED)
    canvas.node("Save", images=(1, 0))
    with pytest.raises(InvalidWorkflow) as refused:
        prompt_of(canvas.saved())
    assert "node 1 (FancyLoader 'My loader')" in refused.value.message
    assert "node 2 (Upscaler)" in refused.value.message
    assert "Unused" not in refused.value.message


def test_links_in_a_circle_are_told() -> None:
    canvas = Canvas()
    canvas.node("Reroute", any=(2, 0))
    canvas.node("Reroute", any=(1, 0))
    canvas.node("Save", images=(2, 0))
    with pytest.raises(InvalidWorkflow, match=r"\(Reroute\) go in a circle"):
        prompt_of(canvas.saved())


@pytest.mark.parametrize(
    ("workflow", "why"),
    [
        ({"nodes": [], "links": []}, "no nodes"),
        ({"nodes": [7]}, "no id or no type: 7"),
        ({"nodes": [{"id": 1}]}, "no id or no type"),
        ({"nodes": [{"id": 1, "type": "Save"}], "links": [["x"]]}, r"A link .*\['x'\]"),
        ({"nodes": [{"id": 1, "type": "Save"}], "links": [{"id": 1}]}, "A link"),
        ({"nodes": [{"id": 1, "type": "Note"}]}, "no node that runs"),
        ({"nodes": [{"id": 1, "type": "Note"}] * 2}, "Two nodes of the workflow have the id 1"),
    ],
)
def test_what_is_no_workflow_is_told_in_its_own_terms(workflow: Any, why: str) -> None:
    with pytest.raises(InvalidWorkflow, match=why):
        prompt_of(workflow)


# -- laws ---------------------------------------------------------------------------------------


@st.composite
def workflows(draw: st.DrawFn) -> dict[str, Any]:
    """Any workflow of pictures, blends, masks and saves, some of them muted or bypassed."""
    canvas = Canvas()
    images: list[int] = [picture(canvas, draw(st.integers(0, 9)))]
    for _ in range(draw(st.integers(0, 7))):
        kind = draw(st.sampled_from(["Picture", "Blend", "Reroute", "Resize"]))
        mode = draw(st.sampled_from([0, 0, MUTED, BYPASSED]))
        some = st.sampled_from(images).map(lambda image: (image, 0))
        if kind == "Picture":
            images.append(picture(canvas, draw(st.integers(0, 9)), mode=mode))
        elif kind == "Reroute":
            images.append(canvas.node(kind, any=draw(some)))
        elif kind == "Resize":
            values = draw(st.sampled_from([["size", 3, 4, True], ["factor", 2.0, False]]))
            images.append(canvas.node(kind, values, mode=mode, image=draw(some)))
        else:
            images.append(canvas.node(kind, [0.5], mode=mode, one=draw(some), two=draw(some)))
    canvas.node("Save", ["x"], images=(draw(st.sampled_from(images)), 0))
    return canvas.saved()


@given(workflows(), st.randoms(use_true_random=False))
def test_the_order_of_nodes_and_the_ids_of_links_mean_nothing(
    workflow: dict[str, Any], chance: random.Random
) -> None:
    other = copy.deepcopy(workflow)
    chance.shuffle(other["nodes"])
    chance.shuffle(other["links"])
    ids = list(range(100, 100 + len(other["links"])))
    chance.shuffle(ids)
    new = {link[0]: ids[at] for at, link in enumerate(other["links"])}
    for link in other["links"]:
        link[0] = new[link[0]]
    for each in other["nodes"]:
        for slot in each["inputs"]:
            slot["link"] = new.get(slot["link"])
        for slot in each["outputs"]:
            slot["links"] = [new[x] for x in slot["links"]]
    assert prompt_of(other) == prompt_of(workflow)


@given(workflows())
def test_a_prompt_has_no_link_that_leads_nowhere(workflow: dict[str, Any]) -> None:
    prompt = prompt_of(workflow)
    links = [
        value
        for each in prompt.values()
        for value in each["inputs"].values()
        if isinstance(value, list)
    ]
    assert all(source in prompt for source, _ in links)
    off = {str(x["id"]) for x in workflow["nodes"] if x["mode"] or x["type"] == "Reroute"}
    assert not off & set(prompt)


@given(workflows(), st.data())
def test_bypassing_is_linking_past_it(workflow: dict[str, Any], data: st.DataObject) -> None:
    resizes = [x for x in workflow["nodes"] if x["type"] == "Resize"]
    if not resizes:
        return
    chosen = data.draw(st.sampled_from(resizes))["id"]
    bypassed, past = copy.deepcopy(workflow), copy.deepcopy(workflow)
    next(x for x in bypassed["nodes"] if x["id"] == chosen)["mode"] = BYPASSED
    into = next(link for link in past["links"] if link[3] == chosen)
    for link in past["links"]:
        if link[1] == chosen:
            link[1:3] = into[1:3]
    past["nodes"] = [x for x in past["nodes"] if x["id"] != chosen]
    past["links"] = [link for link in past["links"] if link[3] != chosen]
    assert prompt_of(bypassed) == prompt_of(past)


@given(workflows(), st.data())
def test_muting_is_removing(workflow: dict[str, Any], data: st.DataObject) -> None:
    chosen = data.draw(st.sampled_from(workflow["nodes"][:-1]))["id"]
    muted, removed = copy.deepcopy(workflow), copy.deepcopy(workflow)
    next(x for x in muted["nodes"] if x["id"] == chosen)["mode"] = MUTED
    removed["nodes"] = [x for x in removed["nodes"] if x["id"] != chosen]
    removed["links"] = [x for x in removed["links"] if chosen not in (x[1], x[3])]
    assert prompt_of(muted) == prompt_of(removed)


def with_something_strange(workflow: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """The same workflow, with something strange somewhere in it."""
    holders: list[Any] = [workflow]
    for each in holders:
        values = each.values() if isinstance(each, dict) else each
        holders += [x for x in values if isinstance(x, dict | list) and x]
    holder = chance.choice(holders[1:])
    key = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    strange = (*STRANGE, -1, -10, -20, 2, 99, "Reroute", "Save", "PrimitiveNode")
    holder[key] = copy.deepcopy(chance.choice(strange))
    return workflow


@given(workflows(), st.randoms(use_true_random=False))
def test_whatever_is_in_a_file_is_a_prompt_or_a_refusal(
    workflow: dict[str, Any], chance: random.Random
) -> None:
    for _ in range(2):
        strange = with_something_strange(workflow, chance)
    with suppress(InvalidWorkflow):
        json.dumps(prompt_of(strange))


def test_subgraphs_that_fill_any_memory_are_refused() -> None:
    levels = [f"00000000-0000-4000-8000-{level:012d}" for level in range(40)]
    subgraphs = []
    for level, above in zip(levels, [*levels[1:], "Picture"], strict=True):
        inner = Canvas()
        for _ in range(2):
            inner.node(above, outputs=[])
        subgraphs.append(inner.subgraph(level))
    canvas = Canvas()
    canvas.node(levels[0], outputs=[])
    with pytest.raises(InvalidWorkflow, match="over 20000 nodes"):
        prompt_of(canvas.saved(*subgraphs))
