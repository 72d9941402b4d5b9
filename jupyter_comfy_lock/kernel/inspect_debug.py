"""What `debug()` hands out: what the Jupyter server and this kernel know, side by side."""

import html
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jupyter_comfy_lock import __version__
from jupyter_comfy_lock.kernel.views import ago

_PACKAGES = ("ipykernel", "ipywidgets", "anywidget", "httpx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """What this kernel knows by itself."""

    holder_id: str
    #: The ComfyServer and the fence of the lock that it takes for its own.
    lock: tuple[str, int] | None
    #: Whether its event stream is open.
    live: bool
    versions: Mapping[str, str] = field(default_factory=lambda: versions())


def versions() -> dict[str, str]:
    """Return what runs in this kernel."""
    known = {"jupyter_comfy_lock": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            known[name] = "?"
    return known


class Debug:
    """How this kernel stands. `json`: by the Jupyter server's word, without secrets."""

    def __init__(self, json: Mapping[str, Any], here: Here) -> None:
        self.json = json
        self.here = here

    @property
    def differs(self) -> tuple[str, ...]:
        """What this kernel and the Jupyter server do not agree on; empty where all is well."""
        return tuple(self._differs())

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        here = {
            "holder_id": self.here.holder_id,
            "lock": list(self.here.lock) if self.here.lock else None,
            "live": self.here.live,
            "versions": dict(self.here.versions),
        }
        return {**self.json, "kernel": here, "differs": list(self.differs)}

    def __repr__(self) -> str:
        lines = list(self._lines())
        width = max(len(name) for name, _ in lines)
        return "\n".join(f"{name.ljust(width)}  {text}".rstrip() for name, text in lines)

    def _repr_html_(self) -> str:
        cell = 'style="text-align: left"'
        rows = "".join(
            f"<tr><th {cell}>{html.escape(name)}</th><td {cell}>{html.escape(text)}</td></tr>"
            for name, text in self._lines()
        )
        return f"<table><tbody>{rows}</tbody></table>"

    def _differs(self) -> Iterator[str]:
        told = self.json["holder"]["holder_id"]
        if told != self.here.holder_id:
            yield f"this kernel is {self.here.holder_id}, and the Jupyter server calls it {told}"
        lock = self.json["lock"]
        there = (lock["comfy_id"], lock["fence"]) if lock else None
        if there != self.here.lock:
            here = self.here.lock[0] if self.here.lock else "no lock"
            yield f"this kernel knows of {here}, the Jupyter server of {_lock(there)}"
        if self.here.live and not self.json["events"]["streams"]:
            yield "this kernel hears events, and the Jupyter server knows no stream of it"
        if not self.here.live:
            yield "this kernel hears no events: it looks by itself, more slowly"
        for name, theirs in self.json["versions"].items():
            mine = self.here.versions.get(name)
            if name == "jupyter_comfy_lock" and mine != theirs:
                yield f"{name} is {mine} here and {theirs} in the Jupyter server: update the older"

    def _lines(self) -> Iterator[tuple[str, str]]:
        holder = self.json["holder"]
        process = f", process {self.json['process']}" if self.json["process"] else ""
        yield "kernel", holder["name"] or holder["holder_id"]
        yield "holder", f"{holder['holder_id']} ({holder['kind']}{process})"
        yield "lock", self._held()
        if comfy := self.json["comfy"]:
            reason = f": {comfy['reason']}" if comfy["reason"] else ""
            yield (
                "server",
                f"{comfy['comfy_id']} {comfy['health']}{reason}, ComfyUI {comfy['version']}, "
                f"life {comfy['epoch']}",
            )
        for standing in self.json["waiting"]:
            yield "waits", f"for {' or '.join(standing['comfy_ids'])}: {standing['why']}"
        yield "lease", self._lease()
        if self.json["pin"] or self.json["port"]:
            yield "prefers", f"{self.json['pin'] or 'none'}, port {self.json['port'] or 'none'}"
        for which in ("pending", "last"):
            for task in self.json["tasks"][which]:
                yield which, f"{task['task_id']} on {task['comfy_id']}, {task['state']}"
        sockets = self.json["sockets"]
        yield (
            "sockets",
            f"{sockets['upstream']} to the ComfyServer, {sockets['gateway']} at the gateway",
        )
        hears = "heard" if self.here.live else "not heard"
        yield "events", f"{hears} here, {self.json['events']['streams']} stream(s) open there"
        for error in self.json["errors"]:
            when = ago(self.json["at"] - error["at"])
            yield "error", f"{when} ago, {error['where']}: {error['code']}: {error['message']}"
        yield "here", _named(self.here.versions)
        yield "there", _named(self.json["versions"])
        for differs in self.differs:
            yield "differs", differs

    def _held(self) -> str:
        lock, lost = self.json["lock"], self.json["lost"]
        if lock:
            since = ago(self.json["at"] - lock["granted_at"])
            return f"{lock['comfy_id']}, {lock['mode']}, fence {lock['fence']}, for {since}"
        return f"lost {lost['comfy_id']}: {lost['why']}" if lost else "none"

    def _lease(self) -> str:
        lease = self.json["lease"]
        renewed = lease["renewed_s_ago"]
        mine = "" if renewed is None else f"; this kernel renewed its own {ago(renewed)} ago"
        return (
            f"the Jupyter server's ends in {ago(lease['left_s'])} if not renewed, which it is "
            f"every {lease['renew_every_s']:g} s{mine}"
        )


def _lock(known: tuple[str, int] | None) -> str:
    return known[0] if known else "no lock"


def _named(known: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in known.items())
