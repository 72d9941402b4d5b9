"""The view of this kernel's lock and of the pool."""

from collections.abc import Callable, Mapping
from typing import Any

import traitlets

from jupyter_comfy_lock.domain.errors import ComfyLockError
from jupyter_comfy_lock.kernel.session import Session, current
from jupyter_comfy_lock.kernel.widgets.view import View, in_background, writer


class LockView(View):
    """Shows the pool and this kernel's lock; locks, switches, waits and releases."""

    view = traitlets.Unicode("lock").tag(sync=True)
    #: Who this kernel is at its Jupyter server.
    holder_id = traitlets.Unicode("").tag(sync=True)
    #: The ComfyServers, as REST shows them.
    pool: traitlets.List[Any] = traitlets.List().tag(sync=True)
    #: How this kernel stands in line, as REST shows it; {} if it does not wait.
    waiting = traitlets.Dict().tag(sync=True)
    #: What is being done: "Locking gpu-2"; "" for nothing.
    doing = traitlets.Unicode("").tag(sync=True)
    #: What was refused, or how the lock was lost.
    note = traitlets.Unicode("").tag(sync=True)

    def __init__(self, session: Session | None = None, **traits: Any) -> None:
        super().__init__(**traits)
        self._session = session or current()
        self._doing = self._refusal = ""
        #: Whether the person has ended the waiting: that it ended is no news then.
        self._leaving = False
        self.write()
        self._unlisten = self._session.on_lock(lambda: writer.mark(self))

    def write(self) -> None:
        """Show how things stand now."""
        try:
            standing = self._session.standing()
        except ComfyLockError as error:
            self.note = error.message
            return
        lost = f"The lock is gone: {standing.loss}." if standing.loss else ""
        with self.hold_sync():
            self.holder_id = standing.holder_id
            self.pool = standing.pool
            self.waiting = dict(standing.waiting or {})
            self.doing = self._doing
            self.note = self._refusal or lost

    def close(self) -> None:
        """Remove the view."""
        self._unlisten()
        super().close()

    def answer(self, kind: str, content: Mapping[str, Any]) -> None:
        """Lock, release, leave the line, or look again."""
        comfy_id = str(content.get("comfy_id") or "")
        if kind == "lock":
            wait = None if content.get("wait") else 0
            mode = content.get("mode") or None
            self._leaving = False
            self._do(
                f"Locking {comfy_id}", lambda: self._session.lock(comfy_id, mode=mode, wait=wait)
            )
        elif kind == "release":
            # The message may be old: what was locked since is not what the button meant.
            held = self._session.locked()
            if held is not None and (held.comfy_id, held.since) == (comfy_id, content.get("since")):
                self._do(f"Releasing {comfy_id}", self._session.release)
        elif kind == "leave":
            self._leaving = True
            self._do("Leaving the line", self._session.leave_line)
        elif kind == "look":
            writer.mark(self)

    def _do(self, what: str, act: Callable[[], object]) -> None:
        self._doing, self._refusal = what, ""
        writer.mark(self)

        def run() -> None:
            try:
                act()
            except ComfyLockError as error:
                self._refusal = "" if self._leaving else error.message
            finally:
                self._doing = ""
                writer.mark(self)

        in_background(run, name="comfy-lock-switch")

    def __repr__(self) -> str:
        # No moment: a notebook run twice shows the same text twice.
        mine = [each["comfy_id"] for each in self.pool if each["mine"]]
        return f"LockView({mine[0] if mine else 'nothing locked'})"


def lock_view() -> LockView:
    """Return a view of the pool and of this kernel's lock, in which it can be changed."""
    return LockView()
