"""How far each node of a running prompt is, and when clients are told."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from jupyter_comfy_lock.embedded.schedule import RunGraph

#: A tick is passed on if this many seconds and this share of the whole have gone by since
#: the last one; the first, the last and those with a picture always are.
MIN_INTERVAL_S = 0.1
MIN_SHARE = 0.005


class Throttle:
    """Decides which ticks of one node are worth a message."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._last_value = -1
        self._last_time = 0.0

    def passes(self, value: int, total: int, *, has_picture: bool) -> bool:
        """Whether clients should hear of this tick; remembers it if so."""
        now = self._clock()
        share = (value - max(0, self._last_value)) / total if total > 0 else 1.0
        passes = (
            has_picture
            or self._last_value < 0
            or value >= total
            or (now - self._last_time >= MIN_INTERVAL_S and share >= MIN_SHARE)
        )
        if passes:
            self._last_value, self._last_time = value, now
        return passes


class Progress:
    """The state of every node that has started, as `progress_state` sends it."""

    def __init__(self, prompt_id: str, graph: RunGraph) -> None:
        self._prompt_id = prompt_id
        self._graph = graph
        self._nodes: dict[str, dict[str, Any]] = {}

    def start(self, node_id: str) -> dict[str, Any]:
        """Note that a node runs; returns the data of `progress_state`."""
        return self._set(node_id, 0.0, 1.0, "running")

    def tick(self, node_id: str, value: int, total: int) -> dict[str, Any]:
        """Note a step of a node."""
        return self._set(node_id, value, total, "running")

    def finish(self, node_id: str) -> dict[str, Any]:
        """Note that a node has ended well."""
        total = self._nodes.get(node_id, {"max": 1})["max"]
        return self._set(node_id, total, total, "finished")

    def _set(self, node_id: str, value: float, total: float, state: str) -> dict[str, Any]:
        self._nodes[node_id] = {
            "value": value,
            "max": total,
            "state": state,
            "node_id": node_id,
            "prompt_id": self._prompt_id,
            **self._graph.identity(node_id),
        }
        return {"prompt_id": self._prompt_id, "nodes": self._nodes}
