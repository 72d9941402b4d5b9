"""`jupyter comfy-lock`, as the person at the terminal and the operating system see it."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.comfy_servers import test_environment
from tests.e2e.jupyter import until

COMMAND = [sys.executable, "-m", "jupyter_comfy_lock.cli"]
#: Seconds until JupyterLab answers.
START_S = 60.0
#: Seconds in which all that a demo has started is gone after it was told to end, and was killed.
END_S = 20.0
KILLED_S = 10.0


class Demo:
    """A demo that runs, and all processes that it has started."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.url = until(self._announced, within_s=START_S, what=f"JupyterLab in {folder}")
        self.started = psutil.Process(process.pid).children(recursive=True)

    def _announced(self) -> str | None:
        assert self.process.poll() is None, (self.folder.parent / "said").read_text()
        for path in (self.folder / "jupyter" / "runtime").glob("jpserver-*.json"):
            if said := path.read_text():
                return str(json.loads(said)["url"])
        return None

    def left(self) -> list[psutil.Process]:
        """Which of its processes run."""
        return [each for each in self.started if runs(each)]

    def embedded(self) -> list[psutil.Process]:
        return [each for each in self.left() if "--base-directory" in each.cmdline()]


def runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def demo(tmp_path: Path, *, terminal: int = subprocess.DEVNULL) -> Iterator[Demo]:
    """A demo in a session of its own, whose input is `terminal`."""
    folder = tmp_path / "demo"

    def take_terminal() -> None:
        # The first terminal that the leader of a session opens is the session's.
        os.close(os.open(os.ttyname(terminal), os.O_RDWR))
        # Whoever started the tests may have been told to outlive its terminal (nohup).
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(
            [*COMMAND, "demo", "--no-browser", "--port", "0", "--directory", str(folder)],
            stdin=terminal,
            stdout=said,
            stderr=said,
            env=test_environment(),
            start_new_session=True,
            preexec_fn=None if terminal == subprocess.DEVNULL else take_terminal,
        )
    family = {psutil.Process(process.pid)}
    try:
        running = Demo(process, folder)
        family.update(running.started)
        yield running
    finally:
        for each in [x for member in family if runs(member) for x in member.children()]:
            family.add(each)
        for each in family:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**test_environment(), "NO_COLOR": "1", "COLUMNS": "120"}
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_check_says_that_all_is_as_promised() -> None:
    done = run("demo", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    for comfy_id in ("gpu-1", "gpu-2"):
        assert re.search(rf"notebook_{comfy_id}.ipynb.* {comfy_id} .* 4 of 4 ", done.stdout)
    assert "✓ Both ran at the same time" in done.stdout


@pytest.mark.parametrize("option", ["--directory", "--port"])
def test_the_check_refuses_what_it_would_not_heed(option: str) -> None:
    done = run("demo", "--check", option, "8888")
    assert done.returncode == 2
    assert f"Error: {option} is for JupyterLab" in done.stderr


def test_a_second_demo_in_the_folder_is_refused_and_the_first_one_stops_when_asked(
    tmp_path: Path,
) -> None:
    with demo(tmp_path) as first:
        second = run("demo", "--no-browser", "--port", "0", "--directory", str(first.folder))
        assert second.returncode == 1
        assert f"A demo runs in {first.folder} already at {first.url}" in second.stderr
        assert "--directory" in second.stderr
        assert len(first.embedded()) == 2
        first.process.send_signal(signal.SIGTERM)
        assert first.process.wait(END_S) == 128 + signal.SIGTERM
        assert first.left() == []


def test_nothing_outlives_a_demo_that_was_killed(tmp_path: Path) -> None:
    with demo(tmp_path) as killed:
        assert len(killed.embedded()) == 2
        killed.process.kill()
        killed.process.wait()
        until(lambda: not killed.left(), within_s=KILLED_S, what=f"the end of {killed.left()}")


def test_ctrl_c_is_asked_back_by_jupyter_and_closing_the_terminal_ends_the_demo(
    tmp_path: Path,
) -> None:
    ours, theirs = pty.openpty()

    def asked() -> bool:
        return "Shut down this Jupyter server (y/[n])?" in (tmp_path / "said").read_text()

    with demo(tmp_path, terminal=theirs) as shown:
        os.close(theirs)
        os.write(ours, b"\x03")
        until(asked, within_s=END_S, what="Jupyter's question")
        assert len(shown.embedded()) == 2
        os.close(ours)
        assert shown.process.wait(END_S) == 128 + signal.SIGHUP
        assert shown.left() == []


def test_a_port_that_is_taken_is_told_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run("serve", "--port", str(port))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"Error: Port {port} of 127.0.0.1 is taken (address already in use); "
        "choose another with --port, or 0 for any free one.\n"
    )
