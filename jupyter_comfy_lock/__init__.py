"""Each notebook kernel gets a ComfyUI server of its own."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """Where Jupyter Server finds the extension."""
    # Kernels import this package too and must not pay for the server side.
    from jupyter_comfy_lock.server.app import ComfyLock  # noqa: PLC0415

    return [{"module": "jupyter_comfy_lock.server.app", "app": ComfyLock}]


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    """Where `jupyter-builder develop` finds the built Lab extension."""
    return [{"src": "labextension", "dest": "jupyter-comfy-lock"}]
