"""What a view leaves in the notebook, for where widgets do not show."""

import base64
import io
import json

import pytest
from PIL import Image

import jupyter_comfy_lock as comfy
from jupyter_comfy_lock.kernel import session as sessions
from jupyter_comfy_lock.kernel import show
from jupyter_comfy_lock.kernel.session import Session
from tests.kernel.fake_jupyter import attached_place, png

widgets = pytest.importorskip(
    "jupyter_comfy_lock.kernel.widgets",
    reason="the widget is not built",
    exc_type=FileNotFoundError,
)

WORKFLOW = {"1": {"class_type": "X", "inputs": {}}}
VIEW = "application/vnd.jupyter.widget-view+json"
ERROR = {
    **{"node_id": "1", "node_class": "X", "exception_type": "ValueError", "message": "boom"},
    "traceback": [],
}


@pytest.fixture
def task(jupyter, session, published):
    session.lock("gpu-1")
    jupyter.wait_for_call("GET events")
    return comfy.submit(WORKFLOW)


def end_cell():
    show._shell().events.trigger("post_run_cell", None)


def end(jupyter, task, state="succeeded", **fields):
    jupyter.change(task.id, state=state, **fields)
    assert task._ended.wait(20)
    end_cell()


def picture(bundle):
    ((kind, content),) = [(k, v) for k, v in bundle.items() if k.startswith("image/")]
    return kind, Image.open(io.BytesIO(base64.b64decode(content)))


def test_the_picture_comes_when_the_task_has_ended_and_before_its_cell_has(
    jupyter, task, published
):
    (first, shown, _) = published[0]
    assert {*first} == {"text/plain", VIEW}
    jupyter.add_file(task.id, "a.png", png((2000, 1000), "red"), "image/png")
    end(jupyter, task)
    (last, updated, is_update) = published[-1]
    assert (updated, is_update, len(published)) == (shown, True, 2)
    # The live view stays where it can be shown, and the text is that of each run.
    assert last[VIEW] == first[VIEW]
    assert last["text/plain"] == first["text/plain"] == "TaskView(gpu-1)"
    kind, left = picture(last)
    assert (kind, left.size) == ("image/png", (640, 320))


def test_a_photograph_is_left_as_a_jpeg_and_what_is_transparent_as_a_png(jupyter, task, published):
    noise = io.BytesIO()
    Image.effect_noise((640, 480), 90).convert("RGB").save(noise, "PNG")
    jupyter.add_file(task.id, "a.png", noise.getvalue(), "image/png")
    end(jupyter, task)
    assert picture(published[-1][0])[0] == "image/jpeg"
    seen_through = io.BytesIO()
    Image.new("RGBA", (64, 48), (255, 0, 0, 60)).save(seen_through, "PNG")
    other = comfy.submit(WORKFLOW)
    jupyter.add_file(other.id, "b.png", seen_through.getvalue(), "image/png")
    end(jupyter, other)
    kind, left = picture(published[-1][0])
    assert (kind, left.mode, left.size) == ("image/png", "RGBA", (64, 48))


def test_several_pictures_are_left_as_one(jupyter, task, published):
    for colour in ("red", "lime", "blue"):
        jupyter.add_file(task.id, f"{colour}.png", png((100, 50), colour), "image/png")
    end(jupyter, task)
    left = picture(published[-1][0])[1].convert("RGB")
    assert left.size == (204, 104)
    assert [left.getpixel(at) for at in ((9, 9), (150, 9), (9, 90))] == [
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
    ]


@pytest.mark.parametrize(
    ("state", "fields", "said"),
    [
        ("failed", {"error": ERROR}, "gpu-1 · failed · X (node 1): ValueError: boom"),
        ("cancelled", {"reason": "by its kernel"}, "gpu-1 · cancelled · by its kernel"),
        ("cancelled", {"reason": "cancelled"}, "gpu-1 · cancelled"),
        ("lost", {"reason": "it restarted"}, "gpu-1 · lost · it restarted"),
    ],
)
def test_without_success_a_line_says_what_came_of_it(jupyter, task, published, state, fields, said):
    end(jupyter, task, state, **fields)
    assert published[-1][0]["text/plain"] == said
    assert not any(kind.startswith("image/") for kind in published[-1][0])


def test_a_picture_that_cannot_be_fetched_leaves_the_line_and_no_error(jupyter, task, published):
    jupyter.add_file(task.id, "a.png", b"no picture", "image/png")
    end(jupyter, task)
    assert [bundle["text/plain"] for bundle, _, _ in published] == ["TaskView(gpu-1)"]


def test_five_hundred_previews_leave_no_more_than_one(jupyter, task, published):
    progress = {"nodes_done": 0, "nodes_total": 1, "node_id": "1", "max": 500}
    for n in range(1, 501):
        jupyter.change(task.id, state="running", progress={**progress, "preview": n})
    jupyter.add_file(task.id, "a.png", png((64, 48), "red"), "image/png")
    end(jupyter, task)
    assert len(published) == 2
    assert len(json.dumps([bundle for bundle, _, _ in published])) < 2_000


@pytest.fixture
def attached(jupyter):
    """The session of a kernel that was started elsewhere, as by papermill."""
    made = Session(attached_place(), transport=jupyter.transport)
    sessions.use(made)
    yield made
    sessions.use(None)
    made.close()
    jupyter.drop_streams()


def test_who_runs_notebooks_without_a_page_gets_it_while_a_cell_runs(jupyter, attached, published):
    attached.lock("gpu-1")
    jupyter.wait_for_call("GET events")
    task = comfy.submit(WORKFLOW)
    end_cell()
    (view,) = show._open
    jupyter.change(task.id, state="cancelled", reason="by its kernel")
    assert task._ended.wait(20)
    view.leave()  # by a thread of its own, between two cells: nobody hears it
    before = len(published)
    show._shell().events.trigger("pre_run_cell", None)
    end_cell()
    end_cell()
    assert [bundle["text/plain"] for bundle, _, _ in published[before:]] == [
        "gpu-1 · cancelled · by its kernel"
    ]
