"""A real Jupyter server as a process, with the extension and a pool."""

from __future__ import annotations

import json
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.comfy_servers import leashed, test_environment, wait_for

#: Variables through which the shell's own Jupyter would get in.
FOREIGN = ("JUPYTER_", "JPY_", "COMFY_LOCK_")


@dataclass(frozen=True, kw_only=True)
class JupyterServer:
    """A Jupyter server that answers."""

    #: With a slash at its end.
    url: str
    token: str
    pid: int
    #: Notebooks are below `root`; what the server says is in `log`.
    root: Path
    log: Path
    runtime: Path


@contextmanager
def jupyter_server(
    pool: Sequence[Mapping[str, Any]],
    *,
    folder: Path,
    app: str = "jupyter_server",
    config: Mapping[str, Any] | None = None,
    packages: Sequence[Path] = (),
) -> Iterator[JupyterServer]:
    """Run a Jupyter server on a free port, with all it keeps in `folder`.

    `app` is the module to run: "jupyter_server", "jupyterlab" or "notebook". `config` is laid
    over the configuration, section by section. `packages` are folders of packages that it finds
    beside those of this Python.

    Raises:
        ServerDidNotStart: it ended or did not answer in time; its log is in the message.
    """
    root, runtime = folder / "root", folder / "runtime"
    places = {
        "JUPYTER_CONFIG_DIR": folder / "config",
        "JUPYTER_DATA_DIR": folder / "data",
        "IPYTHONDIR": folder / "ipython",
    }
    for place in (*places.values(), root, runtime):
        place.mkdir(parents=True, exist_ok=True)
    given = (config or {}).get("IdentityProvider", {})
    token = given.get("token") or secrets.token_hex(16)
    (folder / "config" / "jupyter_server_config.json").write_text(
        json.dumps(_configuration(pool, token=token, root=root, config=config or {}))
    )
    environment = test_environment(*packages)
    inherited = {k: v for k, v in environment.items() if not k.startswith(FOREIGN)}
    log = folder / "log"
    with (
        _under_a_short_name(runtime) as places["JUPYTER_RUNTIME_DIR"],
        leashed(
            [sys.executable, "-m", app],
            log=log,
            cwd=root,
            env={**inherited, **{name: str(place) for name, place in places.items()}},
        ) as process,
    ):

        def announced() -> str | None:
            files = list(runtime.glob("jpserver-*.json"))
            return files[0].read_text() if files and files[0].stat().st_size else None

        info = json.loads(wait_for(announced, process=process, log=log, timeout_s=120))
        yield JupyterServer(
            url=info["url"],
            token=token,
            pid=info["pid"],
            root=root,
            log=log,
            runtime=runtime,
        )


@contextmanager
def _under_a_short_name(directory: Path) -> Iterator[Path]:
    """Another name of `directory`, for the sockets in it: theirs may have about 100 characters."""
    with tempfile.TemporaryDirectory(prefix="jpr-") as place:
        link = Path(place, "r")
        link.symlink_to(directory, target_is_directory=True)
        yield link


def _configuration(
    pool: Sequence[Mapping[str, Any]], *, token: str, root: Path, config: Mapping[str, Any]
) -> dict[str, Any]:
    settings: dict[str, dict[str, Any]] = {
        "ServerApp": {
            "ip": "127.0.0.1",
            "port": 0,
            "open_browser": False,
            "allow_root": os.geteuid() == 0,
            "root_dir": str(root),
        },
        "IdentityProvider": {"token": token},
        # Jupyter chooses a kernel's ports before the kernel starts: one of the many servers of the
        # tests beside this one may have taken one of them by then. Names of sockets stay free.
        "KernelManager": {"transport": "ipc"},
        # The tests' page scripts reach Lab through window.jupyterapp.
        "LabApp": {"expose_app_in_browser": True},
        "JupyterNotebookApp": {"expose_app_in_browser": True},
        "ComfyLock": {"pool": list(pool)},
    }
    for section, values in config.items():
        settings.setdefault(section, {}).update(values)
    return settings
