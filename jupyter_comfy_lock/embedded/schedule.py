"""Which node runs next. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class RunGraph:
    """The nodes of a running prompt: those that were sent, and those that nodes expanded into."""

    def __init__(self, prompt: Mapping[str, Mapping[str, Any]]) -> None:
        self.nodes: dict[str, Mapping[str, Any]] = dict(prompt)
        self._parents: dict[str, str] = {}

    def add(self, node_id: str, node: Mapping[str, Any], parent: str) -> None:
        """Add a node that `parent` expanded into."""
        self.nodes[node_id] = node
        self._parents[node_id] = parent

    def parent_of(self, node_id: str) -> str | None:
        """The node that expanded into this one; None for a node that was sent."""
        return self._parents.get(node_id)

    def sent_node(self, node_id: str) -> str:
        """The node of the prompt that this one came from, or is."""
        while (parent := self._parents.get(node_id)) is not None:
            node_id = parent
        return node_id

    def identity(self, node_id: str) -> dict[str, Any]:
        """The ids by which clients place a node."""
        return {
            "display_node_id": self.sent_node(node_id),
            "parent_node_id": self.parent_of(node_id),
            "real_node_id": self.sent_node(node_id),
        }


class Schedule:
    """Nodes that still have to run, each after all it needs.

    Among those that may run now, an output node goes first, then what an output node waits
    for directly, then what it waits for at one remove: pictures show up as early as they can.
    """

    def __init__(
        self,
        graph: RunGraph,
        is_cached: Callable[[str], bool],
        is_output: Callable[[str], bool],
    ) -> None:
        self._graph = graph
        self._is_cached = is_cached
        self._is_output = is_output
        #: What each pending node waits for, in the order the nodes were found.
        self._needs: dict[str, set[str]] = {}

    def add(self, node_id: str) -> None:
        """Add a node and everything it needs that is not cached."""
        unseen = [node_id]
        while unseen:
            current = unseen.pop()
            if current in self._needs:
                continue
            sources = [
                value[0]
                for value in self._graph.nodes[current]["inputs"].values()
                if isinstance(value, list) and len(value) == 2 and value[0] in self._graph.nodes
            ]
            missing = [x for x in sources if not self._is_cached(x)]
            self._needs[current] = set(missing)
            unseen += missing

    def wait_for(self, node_id: str, source: str) -> None:
        """Let a pending node wait for one more, unless that is cached."""
        if not self._is_cached(source):
            self.add(source)
            self._needs[node_id].add(source)

    def done(self, node_id: str) -> None:
        """Take a node off."""
        del self._needs[node_id]
        for needs in self._needs.values():
            needs.discard(node_id)

    def __bool__(self) -> bool:
        return bool(self._needs)

    def next(self) -> str:
        """Return the node to run now; it stays pending until `done`."""
        ready = [x for x, needs in self._needs.items() if not needs]
        return min(ready, key=self._distance_to_output)

    def _distance_to_output(self, node_id: str) -> int:
        layer = {node_id}
        for distance in range(3):
            if any(self._is_output(x) for x in layer):
                return distance
            layer = {x for x, needs in self._needs.items() if needs & layer}
        return 3
