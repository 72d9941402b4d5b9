"""Which Jupyter server this process belongs to, and how it says who it is there."""

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

from jupyter_core.paths import jupyter_runtime_dir

from jupyter_comfy_lock.domain.errors import NoServerExtension
from jupyter_comfy_lock.domain.proof import proof
from jupyter_comfy_lock.domain.words import one_line

WAYS_OUT = (
    "Ways out: run this in a notebook that JupyterLab started; or attach to a running Jupyter "
    "server (`jupyter server list` shows them) by setting COMFY_LOCK_URL and COMFY_LOCK_TOKEN "
    "before this process starts; or try `jupyter comfy-lock demo`, which starts everything."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A Jupyter server, and how this process may introduce itself there."""

    #: The server's base URL, with a slash at its end.
    url: str
    #: How it was found, for messages.
    found_by: str
    #: The kernel's id where the server started this kernel (managed), else None (attached).
    kernel_id: str | None = None
    #: The session key of the kernel's connection file; proves `kernel_id`.
    key: bytes = field(default=b"", repr=False)
    #: The Jupyter server's token; "" where it wants none.
    token: str = field(default="", repr=False)
    #: Path of the Unix socket that the server listens on, instead of a port.
    uds: str | None = None

    @property
    def kind(self) -> str:
        """Whether the process is there as its kernel ("managed") or as a guest ("attached")."""
        return "managed" if self.kernel_id else "attached"

    def authorization(self) -> str | None:
        """Return the header that says hello: a proof of the kernel's id, or the user's token."""
        if self.kernel_id:
            return f"ComfyKernelProof {self.kernel_id}:{proof(self.key, self.kernel_id)}"
        return f"token {self.token}" if self.token else None

    def attached(self) -> "Place":
        """Return the same server, to be asked as the Jupyter user instead of as its kernel."""
        return replace(self, kernel_id=None, key=b"")


def find_place(environ: Mapping[str, str] | None = None) -> Place:
    """Return the Jupyter server of this process.

    Looks at COMFY_LOCK_URL first, then for the Jupyter server that started this kernel (or
    the kernel that started this process), then at JupyterHub's variables.

    Raises:
        NoServerExtension: there is none; the message tells what can be done.
    """
    environ = os.environ if environ is None else environ
    found = _told(environ) or _parent(environ) or _hub(environ)
    if found is None:
        msg = f"This process belongs to no Jupyter server that it can find. {WAYS_OUT}"
        raise NoServerExtension(msg)
    return found


def _told(environ: Mapping[str, str]) -> Place | None:
    url = environ.get("COMFY_LOCK_URL", "").strip()
    if not url:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        msg = f"COMFY_LOCK_URL must be the http(s) URL of a Jupyter server, got {_no_query(url)!r}."
        raise NoServerExtension(msg)
    # People copy what Jupyter prints, `http://host:8888/lab?token=…`; take that too.
    token = parse_qs(parts.query).get("token", [""])[0]
    return Place(
        url=_base(_no_query(url)),
        found_by="COMFY_LOCK_URL",
        token=environ.get("COMFY_LOCK_TOKEN", "") or token,
    )


def _no_query(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))


def _base(url: str) -> str:
    return re.sub(r"/(lab|tree|notebooks|voila)(/.*)?$", "", url.rstrip("/")).rstrip("/") + "/"


def _parent(environ: Mapping[str, str]) -> Place | None:
    # On Windows JPY_PARENT_PID is a handle; there the parent of a kernel is its server.
    for pid in (environ.get("JPY_PARENT_PID", ""), str(os.getppid())):
        server = _running_server(pid) if pid.isdigit() else None
        if server is not None:
            break
    else:
        return None
    kernel_id, key = this_kernel() or (None, b"")
    url, uds = str(server.get("url", "")), str(server.get("sock") or "") or None
    if uds is not None:
        url = "http://localhost" + str(server.get("base_url", "/"))
    return Place(
        url=url.rstrip("/") + "/",
        found_by="the Jupyter server that started this kernel",
        kernel_id=kernel_id,
        key=key,
        token=str(server.get("token") or ""),
        uds=uds,
    )


def _running_server(pid: str) -> dict[str, Any] | None:
    try:
        found = json.loads((Path(jupyter_runtime_dir()) / f"jpserver-{pid}.json").read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def this_kernel() -> tuple[str, bytes] | None:
    """Return the id and session key of the kernel that this process is, or None.

    A fork of a kernel is not that kernel: it must not speak in its name.
    """
    # A process that has not imported ipykernel is no kernel, and need not pay for the import.
    module = sys.modules.get("ipykernel.kernelapp")
    if module is None or not module.IPKernelApp.initialized():
        return None
    app = module.IPKernelApp.instance()
    # A kernel answers heartbeats for as long as it lives, and a fork has none of its threads.
    if app.heartbeat is None or not app.heartbeat.is_alive():
        return None
    name = re.fullmatch(r"kernel-(.+)\.json", Path(app.connection_file).name)
    return (name[1], bytes(app.session.key)) if name else None


def _hub(environ: Mapping[str, str]) -> Place | None:
    url = environ.get("JUPYTERHUB_SERVICE_URL", "")
    token = environ.get("JUPYTERHUB_API_TOKEN", "")
    if not url or not token:
        return None
    return Place(url=url.rstrip("/") + "/", found_by="JUPYTERHUB_SERVICE_URL", token=token)


def own_name(environ: Mapping[str, str] | None = None) -> str | None:
    """Return what to call this process: COMFY_LOCK_NAME, its notebook, its script, or None."""
    environ = os.environ if environ is None else environ
    told = environ.get("COMFY_LOCK_NAME")
    main = sys.modules.get("__main__")
    if not told and "ipykernel.kernelapp" in sys.modules:
        # VS Code tells the kernel which file it runs; Jupyter servers tell by the session's name.
        told = getattr(main, "__vsc_ipynb_file__", None) or environ.get("JPY_SESSION_NAME")
    elif not told:
        told = Path(getattr(main, "__file__", None) or "").name
    # The name of a file may be no text.
    return one_line(told) if told else None
