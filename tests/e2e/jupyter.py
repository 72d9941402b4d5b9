"""A real Jupyter server with real kernels, as its user and the operating system see them."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
from jupyter_client import BlockingKernelClient

from tests.jupyter_servers import JupyterServer, jupyter_server

#: Seconds that a kernel may take to start; two of ComfyUI may be loading beside it.
KERNEL_START_S = 60.0
T = TypeVar("T")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def until(found: Callable[[], T], *, within_s: float, what: str) -> T:
    """The first answer of `found` that is true; asked again and again.

    Raises:
        AssertionError: there was none within that time; says `what` did not come.
    """
    deadline_s = time.monotonic() + within_s
    while True:
        if answer := found():
            return answer
        assert time.monotonic() < deadline_s, f"not within {within_s:g} s: {what}"
        time.sleep(0.02)


class CellFailed(Exception):
    """A cell raised; the message is its traceback."""


@dataclass
class Cell:
    """What a cell has put out so far."""

    text: str = ""
    #: The MIME bundles that it displayed.
    displays: list[Mapping[str, Any]] = field(default_factory=list)

    def take(self, message: Mapping[str, Any]) -> None:
        content = message["content"]
        match message["header"]["msg_type"]:
            case "stream":
                self.text += content["text"]
            case "execute_result" | "display_data":
                self.displays.append(content["data"])
                self.text += content["data"].get("text/plain", "") + "\n"


class Kernel:
    """A kernel of a Jupyter server, talked to through its connection file."""

    def __init__(self, jupyter: Jupyter, kernel_id: str, session_id: str, path: str) -> None:
        self.jupyter = jupyter
        self.kernel_id = kernel_id
        self.session_id = session_id
        self.path = path
        self._client: BlockingKernelClient | None = None

    @property
    def client(self) -> BlockingKernelClient:
        """A connection to the process that the kernel is now."""
        if self._client is None:
            file = self.jupyter.server.runtime / f"kernel-{self.kernel_id}.json"
            until(file.exists, within_s=KERNEL_START_S, what=f"{file.name}")
            self._client = BlockingKernelClient(connection_file=str(file))
            self._client.load_connection_file()
            # Without heartbeats: a kernel on a busy machine misses some and is alive.
            self._client.start_channels(hb=False)
            until(self._answers, within_s=KERNEL_START_S, what=f"an answer of {self.path}")
        return self._client

    def _answers(self) -> bool:
        assert self._client is not None
        self._client.kernel_info()
        try:
            self._client.get_shell_msg(timeout=1)
            # The subscription to outputs comes about on its own, later than the answer.
            self._client.get_iopub_msg(timeout=0.2)
        except queue.Empty:
            return False
        return True

    def run(self, code: str, *, timeout_s: float = 60.0) -> Cell:
        """Run a cell and return what it put out.

        Raises:
            CellFailed: it raised.
        """
        cell = Cell()
        reply = self.client.execute_interactive(
            code,
            timeout=timeout_s,
            output_hook=cell.take,
            # Else a cell that is sent at once after a failed one is not run.
            stop_on_error=False,
        )
        if reply["content"]["status"] != "ok":
            lines = reply["content"].get("traceback") or [reply["content"]["status"]]
            raise CellFailed(_ANSI.sub("", cell.text + "\n".join(lines)))
        return cell

    def ask(self, expression: str, *, timeout_s: float = 60.0) -> Any:
        """The value of an expression, by way of JSON."""
        said = self.run(f"import json; print(json.dumps({expression}))", timeout_s=timeout_s).text
        return json.loads(said.splitlines()[-1])

    def begin(self, code: str, *, said: str) -> str:
        """Start a cell and return when it has printed `said`; it goes on."""
        cell = Cell()
        message_id: str = self.client.execute(code, stop_on_error=False)
        deadline_s = time.monotonic() + KERNEL_START_S
        while said not in cell.text:
            message = self.client.get_iopub_msg(timeout=deadline_s - time.monotonic())
            if message["parent_header"].get("msg_id") == message_id:
                assert message["header"]["msg_type"] != "error", message["content"]
                cell.take(message)
        return message_id

    def send(self, code: str) -> None:
        """Start a cell and do not wait for it."""
        self.client.execute(code, stop_on_error=False)

    def pid(self) -> int:
        """The process that the kernel is now."""
        return int(self.ask("__import__('os').getpid()"))

    def reconnect(self) -> None:
        """Talk to another process from now on: the kernel was restarted."""
        self.disconnect()

    def disconnect(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.stop_channels()
            self._client = None


class Jupyter:
    """A running Jupyter server, as its user asks it."""

    def __init__(self, server: JupyterServer) -> None:
        self.server = server
        self.process = psutil.Process(server.pid)
        self.http = httpx.Client(
            base_url=server.url,
            headers={"Authorization": f"token {server.token}"},
            timeout=30.0,
        )
        self.kernels: list[Kernel] = []

    # -- kernels -----------------------------------------------------------------------------

    def kernel(self, path: str) -> Kernel:
        """Start a kernel for the notebook `path`, as Lab does when it opens one."""
        made = self.http.post(
            "api/sessions",
            json={
                "path": path,
                "name": path,
                "type": "notebook",
                "kernel": {"name": "python3"},
            },
        )
        session = made.raise_for_status().json()
        kernel = Kernel(self, session["kernel"]["id"], session["id"], path)
        self.kernels.append(kernel)
        return kernel

    def shut_down(self, kernel: Kernel) -> None:
        """Shut the kernel down."""
        self.http.delete(f"api/kernels/{kernel.kernel_id}").raise_for_status()

    def restart(self, kernel: Kernel) -> None:
        """Restart the kernel."""
        self.http.post(f"api/kernels/{kernel.kernel_id}/restart").raise_for_status()

    def delete_session(self, kernel: Kernel) -> None:
        """Delete the session, which shuts its kernel down."""
        self.http.delete(f"api/sessions/{kernel.session_id}").raise_for_status()

    # -- our own API -------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        """What our API answers to the Jupyter user."""
        return self.http.get(f"comfy-lock/api/{path}").raise_for_status().json()

    def locks(self) -> list[dict[str, Any]]:
        """The locks of all holders."""
        return list(self.get("locks")["locks"])

    def holds(self, kernel_id: str) -> bool:
        """Whether any incarnation of the kernel has a lock."""
        return any(lock["holder_id"].startswith(f"{kernel_id}.") for lock in self.locks())

    def task(self, task_id: str) -> dict[str, Any]:
        """One task."""
        return dict(self.get(f"tasks/{task_id}"))

    # -- the process -------------------------------------------------------------------------

    def log(self) -> str:
        """All that the server has said."""
        return self.server.log.read_text(errors="replace")

    def log_lines(self, *words: str) -> list[str]:
        """The lines of the log that have all these words."""
        return [line for line in self.log().splitlines() if all(word in line for word in words)]

    def signal(self, number: signal.Signals) -> None:
        """Send the server a signal."""
        os.kill(self.server.pid, number)

    def ended(self) -> bool:
        """Whether the server's process is gone."""
        try:
            return bool(self.process.status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True

    def close(self) -> None:
        """Let go of the connections to the kernels and to the server."""
        for kernel in self.kernels:
            kernel.disconnect()
        self.http.close()


@contextmanager
def running_jupyter(
    pool: Sequence[Mapping[str, Any]],
    *,
    folder: Path,
    config: Mapping[str, Any] | None = None,
    app: str = "jupyter_server",
) -> Iterator[Jupyter]:
    """Run a Jupyter server with all it keeps in `folder`, also for the second time."""
    for left in (folder / "runtime").glob("jpserver-*"):
        # A server that was killed left it behind; it is not the one that starts now.
        left.unlink()
    with jupyter_server(pool, folder=folder, config=config, app=app) as server:
        jupyter = Jupyter(server)
        try:
            yield jupyter
        finally:
            jupyter.close()
