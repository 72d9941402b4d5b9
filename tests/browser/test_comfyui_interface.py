"""ComfyUI's own web interface through the gateway: a real kernel, the real page, a real browser.

`SCREENSHOTS=folder` keeps pictures of it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser.comfyui_interface import Interface, front_end_with
from tests.chromium import chromium
from tests.comfy_servers import comfy_servers
from tests.e2e.comfy import endless_workflow, queue, steps_workflow
from tests.e2e.jupyter import Jupyter, Kernel, running_jupyter, until

pytestmark = pytest.mark.timeout(300)

PLANTED = Path(__file__).with_name("planted.js")
VIEW = {"width": 1500, "height": 900}
#: Asks for what a page of another site may not have.
GUESS = """async url => {
  try { return (await fetch(url)).status } catch { return 'refused' }
}"""


def kernel_with_lock(jupyter: Jupyter, name: str) -> tuple[Kernel, str]:
    """A kernel that has locked gpu-1, and its gateway's URL."""
    kernel = jupyter.kernel(name)
    kernel.run("import jupyter_comfy_lock as comfy; comfy.lock('gpu-1')")
    return kernel, str(kernel.ask("str(comfy.url)"))


def states(kernel: Kernel) -> list[str]:
    """The states of the kernel's tasks, newest first."""
    return list(kernel.ask("[task.state for task in comfy.tasks()]"))


def screenshot(page: Page, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"interface_{name}.png")


def saving(workflow: dict[str, Any]) -> dict[str, Any]:
    """The same workflow, whose picture is kept."""
    save = {"images": ["1", 0], "filename_prefix": "interface"}
    return {**workflow, "2": {"class_type": "SaveImage", "inputs": save}}


def test_a_workflow_that_is_run_in_it_is_a_task_of_the_kernel(
    comfy_pool: list[dict[str, str]], tmp_path: Path
) -> None:
    with running_jupyter(comfy_pool, folder=tmp_path) as jupyter, chromium() as browser:
        kernel, url = kernel_with_lock(jupyter, "a.ipynb")
        page = browser.new_page(viewport=VIEW)
        interface = Interface(page, url)
        assert page.evaluate("'SaveImage' in LiteGraph.registered_node_types")

        interface.load(saving(steps_workflow(steps=30, delay=0.1)))
        interface.run()
        # "[40%]…"
        page.wait_for_function("document.title.startsWith('[')")
        screenshot(page, "runs")
        until(lambda: states(kernel) == ["succeeded"], within_s=30, what="the task's end")
        assert interface.picture_width("SaveImage") == 64
        screenshot(page, "has_run")
        name = kernel.ask("comfy.tasks()[0].files[0].filename")
        assert name.startswith("interface_")

        raising = {"class_type": "TrRaise", "inputs": {"message": "boom", "seed": 1}}
        preview = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
        interface.load({"1": raising, "2": preview})
        interface.run()
        page.get_by_text("TrRaise failed").wait_for()
        until(lambda: states(kernel)[0] == "failed", within_s=10, what="the task's end")


@dataclass
class Site:
    """Two kernels that share an embedded server, whose page loads a hostile script."""

    jupyter: Jupyter
    comfy_url: str
    a: Kernel
    b: Kernel
    a_url: str
    b_url: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    front_end = front_end_with(PLANTED, folder=folder / "front_end")
    with comfy_servers(1, "embedded", front_end=front_end) as [comfy_url]:
        pool = [{"id": "gpu-1", "url": comfy_url}]
        with running_jupyter(pool, folder=folder / "jupyter") as jupyter:
            (a, a_url), (b, b_url) = (kernel_with_lock(jupyter, f"{x}.ipynb") for x in "ab")
            yield Site(jupyter, comfy_url, a, b, a_url, b_url)


def test_its_panels_and_buttons_are_about_the_kernels_own_prompts(site: Site) -> None:
    with chromium() as browser:
        page = browser.new_page(viewport=VIEW)
        interface = Interface(page, site.a_url)
        interface.load(endless_workflow())
        interface.run()
        interface.active(1)
        until(lambda: states(site.a) == ["running"], within_s=10, what="the task runs")
        others = site.b.ask(f"comfy.submit({endless_workflow()}).id")
        interface.run()
        # Three are in ComfyUI's queue.
        interface.active(2)
        assert len(queue(site.comfy_url)) == 3

        interface.show_jobs()
        page.get_by_text("1 running, 1 queued").wait_for()
        screenshot(page, "own_jobs")
        interface.button("Clear queued").click()
        interface.active(1)
        assert states(site.a) == ["cancelled", "running"]
        interface.button("Cancel current run").click()
        interface.active(0)
        until(lambda: states(site.b) == ["running"], within_s=10, what="the other's turn")
        assert queue(site.comfy_url) == {others}

        site.b.run("comfy.tasks()[0].cancel()")
        until(lambda: not queue(site.comfy_url), within_s=10, what="an empty queue")


def test_results_are_saved_to_the_disk_and_workflows_to_the_kernels_own_desk(site: Site) -> None:
    with chromium() as browser:
        page = browser.new_page(viewport=VIEW)
        # The page of the other kernel, which has not been there before.
        interface = Interface(page, site.b_url)
        interface.load(saving(steps_workflow(steps=1, delay=0.0)))
        interface.run()
        interface.picture_width("SaveImage")
        interface.button("Assets (a)").click()
        page.get_by_role("img", name="interface_").hover()
        with page.expect_download() as download:
            interface.button("Download").click()
        assert download.value.suggested_filename.startswith("interface_")
        assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")
        assert page.url == site.b_url

        page.keyboard.press("Control+s")
        with page.expect_response("**/userdata/workflows*") as saved:
            page.get_by_role("dialog").get_by_role("textbox").press("Enter")
        assert saved.value.status == 200
        interface.button("Workflows (w)").click()
        page.get_by_role("tree").get_by_text("tested").wait_for()
        screenshot(page, "saved")
        mine = "userdata?dir=workflows"
        assert browser.new_page().goto(site.b_url + mine).json() == ["tested.json"]
        assert browser.new_page().goto(site.a_url + mine).json() == []


def test_a_comfyservers_script_has_nothing_of_the_jupyter_users(site: Site) -> None:
    """R10."""
    with chromium() as browser:
        context = browser.new_context()
        user = context.new_page()
        user.goto(f"{site.jupyter.server.url}api/status?token={site.jupyter.server.token}")
        # The browser has the Jupyter user's cookies now, and a page with that origin can use them.
        user.goto(f"{site.jupyter.server.url}no-such-page")
        assert user.evaluate("async () => (await fetch('api/contents')).status") == 200
        kernels = site.jupyter.http.get("api/kernels").json()

        page = context.new_page()
        page.goto(site.a_url)
        page.wait_for_function("window.planted")
        found = page.evaluate("id => window.planted(id)", site.a.kernel_id)
        allowed = {
            "use the gateway": "HTTP 200",
            # Sent, and refused by the Jupyter server, as is seen below.
            "start a kernel, blindly": "opaque",
            "start a kernel by a form": "sent",
        }
        own = {"origin": "null", "cookie": "", "stored": []}
        refused = set(found) - set(allowed) - set(own)
        assert len(refused) == 11
        assert found == {**dict.fromkeys(refused, "refused"), **allowed, **own}
        assert [x["id"] for x in site.jupyter.http.get("api/kernels").json()] == [
            x["id"] for x in kernels
        ]


def test_a_page_of_another_site_has_no_way_in(site: Site) -> None:
    """R10."""
    guess = site.a_url.replace(site.a_url.split("/")[-2], "x" * 43) + "queue"
    with other_site() as other, chromium() as browser:
        page = browser.new_page()
        page.goto(f"{other}page")
        assert page.evaluate(GUESS, guess) == "refused"
        # Also with the key, were it known there, nothing can be read or shown.
        assert page.evaluate(GUESS, site.a_url + "queue") == "refused"
        with page.expect_event("requestfailed") as failed:
            page.evaluate("url => { document.querySelector('iframe').src = url }", site.a_url)
        assert failed.value.failure == "net::ERR_BLOCKED_BY_RESPONSE"
        # A page may have no origin as ComfyUI's has none: then it has no key.
        page.goto(f"{other}sandboxed")
        assert page.evaluate("origin") == "null"
        assert page.evaluate(GUESS, guess) == "refused"


@contextmanager
def other_site() -> Iterator[str]:
    """A web server at another site than the Jupyter server's, with little to show."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            if self.path == "/sandboxed":
                self.send_header("Content-Security-Policy", "sandbox allow-scripts")
            self.end_headers()
            self.wfile.write(b"<!doctype html><iframe></iframe>")

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()
