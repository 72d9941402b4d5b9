"""Node results, kept from one prompt to the next."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jupyter_comfy_lock.embedded.files import Folders
from jupyter_comfy_lock.embedded.nodes.spec import NodeSpec

#: Results beyond this many bytes of pictures are forgotten, oldest use first.
MAX_BYTES = 256 * 1024 * 1024
MAX_ENTRIES = 2000


@dataclass(frozen=True, slots=True)
class Cached:
    """What one node made."""

    outputs: tuple[Any, ...]
    #: `{"meta": …, "output": …}` of an output node.
    ui: dict[str, Any] | None

    def nbytes(self) -> int:
        """Bytes held by arrays."""
        return sum(x.nbytes for x in self.outputs if isinstance(x, np.ndarray))


class ResultCache:
    """Results by signature; only for the worker thread."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._entries: OrderedDict[str, Cached] = OrderedDict()
        self._max_bytes = max_bytes
        self._bytes = 0

    def get(self, signature: str) -> Cached | None:
        """Return the result kept for `signature`."""
        entry = self._entries.get(signature)
        if entry is not None:
            self._entries.move_to_end(signature)
        return entry

    def put(self, signature: str, entry: Cached) -> None:
        """Keep a result, in place of the longest unused ones if there is no room."""
        if old := self._entries.pop(signature, None):
            self._bytes -= old.nbytes()
        self._entries[signature] = entry
        self._bytes += entry.nbytes()
        while self._bytes > self._max_bytes or len(self._entries) > MAX_ENTRIES:
            _, gone = self._entries.popitem(last=False)
            self._bytes -= gone.nbytes()

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._bytes = 0


class Signatures:
    """The signature of each node of one prompt: equal signature, equal result.

    It covers the class, the constant inputs, what the class reads beside them (files), and
    the signatures of all nodes it gets values from; ids only where a node asks for its id.
    """

    def __init__(
        self,
        graph: Mapping[str, Mapping[str, Any]],
        nodes: Mapping[str, NodeSpec],
        folders: Folders,
    ) -> None:
        self._graph = graph
        self._nodes = nodes
        self._folders = folders
        self._known: dict[str, str] = {}

    def of(self, node_id: str) -> str:
        """Return the signature of a node that is in the graph now."""
        if node_id not in self._known:
            self._known[node_id] = self._make(node_id)
        return self._known[node_id]

    def _make(self, node_id: str) -> str:
        node = self._graph[node_id]
        spec = self._nodes[node["class_type"]]
        parts: list[Any] = [spec.class_type]
        if spec.result_depends_on_id():
            parts.append(node_id)
        constants: dict[str, Any] = {}
        for item in spec.inputs:
            if item.name not in node["inputs"]:
                continue
            value = node["inputs"][item.name]
            if isinstance(value, list):
                parts.append([item.name, self.of(value[0]), value[1]])
            else:
                constants[item.name] = value
        parts.append(constants)
        if spec.fingerprint:
            parts.append(self._fingerprint(spec, constants))
        text = json.dumps(parts, sort_keys=True, default=repr)
        return hashlib.sha256(text.encode()).hexdigest()

    def _fingerprint(self, spec: NodeSpec, constants: Mapping[str, Any]) -> str:
        assert spec.fingerprint is not None
        try:
            return spec.fingerprint(self._folders, constants)
        except OSError:
            # Cannot be told from before: not a cached result in any case.
            return uuid.uuid4().hex
