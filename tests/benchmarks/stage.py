"""What most benchmarks stand on: a ComfyUI server, and a Jupyter server that this process uses."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.benchmarks import empty_handler
from tests.benchmarks.keep_alive import KeepAlive
from tests.installed_once import install_into, installed_once
from tests.jupyter_servers import JupyterServer, jupyter_server

PROXY = Path(__file__).with_name("proxy-requirements.txt")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Both servers; this process is a kernel that has locked the ComfyUI server."""

    comfy_url: str
    server: JupyterServer
    #: With a slash at its end.
    gateway: str

    @property
    def token(self) -> Mapping[str, str]:
        return {"Authorization": f"token {self.server.token}"}

    def cpu_s(self) -> float:
        """The seconds for which the Jupyter server has kept a processor busy so far."""
        spent = psutil.Process(self.server.pid).cpu_times()
        return float(spent.user + spent.system)

    def direct(self, path: str) -> KeepAlive:
        return KeepAlive(f"{self.comfy_url}/{path}")

    def through_gateway(self, path: str) -> KeepAlive:
        return KeepAlive(self.gateway + path)

    def through_proxy(self, path: str) -> KeepAlive:
        """Ask by way of jupyter-server-proxy."""
        host, port = self.comfy_url.removeprefix("http://").split(":")
        return KeepAlive(f"{self.server.url}proxy/{host}:{port}/{path}", self.token)

    def empty(self) -> KeepAlive:
        return KeepAlive(self.server.url + empty_handler.PATH, self.token)


@contextmanager
def stage(comfy_url: str) -> Iterator[Stage]:
    """Run a Jupyter server with the product, the empty handler and jupyter-server-proxy."""
    import jupyter_comfy_lock as comfy

    requirements = PROXY.read_text()
    proxy = installed_once("proxy", lambda to: install_into(to, PROXY), of=[requirements])
    extensions = {empty_handler.__name__: True, "jupyter_server_proxy": True}
    with (
        tempfile.TemporaryDirectory() as folder,
        jupyter_server(
            [{"id": "gpu-1", "url": comfy_url}],
            folder=Path(folder),
            config={"ServerApp": {"jpserver_extensions": extensions}},
            packages=[proxy],
        ) as server,
    ):
        os.environ["COMFY_LOCK_URL"] = server.url
        os.environ["COMFY_LOCK_TOKEN"] = server.token
        comfy.lock("gpu-1")
        yield Stage(comfy_url=comfy_url, server=server, gateway=comfy.url)
        comfy.release()
