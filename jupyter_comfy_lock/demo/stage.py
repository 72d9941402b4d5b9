"""What the demo needs to run on: embedded servers, folders, a Jupyter configuration."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
from filelock import FileLock, Timeout

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
        return _runtime(self.directory)

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


def _runtime(directory: Path) -> Path:
    return directory / "jupyter" / "runtime"


def _write(path: Path, settings: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=2))


@contextmanager
def stage(directory: Path, comfy_ids: Sequence[str]) -> Iterator[Stage]:
    """Start one embedded server for each id, and stop them in the end.

    Raises:
        StageError: one of them did not start, or another demo runs in `directory`.
    """
    directory = directory.resolve()
    with ExitStack() as stack:
        stack.enter_context(_alone_in(directory))
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
def _alone_in(directory: Path) -> Iterator[None]:
    """Keep other demos out of `directory`; the system lets them in when this process is gone."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(directory / "demo.lock", timeout=0):
            yield
    except Timeout:
        url = _running_url(directory)
        at = f" at {url}" if url else ""
        msg = (
            f"A demo runs in {directory} already{at}. "
            "Use that one, or choose another folder with --directory."
        )
        raise StageError(msg) from None


def _running_url(directory: Path) -> str | None:
    """Return where the JupyterLab of the demo in `directory` answers, if it does yet."""
    for path in _runtime(directory).glob("jpserver-*.json"):
        # One that was killed leaves its file behind; one that starts has written half of it.
        with suppress(OSError, ValueError, KeyError):
            about = json.loads(path.read_text())
            if psutil.pid_exists(about["pid"]):
                return f"{about['url']}lab?token={about['token']}"
    return None


@contextmanager
def orderly_exit() -> Iterator[None]:
    """Have SIGTERM, and SIGHUP of a closed terminal, leave the block by `SystemExit`."""
    numbers = [signal.SIGTERM]
    # Who started it with nohup means it to go on.
    if os.name != "nt" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)

    def leave(number: int, _: FrameType | None) -> None:
        for each in numbers:
            # The second must not disturb what the first has begun.
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def process(module: str, *arguments: str, **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """Run a Python module for as long as the block lasts, and have it stop in an orderly way.

    It stops too when this process is killed; not on Windows.
    """
    with ExitStack() as tether:
        command = [module, *arguments]
        if os.name != "nt":
            theirs, ours = os.pipe()
            tether.callback(os.close, ours)
            tether.callback(os.close, theirs)
            command = ["jupyter_comfy_lock.demo.tether", str(theirs), *command]
            options["pass_fds"] = (theirs,)
        started = subprocess.Popen([sys.executable, "-m", *command], text=True, **options)
        try:
            yield started
        finally:
            _stop(started)


def _stop(started: "subprocess.Popen[str]") -> None:
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
    command = ["jupyter_comfy_lock.cli", "serve", "--name", comfy_id]
    log = directory / "log"
    with (
        log.open("w") as stderr,
        # A session of its own: Ctrl-C is for Jupyter, which asks back; this ends with the demo.
        process(
            *command,
            *("--base-directory", str(directory)),
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
