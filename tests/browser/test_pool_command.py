"""The command of the Lab extension, in JupyterLab and in Notebook 7."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.chromium import chromium
from tests.jupyter_servers import jupyter_server

COMMAND = "comfy-lock:show-pool"
SERVER = {
    "comfy_id": "gpu-1",
    "url": "http://127.0.0.1:8188",
    "health": "ok",
    "reason": None,
    "version": "0.3.75",
    "queue_remaining": 2,
    "holders": [{"holder_id": "k.1", "name": "a.ipynb", "mode": "shared", "since": 5.0}],
}


def answer(page: Page, body: Any) -> None:
    def fulfil(route: Route) -> None:
        route.fulfill(status=200, content_type="application/json", body=json.dumps(body))

    # The star: Jupyter adds a number against caches.
    page.route("**/comfy-lock/api/pool*", fulfil)


@pytest.mark.parametrize(("app", "path"), [("jupyterlab", "lab"), ("notebook", "tree")])
def test_the_command_shows_the_pool(app: str, path: str, tmp_path: Path) -> None:
    with jupyter_server([], folder=tmp_path, app=app) as server, chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(100_000)
        answer(page, {"servers": [SERVER]})
        page.goto(f"{server.url}{path}?token={server.token}")
        page.wait_for_function(f"window.jupyterapp?.commands.hasCommand('{COMMAND}')")
        page.evaluate(f"void window.jupyterapp.commands.execute('{COMMAND}')")
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_role("row").last).to_have_text("gpu-1ok0.3.752a.ipynb (shared)")
        dialog.get_by_role("button", name="Close").click()
        # What breaks the server's word is told, not drawn.
        answer(page, {"servers": [{**SERVER, "health": 3}]})
        page.evaluate(f"void window.jupyterapp.commands.execute('{COMMAND}')")
        expect(dialog).to_contain_text("The server sent 3 for servers[0].health, not a string")
