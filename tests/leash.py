"""Run a command that ends when whoever started it ends, however that ends.

`python leash.py COMMAND…` with a pipe as standard input: when the pipe closes, because the
starter closed it, was killed or crashed, the command's whole process group is stopped.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

#: Seconds between asking the group to stop and ending it.
GRACE_S = 5.0


def main(command: list[str]) -> int:
    """The exit code of `command`."""
    # A group of its own: what the command starts in turn is stopped with it.
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def stop_when_let_go() -> None:
        # Not sys.stdin: a thread that waits in it makes Python abort when it ends.
        while os.read(0, 4096):
            pass
        _signal(child.pid, signal.SIGTERM)
        try:
            child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            _signal(child.pid, signal.SIGKILL)

    threading.Thread(target=stop_when_let_go, daemon=True).start()
    # Only the pipe decides: a Ctrl-C in the terminal is the starter's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = child.wait()
    _signal(child.pid, signal.SIGKILL)
    return code


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
