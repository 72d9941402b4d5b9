"""Pictures of each widget in each state: `python -m tests.browser.gallery FOLDER`.

In JupyterLab and in Notebook 7, light and dark, with a real kernel; what the Jupyter server would
say is put in its place, so that each state is there at once. One page of each is written as well.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image, ImageDraw, ImageFilter
from playwright.sync_api import Page, Route

from tests.browser.test_notebook import IDLE, RUN_ALL
from tests.chromium import chromium
from tests.jupyter_servers import JupyterServer, jupyter_server

APPS = [("jupyterlab", "lab/tree"), ("notebook", "notebooks")]
THEMES = ["JupyterLab Light", "JupyterLab Dark"]
TIMEOUT_MS = 90_000
#: Seconds since the epoch, of the pictures' clock.
NOW = 1_700_000_000.0

#: Run in the kernel: views of tasks and of a pool that are not.
PREAMBLE = """
import json
from types import SimpleNamespace
from jupyter_comfy_lock.domain.workflow.nodes import node_specs
from jupyter_comfy_lock.kernel.session import Standing
from jupyter_comfy_lock.kernel.task import Task
from jupyter_comfy_lock.kernel.widgets import LockView, Panel, TaskView
from jupyter_comfy_lock.kernel.workflow import Workflow

prompt = {prompt!r}
info = {info!r}

def task(**told):
    home = SimpleNamespace(live=True, kernel="a.ipynb")
    return TaskView(Task(home, told).sent(prompt))

def lock(pool, waiting=None, loss=None):
    told = Standing("me.1", pool, waiting, loss)
    return LockView(SimpleNamespace(standing=lambda: told,
                                    on_lock=lambda listener: lambda: None))

def panel(**errors):
    made = Panel(Workflow(prompt, specs=node_specs(info)))
    made._errors = errors
    made.write()
    return made
"""

PROMPT: dict[str, Any] = {
    "4": {
        "class_type": "CheckpointLoaderSimple",
        "inputs": {"ckpt_name": "sd_xl_base_1.0.safetensors"},
        "_meta": {"title": "Load Checkpoint"},
    },
    "6": {
        "class_type": "CLIPTextEncode",
        "inputs": {"text": "a lighthouse on a cliff at dawn, oil painting", "clip": ["4", 1]},
        "_meta": {"title": "Positive prompt"},
    },
    "3": {
        "class_type": "KSampler",
        "inputs": {
            **{"seed": 18446744073709551557, "steps": 20, "cfg": 7.5, "sampler_name": "euler"},
            **{"add_noise": True, "model": ["4", 0], "positive": ["6", 0]},
        },
        "_meta": {"title": "KSampler"},
    },
    "10": {
        "class_type": "LoadImage",
        "inputs": {"image": "example.png"},
        "_meta": {"title": "Reference picture"},
    },
    "8": {
        "class_type": "VAEDecode",
        "inputs": {"samples": ["3", 0]},
        "_meta": {"title": "VAE Decode"},
    },
    "9": {
        "class_type": "SaveImage",
        "inputs": {"filename_prefix": "lighthouse", "images": ["8", 0]},
        "_meta": {"title": "Save Image"},
    },
}
_CHECKPOINTS = [f"model_{n:02}.safetensors" for n in range(30)] + ["sd_xl_base_1.0.safetensors"]
INFO: dict[str, Any] = {
    "CheckpointLoaderSimple": {"input": {"required": {"ckpt_name": [_CHECKPOINTS, {}]}}},
    "CLIPTextEncode": {
        "input": {"required": {"text": ["STRING", {"multiline": True}], "clip": ["CLIP", {}]}}
    },
    "KSampler": {
        "input": {
            "required": {
                "seed": ["INT", {"min": 0, "max": 2**64 - 1, "control_after_generate": True}],
                "steps": ["INT", {"min": 1, "max": 10000}],
                "cfg": ["FLOAT", {"min": 0.0, "max": 100.0, "step": 0.1}],
                "sampler_name": [["euler", "dpmpp_2m", "ddim"], {}],
                "add_noise": ["BOOLEAN", {}],
            }
        }
    },
    "LoadImage": {"input": {"required": {"image": [["example.png"], {"image_upload": True}]}}},
    "SaveImage": {"input": {"required": {"filename_prefix": ["STRING", {}]}}},
}


def told(name: str, state: str, **fields: Any) -> dict[str, Any]:
    """A task as REST shows it."""
    progress = {
        **{"nodes_done": 0, "nodes_total": 6, "node_id": None, "node_class": None},
        **{"value": 0, "max": 0, "preview": 0, "preview_node_id": None},
        **{"done_node_ids": [], "cached_node_ids": []},
        **fields.pop("progress", {}),
    }
    began = NOW - 42 if state not in ("registered", "queued") else None
    ended = None if state in ("registered", "queued", "running") else NOW
    return {
        **{"task_id": name, "state": state, "reason": None, "comfy_id": "gpu-1"},
        **{"created_at": NOW - 60, "started_at": began, "ended_at": ended, "queue": None},
        **{"progress": progress, "cached": False, "files": [], "outputs": {}, "error": None},
        **{"dropped": {}, "holder_id": "me.1", "name": "a.ipynb", "lock": {}, **fields},
    }


def files(task: str, *kinds: str) -> list[dict[str, str]]:
    """Files of a task, by media type."""
    return [
        {
            **{"node_id": "9", "kind": "images", "filename": f"lighthouse_{n:05}.{kind[-3:]}"},
            **{"subfolder": "", "type": "output", "media_type": kind},
            "path": f"comfy-lock/api/tasks/{task}/files/{n}",
        }
        for n, kind in enumerate(kinds)
    ]


ALL = ["4", "6", "3", "10", "8", "9"]
DONE = {"nodes_done": 6, "done_node_ids": ALL, "cached_node_ids": ["4", "10"]}
HALF = {
    **{"nodes_done": 3, "node_id": "3", "node_class": "KSampler", "value": 12, "max": 20},
    **{"preview": 7, "done_node_ids": ["4", "6", "10"], "cached_node_ids": ["4", "10"]},
}
TRACEBACK = [
    '  File "/comfy/execution.py", line 524, in execute\n    output_data = await get_output(…)\n',
    '  File "/comfy/nodes.py", line 1589, in sample\n    return common_ksampler(model, seed, …)\n',
]
ERROR = {
    **{"node_id": "3", "node_class": "KSampler", "exception_type": "torch.OutOfMemoryError"},
    **{"message": "Allocation on device", "traceback": TRACEBACK},
}
DROPPED = {
    "9": {
        "class_type": "PreviewImage",
        "errors": [{"message": "Required input is missing", "details": "images"}],
    }
}


def server(comfy_id: str, **fields: Any) -> dict[str, Any]:
    """A ComfyServer as REST shows it."""
    return {
        **{"comfy_id": comfy_id, "url": f"http://{comfy_id}:8188", "labels": [], "capacity": 4},
        **{"health": "ok", "reason": None, "version": "0.3.60", "device": "cuda:0"},
        **{"memory_free": None, "queue_remaining": 0, "state": "open", "state_by": None},
        **{"state_why": None, "state_since": None, "holders": [], "waiting": [], "mine": False},
        **fields,
    }


def holder(who: str, name: str, mode: str = "shared", **fields: Any) -> dict[str, Any]:
    return {"holder_id": who, "name": name, "mode": mode, "since": NOW, "state": "held", **fields}


ME = holder("me.1", "a.ipynb")
POOL = [
    server("gpu-1", labels=["flux", "sdxl"], queue_remaining=2),
    server("gpu-2", holders=[holder("b.1", "b.ipynb", "exclusive")], queue_remaining=1),
    server("gpu-3", health="unreachable", reason="no answer for 12 s", queue_remaining=None),
    server("gpu-4", state="draining", state_by="ann", state_why="new driver"),
]


def pool(**changes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**each, **changes.get(each["comfy_id"].replace("-", "_"), {})} for each in POOL]


WAITING = {"why": "gpu-2 is held by b.ipynb since 14:02, you are 2nd"}
LINE = [holder("c.1", "c.ipynb", place=1), holder("me.1", "a.ipynb", place=2)]

TASKS = {
    "waiting": told("waiting", "queued", queue={"ahead": 3, "ahead_mine": 1}),
    "running": told("running", "running", progress=HALF),
    "done": told("done", "succeeded", progress=DONE, files=files("done", *["image/png"] * 4)),
    "done-other": told(
        "done-other",
        "succeeded",
        **{"progress": DONE, "files": files("done-other", "audio/wav", "text/csv")},
        **{"outputs": {"9": {"text": ["A lighthouse stands on a cliff."]}}, "dropped": DROPPED},
    ),
    "failed": told("failed", "failed", error=ERROR, progress={**HALF, "node_id": None}),
    "cancelled": told("cancelled", "cancelled", reason="by its kernel", progress=HALF),
    "lost": told("lost", "lost", reason="its ComfyServer was restarted"),
    "released": told(
        "released",
        "cancelled",
        reason="its lock was taken away by ann at 14:02: it blocks the night run",
        progress=HALF,
    ),
}
MINE = {"gpu_1": {"holders": [ME, holder("d.1", "d.ipynb")], "mine": True}}
QUEUED = {"gpu_2": {**POOL[1], "waiting": LINE}}
LOCKS: dict[str, tuple[list[dict[str, Any]], Any, str | None]] = {
    "idle": (pool(), None, None),
    "held": (pool(**MINE), None, None),
    "waiting": (pool(**MINE, **QUEUED), WAITING, None),
    "released": (pool(), None, "taken away by ann at 14:02: it blocks the night run"),
}
#: Each widget in each state: what its cell runs.
CELLS = {
    **{f"task {name}": f"task(**json.loads({json.dumps(it)!r}))" for name, it in TASKS.items()},
    **{f"lock {name}": f"lock(*json.loads({json.dumps(it)!r}))" for name, it in LOCKS.items()},
    "panel": "panel()",
    "panel faults": "panel(**{'4.ckpt_name': \"'x.safetensors' is no choice\"})",
}
#: Opened before the picture is taken.
OPENED = ("task running", "task failed", "task done")


def main(folder: Path) -> None:
    """Take all pictures into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for app, path in APPS:
        with (
            tempfile.TemporaryDirectory() as place,
            chromium() as browser,
            jupyter_server([], folder=Path(place), app=app) as jupyter,
        ):
            _write(jupyter)
            for theme in THEMES:
                _set_theme(jupyter, theme)
                page = browser.new_page(viewport={"width": 1000, "height": 1400})
                name = f"{app}-{theme.split()[-1].lower()}"
                shots = dict(_shots(page, jupyter, path))
                for what, shot in shots.items():
                    (folder / f"{name}-{what.replace(' ', '-')}.png").write_bytes(shot)
                _contact(shots).save(folder / f"{name}.png")
                page.close()
                print(folder / f"{name}.png")


def _write(jupyter: JupyterServer) -> None:
    cells = [PREAMBLE.replace("{prompt!r}", repr(PROMPT)).replace("{info!r}", repr(INFO))]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(each.strip()) for each in [*cells, *CELLS.values()]]
    )
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, jupyter.root / "a.ipynb")


def _set_theme(jupyter: JupyterServer, theme: str) -> None:
    # Beside the configuration of the server's folder: Lab keeps its settings there.
    settings = jupyter.root.parent / "config/lab/user-settings/@jupyterlab"
    for name, values in {
        "apputils-extension/themes": {"theme": theme},
        # Else only the cells on the screen are drawn.
        "notebook-extension/tracker": {"windowingMode": "none"},
    }.items():
        file = settings / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))


def _shots(page: Page, jupyter: JupyterServer, path: str) -> Iterator[tuple[str, bytes]]:
    page.set_default_timeout(TIMEOUT_MS)
    page.clock.install(time=NOW)
    page.route("**/comfy-lock/api/**", _answer)
    page.goto(f"{jupyter.url}{path}/a.ipynb?token={jupyter.token}")
    page.wait_for_function(IDLE)
    # Notebooks draw what is on the screen only: this is all of it.
    page.set_viewport_size({"width": 1000, "height": 9000})
    page.evaluate(RUN_ALL)
    page.wait_for_function(f"document.querySelectorAll('.jp-Comfy').length >= {len(CELLS)}")
    page.wait_for_function(
        "[...document.querySelectorAll('.jp-ComfyTask-gallery img')].every(it => !it.hidden)"
    )
    outputs = page.locator(".jp-Cell-outputWrapper:has(.jp-Comfy)")
    for number, what in enumerate(CELLS):
        output = outputs.nth(number)
        if what in OPENED:
            for fold in output.locator("summary:visible").all():
                fold.click()
        output.locator(".jp-Comfy").first.scroll_into_view_if_needed()
        yield what, output.screenshot()


def _answer(route: Route) -> None:
    url = route.request.url
    if "/preview" in url or "/files/" in url:
        number = int(url.rpartition("/")[2]) if "/files/" in url else None
        route.fulfill(body=_picture(number), content_type="image/png")
    elif "/api/tasks/" in url:
        route.fulfill(json=TASKS[url.rpartition("/")[2]])
    else:
        # The pool that the kernel has told stays.
        route.fulfill(status=503, json={})


def _picture(number: int | None) -> bytes:
    """A picture of a lighthouse; without a number the one in the making."""
    sky = [(250, 190, 140), (120, 160, 220), (40, 50, 90), (200, 120, 160)][(number or 0) % 4]
    made = Image.new("RGB", (512, 384), sky)
    draw = ImageDraw.Draw(made)
    draw.rectangle((0, 280, 512, 384), fill=(40, 90, 110))
    draw.polygon([(300, 384), (340, 270), (470, 260), (512, 300), (512, 384)], fill=(70, 60, 50))
    draw.polygon([(385, 265), (395, 120), (415, 120), (425, 265)], fill=(240, 236, 228))
    draw.rectangle((390, 100, 420, 120), fill=(190, 40, 40))
    draw.polygon([(405, 108), (0, 60), (0, 130)], fill=(255, 245, 200))
    if number is None:
        made = made.filter(ImageFilter.GaussianBlur(14))
    stream = io.BytesIO()
    made.save(stream, "PNG")
    return stream.getvalue()


def _contact(shots: dict[str, bytes]) -> Image.Image:
    """All pictures of one page under each other, in two columns."""
    pictures = [Image.open(io.BytesIO(shot)).convert("RGB") for shot in shots.values()]
    columns: list[list[Image.Image]] = [[], []]
    for picture in pictures:
        min(columns, key=lambda it: sum(each.height for each in it)).append(picture)
    width = max(each.width for each in pictures)
    height = max(sum(each.height + 6 for each in column) for column in columns)
    whole = Image.new("RGB", (2 * width + 6, height), "magenta")
    for left, column in enumerate(columns):
        top = 0
        for picture in column:
            whole.paste(picture, (left * (width + 6), top))
            top += picture.height + 6
    return whole


if __name__ == "__main__":
    main(Path(sys.argv[1]))
