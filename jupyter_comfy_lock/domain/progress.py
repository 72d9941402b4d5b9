"""How far a task is: a value that grows with each message of the ComfyServer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from jupyter_comfy_lock.domain.comfy import (
    CachedNodes,
    Executed,
    Executing,
    GraphProgress,
    Message,
    StepProgress,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress over the graph and in the node that runs now."""

    #: Nodes that an output of the prompt needs.
    needed: frozenset[str] = frozenset()
    #: Those of them that are done, or need not run because ComfyUI has their results.
    done: frozenset[str] = frozenset()
    #: Those of them that need not run.
    cached: frozenset[str] = frozenset()
    node_id: str | None = None
    value: float = 0.0
    maximum: float = 0.0
    #: Number of the newest preview frame; 0 while there is none.
    preview: int = 0
    #: The node that the newest preview is of.
    preview_node_id: str | None = None
    #: The ComfyServer tells of each node by itself; one before 0.3.45 only of the next one.
    by_node: bool = False

    def after(self, message: Message) -> "Progress":
        """Return the progress once `message`, about this task, has come."""
        match message:
            case CachedNodes(nodes=nodes):
                cached = self.cached | (self.needed & frozenset(nodes))
                return replace(self, done=self._with(nodes), cached=cached)
            case Executing(node=str(node)):
                over = () if self.by_node or self.node_id in (None, node) else (self.node_id,)
                done = self._with(over)
                return replace(self, node_id=node, value=0.0, maximum=0.0, done=done)
            case StepProgress(node=node, value=value, maximum=maximum):
                return replace(self, node_id=node, value=value, maximum=maximum)
            case GraphProgress(nodes=nodes):
                return self._after_graph(nodes)
            case Executed(node=node):
                return replace(self, done=self._with((node,)))
        return self

    def previewed(self, node_id: str | None) -> "Progress":
        """Return the progress with one more preview, of the node that runs unless it is named."""
        return replace(self, preview=self.preview + 1, preview_node_id=node_id or self.node_id)

    def complete(self) -> "Progress":
        """Return the progress of a task that succeeded: what was needed is done."""
        return replace(self, done=self.needed, node_id=None, value=0.0, maximum=0.0)

    def to_json(self, classes: Mapping[str, str]) -> dict[str, Any]:
        """Return the progress as REST and events show it; `classes` names each node's class."""
        return {
            "nodes_done": len(self.done),
            "nodes_total": len(self.needed),
            "node_id": self.node_id,
            "node_class": classes.get(self.node_id or ""),
            "value": self.value,
            "max": self.maximum,
            "preview": self.preview,
            "preview_node_id": self.preview_node_id,
            "done_node_ids": sorted(self.done),
            "cached_node_ids": sorted(self.cached),
        }

    def _after_graph(self, nodes: Mapping[str, tuple[str, float, float]]) -> "Progress":
        done = self._with(node for node, (state, _, _) in nodes.items() if state == "finished")
        running = [
            (node, value, maximum)
            for node, (state, value, maximum) in nodes.items()
            if state == "running"
        ]
        if not running:
            # Its steps are part of what is done now, and count once.
            over = self.node_id in done
            value, maximum = (0.0, 0.0) if over else (self.value, self.maximum)
            return replace(self, done=done, value=value, maximum=maximum, by_node=True)
        # Several may run at once; stay with the one that is shown, so that the bar does not jump.
        node, value, maximum = next(
            (each for each in running if each[0] == self.node_id), running[-1]
        )
        return replace(self, done=done, node_id=node, value=value, maximum=maximum, by_node=True)

    def _with(self, nodes: Iterable[str]) -> frozenset[str]:
        # Expanded nodes have ids that are not in the prompt, such as "1.0.0.2": not counted.
        return self.done | (self.needed & frozenset(nodes))


def progress_of(prompt: Mapping[str, Any], outputs: Iterable[str]) -> Progress:
    """Return the progress of a prompt that has not begun, given its output nodes."""
    needed: set[str] = set()
    waiting = [node for node in outputs if node in prompt]
    while waiting:
        node = waiting.pop()
        if node in needed:
            continue
        needed.add(node)
        inputs = prompt[node].get("inputs") or {}
        waiting += [
            str(value[0])
            for value in inputs.values()
            if isinstance(value, list) and len(value) == 2 and str(value[0]) in prompt
        ]
    return Progress(needed=frozenset(needed))
