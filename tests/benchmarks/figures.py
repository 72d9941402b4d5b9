"""What was measured, as a table: each figure beside its baseline's, and what is wanted of it."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

Timed = Callable[[], Awaitable[object]]


def percentile(values: Sequence[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(percent / 100 * len(ordered)))]


async def in_turn(count: int, *works: Timed, warm_up: int = 5) -> list[list[float]]:
    """The seconds that each of `works` took, one after the other, as often."""
    times: list[list[float]] = [[] for _ in works]
    for number in range(-warm_up, count):
        for work, mine in zip(works, times, strict=True):
            start_s = time.perf_counter()
            await work()
            if number >= 0:
                mine.append(time.perf_counter() - start_s)
    return times


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How a figure is to be to its baseline: at most so many times that, or at least."""

    ratio: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.ratio >= self.limit if self.at_least else self.ratio <= self.limit

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{sign} {self.limit:g} x: {'met' if self.met else 'NOT MET'}"


@dataclass
class Report:
    """A table under a title; `show` prints it, with how busy the machine was."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)

    def add(self, what: str, *cells: str, wanted: Wanted | None = None) -> None:
        """Add a row; its last two cells are its ratio and what is wanted of that."""
        judged = (f"{wanted.ratio:.2f} x", str(wanted)) if wanted else ()
        self.rows.append((what, *cells, *judged))

    def show(self) -> None:
        table = Table(box=None, pad_edge=False)
        table.add_column("")
        for name in self.columns:
            table.add_column(name, justify="right")
        for row in self.rows:
            table.add_row(*row)
        load = os.getloadavg()[0]
        cores = os.cpu_count()
        print(f"\n{self.title}\n(load {load:.1f} on {cores} cores)")
        Console(width=130, highlight=False).print(table)


def ms(seconds: Sequence[float], percent: float) -> str:
    """A percentile, as text in milliseconds."""
    return f"{1000 * percentile(seconds, percent):.2f} ms"
