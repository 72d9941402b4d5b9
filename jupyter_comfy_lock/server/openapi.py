"""The description of the REST API, served to whoever may call it."""

import asyncio
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jupyter_server.auth.decorator import allow_unauthenticated

from jupyter_comfy_lock import __version__
from jupyter_comfy_lock.server.caller import ComfyLockHandler

_FILE = Path(__file__).with_name("openapi.yaml")


@cache
def description() -> dict[str, Any]:
    """Return the OpenAPI description; read when it is first asked for. Not to be changed."""
    # The loader in C is eight times as fast, and not there everywhere.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    read: dict[str, Any] = yaml.load(_FILE.read_text(encoding="utf-8"), Loader=loader)
    read["info"]["version"] = __version__
    return read


class DescriptionHandler(ComfyLockHandler):
    """`openapi.json`."""

    @allow_unauthenticated
    async def get(self) -> None:
        """Describe the REST API, at the address under which this Jupyter server has it."""
        described = await asyncio.to_thread(description)
        base = f"{self.base_url}comfy-lock/api"
        self.finish({**described, "servers": [{**described["servers"][0], "url": base}]})


#: Patterns below the extension's base URL.
DESCRIPTION_HANDLERS: list[tuple[str, type[ComfyLockHandler]]] = [
    (r"comfy-lock/api/openapi\.json", DescriptionHandler),
]
