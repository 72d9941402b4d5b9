"""A server extension with a handler that does nothing but what Jupyter does for each request."""

from __future__ import annotations

from typing import Any

from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import url_path_join
from tornado import web

#: Below the Jupyter server's base URL.
PATH = "benchmark/empty"


class EmptyHandler(JupyterHandler):
    @web.authenticated
    def get(self) -> None:
        self.finish({"exec_info": {"queue_remaining": 0}})


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: Any) -> None:
    path = url_path_join(server.base_url, PATH)
    server.web_app.add_handlers(".*$", [(path, EmptyHandler)])
