"""Start a real ComfyUI on a free port, with directories of its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.comfy_servers import answers, leashed, wait_for
from tests.real_comfyui.install import HERE, ComfyUIHome, installed_comfyui


@contextmanager
def real_comfy(*, folder: Path, front_end: Path | None = None) -> Iterator[Callable[[], str]]:
    """Start ComfyUI in `folder`; call what it yields to wait until it answers, for its URL."""
    # ComfyUI is also installed by a Python that has nothing of ours.
    from jupyter_comfy_lock.embedded.front_end import installed_front_end

    home = installed_comfyui()
    front_end = front_end or installed_front_end()
    assert front_end is not None, "comfyui-frontend-package is missing"
    base = folder / "base"
    for name in ("base/custom_nodes", "base/models", "base/input", "output", "temp", "user"):
        (folder / name).mkdir(parents=True)
    (base / "custom_nodes" / "trace_nodes").symlink_to(HERE / "nodes")
    url = f"http://127.0.0.1:{_free_port()}"
    log = folder / "log"
    command = _command(home, folder=folder, port=url.rpartition(":")[2], front_end=front_end)
    with leashed(command, log=log, cwd=folder, env=_environment()) as process:
        yield lambda: wait_for(lambda: url if answers(url) else None, process=process, log=log)


def _command(home: ComfyUIHome, *, folder: Path, port: str, front_end: Path) -> list[str]:
    return [
        *(str(home.python), str(home.source / "main.py")),
        *("--cpu", "--listen", "127.0.0.1", "--port", port),
        *("--base-directory", str(folder / "base")),
        *("--output-directory", str(folder / "output")),
        *("--temp-directory", str(folder / "temp")),
        *("--user-directory", str(folder / "user")),
        # Without this all instances of one source tree share a database.
        *("--database-url", f"sqlite:///{folder / 'user' / 'comfyui.db'}"),
        *("--front-end-root", str(front_end)),
        *("--disable-api-nodes", "--disable-auto-launch"),
    ]


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        # Stands in for torchvision and torchaudio, whose files do not load beside a CPU torch.
        "PYTHONPATH": str(HERE / "stubs"),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        # Two of them and the tests share the machine's cores.
        "OMP_NUM_THREADS": "1",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
