"""What tests start ends with them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.comfy_servers import TESTS, leashed

DEADLINE_S = 15.0
# Starts a process of its own, which ignores being asked to stop, and says both ids.
FAMILY = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(60)
"""


def read_pids(log: Path) -> list[int]:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            if "\n" in (said := log.read_text()):
                return [int(pid) for pid in said.split()]
        time.sleep(0.02)
    msg = "the family did not start"
    raise AssertionError(msg)


def all_gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if not any(is_running(pid) for pid in pids):
            return True
        time.sleep(0.02)
    return False


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie that nobody has waited for has ended all the same.
    return " Z " not in Path(f"/proc/{pid}/stat").read_text() if Path("/proc").exists() else True


def test_what_was_started_ends_with_the_with(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FAMILY]
    log = tmp_path / "log"
    with leashed(command, log=log, cwd=tmp_path, env=dict(os.environ)):
        pids = read_pids(log)
    assert all_gone(pids)


def test_what_was_started_ends_when_the_starter_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    starter = (
        "import os, sys, time; from pathlib import Path; from tests.comfy_servers import leashed\n"
        f"with leashed([sys.executable, '-c', {FAMILY!r}], log=Path({str(log)!r}),"
        f" cwd=Path({str(tmp_path)!r}), env=dict(os.environ)): time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", starter], cwd=TESTS.parent)
    pids = read_pids(log)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert all_gone(pids)
