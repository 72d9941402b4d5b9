"""How long it takes until everything that a kernel held is released."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

#: What must be over, in the order of the table's columns.
THINGS = ("lock", "queue", "tasks", "sockets")


class Releases:
    """Seconds of each release, as a table."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, Mapping[str, float]]] = []

    def measure(
        self,
        name: str,
        act: Callable[[], object],
        over: Mapping[str, Callable[[], bool]],
        *,
        within_s: float,
    ) -> None:
        """Do `act` and wait until each of `over` is true; the clock runs from before the act.

        Raises:
            AssertionError: something was not over within that time.
        """
        seconds: dict[str, float] = {}
        with ThreadPoolExecutor(1) as pool:
            began_s = time.monotonic()
            # Some acts return only when all is over: it is looked at meanwhile.
            acting = pool.submit(act)
            while len(seconds) < len(over):
                for thing, is_over in over.items():
                    if thing not in seconds and is_over():
                        seconds[thing] = time.monotonic() - began_s
                left = sorted(set(over) - set(seconds))
                assert time.monotonic() - began_s < within_s, f"{name}: {left} after {within_s} s"
                time.sleep(0.01)
            acting.result()
        self._rows.append((name, seconds))

    def table(self) -> str:
        """The table as text; "" when there is nothing in it."""
        if not self._rows:
            return ""
        width = max(len(name) for name, _ in self._rows)
        head = " " * width + "".join(f"{thing:>9}" for thing in THINGS)
        lines = [
            f"{name:<{width}}" + "".join(_cell(seconds.get(thing)) for thing in THINGS)
            for name, seconds in self._rows
        ]
        return "\n".join([head, *lines])


def _cell(seconds: float | None) -> str:
    return f"{'-':>9}" if seconds is None else f"{seconds:>9.2f}"
