"""What the demo needs to run on: embedded servers, folders, a Jupyter configuration."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Seconds that a process may take to stop before it is killed.
_STOP_S = 10.0


class StageError(Exception):
    """The demo cannot run here; says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Folders, and a pool of servers that run."""

    directory: Path
    pool: tuple[dict[str, Any], ...]

    @property
    def notebooks(self) -> Path:
        """Where the notebooks are."""
        return self.directory / "notebooks"

    @property
    def runtime(self) -> Path:
        """Where Jupyter writes which servers and kernels run."""
        return self.directory / "jupyter" / "runtime"

    def environment(self) -> dict[str, str]:
        """Return the environment of the demo's Jupyter: its own, whatever this user's is like."""
        jupyter = self.directory / "jupyter"
        foreign = ("JUPYTER_", "JPY_", "COMFY_LOCK_")
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith(foreign)},
            "JUPYTER_CONFIG_DIR": str(jupyter / "config"),
            "JUPYTER_DATA_DIR": str(jupyter / "data"),
            "JUPYTER_RUNTIME_DIR": str(self.runtime),
        }

    def configure(self, port: int, notebook: str = "") -> None:
        """Write Jupyter's configuration; `notebook` is what JupyterLab opens with."""
        settings = {
            "ServerApp": {
                "ip": "127.0.0.1",
                "port": port,
                "root_dir": str(self.notebooks),
                # In a container one is often root, and this server is for this machine alone.
                "allow_root": True,
            },
            "ComfyLock": {"pool": list(self.pool)},
            # News and updates ask hosts on the internet, which have nothing to do with the demo.
            "LabApp": {
                "default_url": f"/lab/tree/{notebook}" if notebook else "/lab",
                "news_url": None,
                "check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
            },
        }
        config = self.directory / "jupyter" / "config"
        _write(config / "jupyter_server_config.json", settings)
        # Else it asks, over the notebook, whether it may fetch them.
        _write(config / "lab" / "user-settings" / _NEWS, {"fetchNews": "false"})


#: JupyterLab's settings of what it tells of the project's news.
_NEWS = "@jupyterlab/apputils-extension/notification.jupyterlab-settings"


def _write(path: Path, settings: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=2))


@contextmanager
def stage(directory: Path, comfy_ids: Sequence[str]) -> Iterator[Stage]:
    """Start one embedded server for each id, and stop them in the end.

    Raises:
        StageError: one of them did not start.
    """
    directory = directory.resolve()
    with ExitStack() as stack:
        pool = tuple(
            {
                "id": comfy_id,
                "url": stack.enter_context(_embedded(comfy_id, directory / "comfy" / comfy_id)),
            }
            for comfy_id in comfy_ids
        )
        made = Stage(directory=directory, pool=pool)
        made.notebooks.mkdir(parents=True, exist_ok=True)
        yield made


@contextmanager
def process(command: Sequence[str], **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """Run a command for as long as the block lasts, and have it stop in an orderly way."""
    started = subprocess.Popen(command, text=True, **options)
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@contextmanager
def _embedded(comfy_id: str, directory: Path) -> Iterator[str]:
    """Run an embedded server and give its URL."""
    directory.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "jupyter_comfy_lock.cli", "serve", "--name", comfy_id]
    log = directory / "log"
    with (
        log.open("w") as stderr,
        # A session of its own: Ctrl-C is for Jupyter, which asks back; this ends with the demo.
        process(
            [*command, "--base-directory", str(directory)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        ) as started,
    ):
        assert started.stdout is not None
        words = started.stdout.readline().split()
        if len(words) != len(("name", "url")):
            msg = f"The embedded server {comfy_id} did not start:\n{log.read_text()[-2000:]}"
            raise StageError(msg)
        yield words[1]
