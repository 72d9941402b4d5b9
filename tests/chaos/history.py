"""What happened: files of JSON lines, written so that a killed process has said all it did.

Each line has `t`, nanoseconds of the machine's monotonic clock, which all processes share, and
`what`. Lines of a worker have `w`, its number, and `pid`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Event = dict[str, Any]

now = time.monotonic_ns
#: Nanoseconds of a second.
S = 1_000_000_000


class History:
    """The file of one process. What `write` was given is in the file when it returns."""

    def __init__(self, path: Path, **common: Any) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._common = common
        #: When the last use was in the file; the next one tells.
        self._wrote = 0

    def write(self, what: str, t: int | None = None, **more: Any) -> None:
        """Note that something happened, just now unless `t` is given."""
        self._put({"t": t or now(), "what": what, **self._common, **more})

    def use(self, began: int, **more: Any) -> None:
        """Note that something is forwarded, which began with a check at `began`."""
        # `t` is the last look at the clock before it goes out, and the next line's `wrote` the
        # first one after: it went out in between.
        event = {"what": "use", "began": began, "wrote": self._wrote, **self._common, **more}
        event["t"] = now()
        self._put(event)
        self._wrote = now()

    def _put(self, event: Event) -> None:
        os.write(self._fd, json.dumps(event, separators=(",", ":")).encode() + b"\n")


def read(path: Path) -> Iterator[Event]:
    """The lines of one file; each use has `ended`, before which it was forwarded.

    The last line is left out if it is not whole. `ended` of a process's last use is its `t`: it
    was never back from writing.
    """
    last: Event | None = None
    for line in path.read_bytes().split(b"\n")[:-1]:
        event = json.loads(line)
        if event["what"] == "use":
            event["ended"] = event["t"]
            if last is not None:
                last["ended"] = event["wrote"]
            last = event
        yield event


def merged(folder: Path) -> list[Event]:
    """The lines of all files, in the order of time."""
    events = [event for path in sorted(folder.glob("*.jsonl")) for event in read(path)]
    events.sort(key=lambda event: event["t"])
    return events
