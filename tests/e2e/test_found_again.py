"""A task, and what it made, are found again by its id after a restart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.comfy import endless_workflow, running
from tests.e2e.jupyter import CellFailed, Jupyter, Kernel, running_jupyter, until

pytestmark = pytest.mark.timeout(300)

START = "import jupyter_comfy_lock as comfy\ncomfy.lock('gpu-1')"
LOOK = "[[*image.size, *image.convert('RGB').getpixel((5, 5))] for image in found.images]"
RED = [[64, 32, 255, 0, 0]]


def picture() -> dict[str, Any]:
    size = {"width": 64, "height": 32, "batch_size": 1}
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"color": 0xFF0000, **size}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "e2e"}},
    }


def a_kernel_with_a_picture(kernel: Kernel) -> str:
    """The id of a task that has succeeded."""
    kernel.run(f"{START}\nresult = comfy.run({picture()!r}, width=64)")
    return str(kernel.ask("result.task.id"))


def refusal(kernel: Kernel, code: str) -> str:
    with pytest.raises(CellFailed) as caught:
        kernel.run(code)
    return str(caught.value)


def move(jupyter: Jupyter, kernel: Kernel, path: str) -> None:
    """Rename the kernel's notebook, as Lab does."""
    body = {"path": path, "name": path, "type": "notebook"}
    jupyter.http.patch(f"api/sessions/{kernel.session_id}", json=body).raise_for_status()


EARLIER = "[each.id for each in comfy.tasks(earlier=True)]"


def test_a_notebook_finds_what_it_had_before_a_restart(
    embedded_pool: Sequence[Mapping[str, str]], tmp_path: Path
) -> None:
    with running_jupyter(embedded_pool, folder=tmp_path) as jupyter:
        kernel = jupyter.kernel("a.ipynb")
        done = a_kernel_with_a_picture(kernel)
        kernel.run(f"task = comfy.submit({endless_workflow()!r})")
        endless = kernel.ask("task.id")
        until(lambda: running(embedded_pool[0]["url"]), within_s=20, what="the second task")
        jupyter.restart(kernel)
        kernel.reconnect()
        kernel.run(f"import jupyter_comfy_lock as comfy; found = comfy.task({done!r})")
        assert kernel.ask(LOOK) == RED
        assert kernel.ask("found.log[0].what") == "registered for gpu-1"
        # Nothing of an earlier life is heard of; a wait asks.
        assert "because its kernel ended" in refusal(kernel, f"comfy.task({endless!r}).wait(20)")
        assert kernel.ask("[each.id for each in comfy.tasks()]") == []
        assert kernel.ask(EARLIER) == [endless, done]

    # The Jupyter server is stopped and started again: the notebook's kernel is another one.
    with running_jupyter(embedded_pool, folder=tmp_path) as jupyter:
        kernel, other = jupyter.kernel("a.ipynb"), jupyter.kernel("b.ipynb")
        kernel.run(f"import jupyter_comfy_lock as comfy; found = comfy.task({done!r})")
        assert kernel.ask(LOOK) == RED
        assert kernel.ask(EARLIER) == [endless, done]
        other.run(START)
        assert other.ask(EARLIER) == []
        assert "UnknownTask" in refusal(other, f"comfy.task({done!r})")
        # What a kernel that lives has sent is its own, whatever its notebook was called then.
        newer = a_kernel_with_a_picture(kernel)
        move(jupyter, kernel, "moved.ipynb")
        move(jupyter, other, "a.ipynb")
        other.run(START)
        assert other.ask(EARLIER) == [endless, done]
        assert "UnknownTask" in refusal(other, f"comfy.task({newer!r})")
