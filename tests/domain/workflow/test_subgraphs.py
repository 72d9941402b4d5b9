"""Subgraphs: saved once, used often, with values of their own on the outside."""

from __future__ import annotations

from typing import Any

import pytest

from jupyter_comfy_lock.domain.errors import InvalidWorkflow
from tests.domain.workflow.canvas import BYPASSED, IN, MUTED, Canvas, inputs_of, prompt_of

PART, WHOLE = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


def part(**options: Any) -> dict[str, Any]:
    """A subgraph: its `image` and a picture of its `seed` are blended."""
    inner = Canvas()
    image, seed = inner.input("image", "IMAGE"), inner.input("seed", "INT")
    inner.node("Picture", [64, 5, "fixed", "round"], seed=seed)
    inner.node("Blend", [0.25, "screen"], one=image, two=(1, 0), **options)
    inner.output("IMAGE", "IMAGE", (2, 0))
    return inner.subgraph(PART)


def use(canvas: Canvas, values: list[Any] | None = None, **options: Any) -> int:
    """A use of it, of the picture that is node 1."""
    return canvas.node(PART, values, image=(1, 0), outputs=["IMAGE"], **options)


def one_picture() -> Canvas:
    canvas = Canvas()
    canvas.node("Picture", [64, 1, "fixed", "flat"])
    return canvas


def test_its_nodes_stand_in_the_prompt_under_the_id_of_where_it_is_used() -> None:
    canvas = one_picture()
    canvas.node("Save", images=(use(canvas), 0))
    prompt = prompt_of(canvas.saved(part()))
    assert set(prompt) == {"1", "2:1", "2:2", "3"}
    assert prompt["2:2"]["inputs"] == {
        "one": ["1", 0],
        "two": ["2:1", 0],
        "factor": 0.25,
        "mode": "screen",
    }
    assert prompt["3"]["inputs"]["images"] == ["2:2", 0]


def test_each_use_has_its_own_values() -> None:
    canvas = one_picture()
    use(canvas, [100])
    use(canvas, [200])
    use(canvas)
    prompt = prompt_of(canvas.saved(part()))
    assert [prompt[f"{x}:1"]["inputs"]["seed"] for x in (2, 3, 4)] == [100, 200, 5]


def test_a_value_on_the_outside_may_be_linked() -> None:
    canvas = one_picture()
    number = canvas.node("Number", [3, "fixed"])
    use(canvas, [100], seed=(number, 0))
    assert inputs_of(canvas.saved(part()), "3:1")["seed"] == ["2", 0]


def test_values_belong_to_the_inputs_that_the_file_names() -> None:
    """Its ComfyServer may know a field less, or more, than the one where it was saved."""
    canvas = one_picture()
    use(canvas, [100, 300])
    saved = canvas.saved(part())
    fields = [{"name": name, "type": "INT", "widget": {"name": name}} for name in ("gone", "seed")]
    saved["nodes"][1]["inputs"] += fields
    assert inputs_of(saved, "2:1")["seed"] == 300


@pytest.mark.parametrize("name", ["factor", "2: factor"])
def test_fields_shown_by_the_name_of_their_node_have_the_value_outside(name: str) -> None:
    canvas = one_picture()
    shown = {"proxyWidgets": [["2", name], ["1", "seed"], ["9", "gone"], ["1", "$$preview"]]}
    use(canvas, [0.75, 42, 1, None], properties=shown)
    use(canvas)
    prompt = prompt_of(canvas.saved(part()))
    assert prompt["2:2"]["inputs"]["factor"] == 0.75
    assert prompt["2:1"]["inputs"]["seed"] == 42
    assert prompt["3:2"]["inputs"]["factor"] == 0.25


def test_a_shown_primitive_node_is_the_value_of_what_it_leads_to() -> None:
    inner = Canvas()
    number = inner.node("PrimitiveNode", [5, "fixed"], outputs=["INT"])
    inner.node("Picture", [64, 1, "fixed", "flat"], seed=(number, 0))
    canvas = Canvas()
    canvas.node(PART, [8], outputs=[], properties={"proxyWidgets": [["1", "value"]]})
    canvas.node(PART, outputs=[])
    prompt = prompt_of(canvas.saved(inner.subgraph(PART)))
    assert [prompt[x]["inputs"]["seed"] for x in ("1:2", "2:2")] == [8, 5]


def whole() -> dict[str, Any]:
    """A subgraph with two of the other in a row."""
    inner = Canvas()
    image, seed = inner.input("image", "IMAGE"), inner.input("noise", "INT")
    inner.node(PART, [1], image=image, seed=seed, outputs=["IMAGE"])
    inner.node(PART, [2], image=(1, 0), outputs=["IMAGE"])
    inner.output("IMAGE", "IMAGE", (2, 0))
    return inner.subgraph(WHOLE)


def test_subgraphs_stand_in_subgraphs() -> None:
    canvas = one_picture()
    use_of_whole = canvas.node(WHOLE, [33], image=(1, 0), outputs=["IMAGE"])
    canvas.node("Save", images=(use_of_whole, 0))
    workflow = canvas.saved(whole(), part())
    prompt = prompt_of(workflow)
    assert prompt["2:1:2"]["inputs"]["one"] == ["1", 0]
    assert prompt["2:2:2"]["inputs"]["one"] == ["2:1:2", 0]
    assert prompt["3"]["inputs"]["images"] == ["2:2:2", 0]
    assert [prompt[x]["inputs"]["seed"] for x in ("2:1:1", "2:2:1")] == [33, 2]


def test_a_value_of_a_subgraph_within_may_be_shown_by_name() -> None:
    canvas = one_picture()
    shown = {"proxyWidgets": [["2", "seed"], ["-1", "noise"]]}
    canvas.node(WHOLE, [44, 55], image=(1, 0), outputs=["IMAGE"], properties=shown)
    prompt = prompt_of(canvas.saved(whole(), part()))
    assert [prompt[x]["inputs"]["seed"] for x in ("2:1:1", "2:2:1")] == [55, 44]


def test_a_bypassed_use_passes_on_what_goes_in() -> None:
    canvas = one_picture()
    canvas.node("Save", images=(use(canvas, mode=BYPASSED), 0))
    prompt = prompt_of(canvas.saved(part()))
    assert set(prompt) == {"1", "3"}
    assert prompt["3"]["inputs"]["images"] == ["1", 0]


def test_of_a_muted_use_nothing_is_sent() -> None:
    canvas = one_picture()
    canvas.node("Save", images=(use(canvas, mode=MUTED), 0))
    prompt = prompt_of(canvas.saved(part()))
    assert set(prompt) == {"1", "3"}
    assert "images" not in prompt["3"]["inputs"]


def test_a_bypassed_node_inside_passes_on_what_comes_from_outside() -> None:
    canvas = one_picture()
    canvas.node("Save", images=(use(canvas), 0))
    prompt = prompt_of(canvas.saved(part(mode=BYPASSED)))
    assert prompt["3"]["inputs"]["images"] == ["1", 0]


def test_an_input_may_lead_straight_out() -> None:
    inner = Canvas()
    image = inner.input("image", "IMAGE")
    assert image == (IN, 0)
    inner.node("Mask", image=image)
    inner.output("IMAGE", "IMAGE", image)
    canvas = one_picture()
    canvas.node("Save", images=(use(canvas), 0))
    assert inputs_of(canvas.saved(inner.subgraph(PART)), 3)["images"] == ["1", 0]


def test_one_that_contains_itself_is_refused() -> None:
    inner = Canvas()
    inner.node(PART, outputs=[])
    canvas = Canvas()
    canvas.node(PART, outputs=[])
    with pytest.raises(InvalidWorkflow, match="'part' contains itself"):
        prompt_of(canvas.saved(inner.subgraph(PART)))


def test_missing_classes_inside_are_named_with_where_they_are() -> None:
    inner = Canvas()
    inner.node("Fancy")
    canvas = Canvas()
    canvas.node(PART, outputs=[])
    with pytest.raises(InvalidWorkflow, match=r"node 1:1 \(Fancy\)"):
        prompt_of(canvas.saved(inner.subgraph(PART)))
