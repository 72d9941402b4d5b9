"""What all views have in common: the browser's side of them, and the one thread that writes."""

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from jupyter_comfy_lock.domain.errors import ComfyLockError
from jupyter_comfy_lock.kernel.client import API
from jupyter_comfy_lock.kernel.session import current
from jupyter_comfy_lock.kernel.threads import background

log = logging.getLogger(__name__)

STATIC = Path(__file__).parents[2] / "static"

#: Seconds between two updates of a view: a person sees no more, and front ends drop what is more.
TICK_S = 0.1

if not (STATIC / "widget.js").is_file():
    _MSG = f"{STATIC / 'widget.js'} is missing"
    raise FileNotFoundError(_MSG)


class View(anywidget.AnyWidget):
    """Shows one thing and follows it. Its traits are set by `writer` alone, in `write`."""

    _esm = STATIC / "widget.js"
    _css = STATIC / "widget.css"

    #: Which of the views in widget.js draws it.
    view = traitlets.Unicode("").tag(sync=True)
    #: Where the REST API is, under the Jupyter server's base URL: buttons call it, because a
    #: kernel that is busy with a cell does not hear them.
    api_path = traitlets.Unicode(API).tag(sync=True)
    #: Whether the page asks the kernel alone. A kernel that was started elsewhere may be shown by
    #: a page of another Jupyter server, which knows nothing of it, or of none (VS Code).
    by_comm = traitlets.Bool(False).tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        super().__init__(by_comm=_started_elsewhere(), **traits)
        self.on_msg(self._on_msg)

    def write(self) -> None:
        """Show what there is to see now; called on the writer's thread only."""
        raise NotImplementedError

    def answer(self, kind: str, content: Mapping[str, Any]) -> None:
        """Do what the page asks for; it has been told that it was heard."""

    def read(self, path: str) -> bytes:
        """Return the bytes at `path` of the Jupyter server, for a page that cannot ask there.

        Raises:
            ComfyLockError: there are none, or none that this view shows.
        """
        msg = f"This view shows no {path}."
        raise ComfyLockError(msg)

    def _on_msg(self, _: Any, content: Any, buffers: list[bytes]) -> None:
        if not isinstance(content, dict):
            return
        if content.get("kind") == "fetch":
            self._send_bytes(content.get("id"), str(content.get("path")))
            return
        # A kernel that runs a cell hears nothing: without this a button would seem dead.
        self.send({"kind": "heard", "id": content.get("id")})
        self.answer(str(content.get("kind")), {**content, "buffers": buffers})

    def _send_bytes(self, number: Any, path: str) -> None:
        try:
            content = self.read(path)
        except ComfyLockError as error:
            self.send({"kind": "bytes", "id": number, "error": error.message})
        else:
            self.send({"kind": "bytes", "id": number}, buffers=[content])


def _started_elsewhere() -> bool:
    with suppress(ComfyLockError):
        return current().place.kind != "managed"
    return False


class Writer:
    """The one thread that writes the traits of views, each at most once per tick."""

    def __init__(self, tick_s: float = TICK_S) -> None:
        self._tick_s = tick_s
        self._changed = threading.Condition()
        self._marked: set[View] = set()
        self._thread: threading.Thread | None = None

    def mark(self, view: View) -> None:
        """Have `view` written soon. Never blocks for long."""
        with self._changed:
            self._marked.add(view)
            if self._thread is None or not self._thread.is_alive():
                self._thread = background(self._run, name="comfy-lock-views")
                self._thread.start()
            self._changed.notify()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._marked)
                views, self._marked = self._marked, set()
            for view in views:
                try:
                    view.write()
                except Exception:  # one view whose page is gone must not end the others
                    log.exception("Could not update %r.", view)
            pause.wait(self._tick_s)


writer = Writer()


def in_background(act: Callable[[], None], *, name: str) -> None:
    """Do `act` on a thread of its own: whatever waits must not keep the kernel from its cells."""
    background(act, name=name).start()
