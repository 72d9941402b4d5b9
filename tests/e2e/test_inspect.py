"""A notebook looks under the hood, cleans up after itself and tries the promises."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
import pytest

from tests.e2e.comfy import line_to
from tests.e2e.jupyter import CellFailed, running_jupyter

pytestmark = pytest.mark.timeout(300)

LOOK = """
import json
import jupyter_comfy_lock as comfy

comfy.lock("gpu-1")
print(json.dumps([comfy.debug().to_dict(), comfy.check().to_dict()]))
"""
SELFTEST = "print(json.dumps(comfy.selftest().to_dict()))"
CLEAN = """
task = comfy.submit({
    "1": {"class_type": "EmptyImage",
          "inputs": {"width": 32, "height": 32, "batch_size": 1, "color": 7}},
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}).wait()
print(json.dumps([comfy.cleanup(dry_run=True).to_dict(), comfy.cleanup().to_dict()]))
"""


def test_a_notebook_looks_under_the_hood(
    comfy_pool: Sequence[Mapping[str, str]], tmp_path: Path
) -> None:
    with (
        line_to(comfy_pool[0]["url"]) as line,
        running_jupyter(
            [{"id": "gpu-1", "url": line.url}, dict(comfy_pool[1])], folder=tmp_path
        ) as jupyter,
    ):
        kernel, other = jupyter.kernel("a.ipynb"), jupyter.kernel("b.ipynb")
        debug, check = json.loads(kernel.run(LOOK).text.splitlines()[-1])
        assert debug["holder"]["name"] == "a.ipynb"
        assert debug["lock"]["comfy_id"] == "gpu-1"
        assert debug["differs"] == []
        assert check["findings"] == []
        # R11.
        assert b"POST /" not in bytes(line.heard)
        other.run("import jupyter_comfy_lock as comfy; comfy.lock('gpu-1')")
        came = json.loads(kernel.run(SELFTEST).text.splitlines()[-1])
        assert {each["verdict"] for each in came["trials"]} == {"passed"}, came
        dry, done = json.loads(kernel.run(CLEAN).text.splitlines()[-1])
        assert [x["action"] for x in dry["steps"]] == ["release"]
        assert [(x["action"], x["result"]) for x in done["steps"]] == [("release", "done")]
        # R10: a kernel cleans up after itself only, and is told who may do more.
        with pytest.raises(CellFailed, match="Only the Jupyter user"):
            kernel.run("comfy.cleanup('b.ipynb')")
        cleaned = httpx.post(
            f"{jupyter.server.url}comfy-lock/api/cleanup",
            headers={"Authorization": f"token {jupyter.server.token}"},
            json={"kernel": "b.ipynb", "why": "night run"},
            timeout=30,
        ).json()
        assert [(x["action"], x["result"]) for x in cleaned["steps"]] == [("release", "done")]
        told = other.run("print(comfy.locked_server, comfy.debug().to_dict()['errors'])").text
        assert "None" in told
        assert "night run" in told
