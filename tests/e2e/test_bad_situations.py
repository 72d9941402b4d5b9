"""What somebody reads in the notebook when something is not as it should be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.comfy_servers import test_environment
from tests.e2e.comfy import endless_workflow, line_to, running
from tests.e2e.jupyter import CellFailed, Kernel, running_jupyter, until

IMPORT = "import jupyter_comfy_lock as comfy\n"
#: Nothing listens there.
NOWHERE = "http://127.0.0.1:1"


def refusal(kernel: Kernel, code: str) -> str:
    with pytest.raises(CellFailed) as caught:
        kernel.run(IMPORT + code)
    return str(caught.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, ["EmptyPool", "c.ComfyLock.pool", "jupyter comfy-lock demo"]),
        (
            {"ServerApp": {"jpserver_extensions": {"jupyter_comfy_lock": False}}},
            ["NoServerExtension", "jupyter server extension list"],
        ),
        ({"ComfyLock": {"pool": [{"id": "a"}]}}, ["ConfigError", "c.ComfyLock.pool[0].url"]),
        (
            {"ComfyLock": {"pool": [{"id": "gone", "url": NOWHERE}]}},
            ["No ComfyServer can be locked", "gone: connection refused"],
        ),
    ],
    ids=["no pool", "extension disabled", "wrong pool", "all ComfyServers dead"],
)
def test_the_error_says_what_to_do(
    config: Mapping[str, Any], words: list[str], tmp_path: Path
) -> None:
    with running_jupyter([], folder=tmp_path, config=config) as jupyter:
        said = refusal(jupyter.kernel("a.ipynb"), "comfy.lock()")
    assert [word for word in words if word not in said] == [], said


def test_a_wrong_token_is_named_and_not_shown(tmp_path: Path) -> None:
    with running_jupyter([], folder=tmp_path) as jupyter:
        attach = {"COMFY_LOCK_URL": jupyter.server.url, "COMFY_LOCK_TOKEN": "open sesame"}
        ended = subprocess.run(
            [sys.executable, "-c", IMPORT + "comfy.servers()"],
            env={**test_environment(), **attach},
            capture_output=True,
            text=True,
            check=False,
        )
    said = ended.stderr.splitlines()[-1]
    assert "WrongCredential" in said
    assert "COMFY_LOCK_TOKEN" in said
    assert "open sesame" not in ended.stderr


def test_a_task_outlives_the_silence_of_its_comfy_server(
    comfy_pool: list[dict[str, str]], tmp_path: Path
) -> None:
    with ExitStack() as stack:
        line = stack.enter_context(line_to(comfy_pool[0]["url"]))
        pool = [{"id": "gpu-1", "url": line.url}]
        jupyter = stack.enter_context(running_jupyter(pool, folder=tmp_path))
        kernel = jupyter.kernel("a.ipynb")
        kernel.run(IMPORT + f"comfy.lock('gpu-1')\ntask = comfy.submit({endless_workflow()!r})")
        task_id = kernel.ask("task.id")
        until(lambda: task_id in running(line.comfy_url), within_s=20, what="a prompt")
        line.cut()
        said = refusal(kernel, f"comfy.submit({endless_workflow()!r})")
        assert "ComfyUnreachable" in said
        assert "'gpu-1'" in said
        assert "TimeoutError" in refusal(kernel, "task.wait(3)")
        assert kernel.ask("str(task.state)") == "running"
        line.mend()
        kernel.run("task.cancel()")
        assert "TaskCancelled" in refusal(kernel, "task.wait(20)")
        until(lambda: not running(line.comfy_url), within_s=5, what="an idle ComfyServer")
