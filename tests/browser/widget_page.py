"""A page with one view in it, and the little of a Jupyter server that it talks to."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page

import jupyter_comfy_lock
from tests.chromium import chromium

STATIC = Path(jupyter_comfy_lock.__file__).parent / "static"
#: Of the browser side's own packages: `npm ci` in js/ brings it.
AXE = Path(__file__).parents[2] / "js" / "node_modules" / "axe-core" / "axe.min.js"
BASE_URL = "/user/ann/"
XSRF = "2|xsrf"

PAGE = """<!doctype html><html lang="en"><head><title>A view</title>
<link rel="stylesheet" href="widget.css">%s
</head><body><main><h1>A notebook</h1><div id="view"></div></main><script type="module">
import widget from './widget.js';
const listeners = new Map();
const traits = { view: 'task', task: {}, api_path: 'comfy-lock/api/', label: '', ...%s };
window.sent = [];
window.listeners = listeners;
window.model = {
  get: name => traits[name],
  on: (event, call) => listeners.set(event, [...(listeners.get(event) ?? []), call]),
  off: (event, call) =>
    listeners.set(event, (listeners.get(event) ?? []).filter(other => other !== call)),
  send: (message, _, buffers) => {
    window.sent.push(message);
    window.answer(message, buffers ?? []);
  }
};
// What the kernel does with a message: nothing, while it runs a cell.
window.answer = () => {};
window.hears = message => window.say({ kind: 'heard', id: message.id });
window.say = (message, buffers = []) => {
  for (const call of listeners.get('msg:custom') ?? []) call(message, buffers);
};
window.set = (name, value) => {
  traits[name] = value;
  for (const call of listeners.get(`change:${name}`) ?? []) call();
};
window.life = new AbortController();
widget.render({ model: window.model, el: document.getElementById('view'),
                signal: window.life.signal });
window.ready = true;
</script></body></html>"""
CONFIG = """<script id="jupyter-config-data" type="application/json">%s</script>"""


class FakeJupyter(ThreadingHTTPServer):
    """Serves the page, a task, pictures and a cancel; remembers what was asked."""

    daemon_threads = True

    def __init__(self, *, in_jupyter: bool, traits: Mapping[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.in_jupyter = in_jupyter
        self.traits = traits
        #: The answer to `GET pool`.
        self.pool: list[dict[str, Any]] = []
        self.cancel_status = 202
        #: The answer to `GET tasks/t-1`; a server that is starting, until a test says otherwise.
        self.task: tuple[int, dict[str, Any]] = (503, {})
        #: How often it was asked for.
        self.looks = 0
        #: (method, path below the base URL, X-XSRFToken) in order.
        self.asked: list[tuple[str, str, str | None]] = []


class _Handler(BaseHTTPRequestHandler):
    server: FakeJupyter

    def do_GET(self) -> None:
        name = self.path.removeprefix(BASE_URL)
        if name == "page":
            config = CONFIG % json.dumps({"baseUrl": BASE_URL, "token": ""})
            traits = json.dumps(self.server.traits)
            page = PAGE % (config if self.server.in_jupyter else "", traits)
            self._answer(200, "text/html", page.encode())
        elif name in ("widget.js", "widget.css"):
            kind = "text/javascript" if name.endswith("js") else "text/css"
            self._answer(200, kind, (STATIC / name).read_bytes())
        elif name == "comfy-lock/api/pool":
            self._answer(
                200, "application/json", json.dumps({"servers": self.server.pool}).encode()
            )
        elif name == "comfy-lock/api/tasks/t-1":
            assert self.headers.get("X-XSRFToken") == XSRF
            self.server.looks += 1
            status, body = self.server.task
            self._answer(status, "application/json", json.dumps(body).encode())
        elif name.startswith("comfy-lock/api/tasks/"):
            self._remember(name)
            self._answer(200, "image/png", picture(len(self.server.asked)))
        else:
            self._answer(404, "text/plain", b"")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._remember(self.path.removeprefix(BASE_URL))
        body = json.dumps({"code": "not_yours", "message": "not your task"}).encode()
        self._answer(self.server.cancel_status, "application/json", body)

    def _remember(self, path: str) -> None:
        self.server.asked.append((self.command, path, self.headers.get("X-XSRFToken")))

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Set-Cookie", f"_xsrf={XSRF}; Path={BASE_URL}")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def picture(shade: int) -> bytes:
    """A PNG; another one for another `shade`."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (shade * 40 % 256, 80, 160)).save(file, "PNG")
    return file.getvalue()


@contextmanager
def widget_page(*, in_jupyter: bool = True, **traits: Any) -> Iterator[tuple[Page, FakeJupyter]]:
    """A page that shows one view, that of a task unless `traits` say otherwise.

    `in_jupyter` False is a page of no Jupyter server, such as VS Code's.
    """
    with FakeJupyter(in_jupyter=in_jupyter, traits=traits) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with chromium() as browser:
                page = browser.new_page()
                page.set_default_timeout(20_000)
                page.goto(f"http://127.0.0.1:{server.server_port}{BASE_URL}page")
                page.wait_for_function("window.ready")
                yield page, server
        finally:
            server.shutdown()


def faults_for_screen_readers(page: Page) -> list[str]:
    """What axe finds wrong with the page as it is: rules, and where they are broken."""
    page.add_script_tag(path=AXE)
    found = page.evaluate("axe.run().then(it => it.violations)")
    return [f"{each['id']}: {node['html'][:200]}" for each in found for node in each["nodes"]]
