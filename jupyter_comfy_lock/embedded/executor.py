"""Runs prompts, one at a time, in the worker thread."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from jupyter_comfy_lock.embedded import events
from jupyter_comfy_lock.embedded.cache import Cached, ResultCache, Signatures
from jupyter_comfy_lock.embedded.files import Folders
from jupyter_comfy_lock.embedded.hub import Hub
from jupyter_comfy_lock.embedded.nodes.spec import (
    Blocked,
    Interrupted,
    Link,
    NodeResult,
    NodeSpec,
    Subgraph,
)
from jupyter_comfy_lock.embedded.progress import Progress, Throttle
from jupyter_comfy_lock.embedded.prompts import type_name
from jupyter_comfy_lock.embedded.queue import Job, Outcome, PromptQueue
from jupyter_comfy_lock.embedded.schedule import RunGraph, Schedule

_log = logging.getLogger(__name__)


class Executor:
    """What lasts from one prompt to the next, and the loop of the worker thread."""

    def __init__(
        self, nodes: Mapping[str, NodeSpec], folders: Folders, hub: Hub, queue: PromptQueue
    ) -> None:
        self.nodes = nodes
        self.folders = folders
        self.hub = hub
        self.queue = queue
        self.cache = ResultCache()
        #: What nodes remember, by id and class.
        self.memories: dict[tuple[str, str], dict[str, Any]] = {}

    def work(self) -> None:
        """Run prompts until the queue is closed."""
        while not self.queue.closed:
            job = self.queue.take()
            if job is None:
                if self.queue.free_memory_asked():
                    self.cache.clear()
                    self.memories.clear()
                continue
            outcome = self._outcome(job)
            self.queue.finish(job, outcome)
            # After the history is written: who hears this finds the result there.
            self.hub.send_to_owner("executing", {"node": None, "prompt_id": job.prompt_id})

    def _outcome(self, job: Job) -> Outcome:
        self.hub.begin(job.client_id)
        present = {(node_id, node["class_type"]) for node_id, node in job.prompt.items()}
        self.memories = {k: v for k, v in self.memories.items() if k in present}
        try:
            return _Run(self, job).outcome()
        except Exception:  # noqa: BLE001 - a fault of ours must not end the worker
            _log.exception("Prompt %s failed outside its nodes", job.prompt_id)
            return Outcome("error", [], {}, {})
        finally:
            self.hub.last_node = None


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a run stopped: an event for the client and the history."""

    event: str
    data: dict[str, Any]


class _Run:
    """One prompt, from start to end."""

    def __init__(self, executor: Executor, job: Job) -> None:
        self.executor = executor
        self.hub = executor.hub
        self.job = job
        self.graph = RunGraph(job.prompt)
        self.progress = Progress(job.prompt_id, self.graph)
        self._signatures = Signatures(self.graph.nodes, executor.nodes, executor.folders)
        self._schedule = Schedule(self.graph, self._is_done, self._is_output)
        #: Results of this run; the cache may drop them while they are still needed.
        self._results: dict[str, Cached] = {}
        self._expanded: dict[str, NodeResult] = {}
        self._executed: list[str] = []
        self._ui: dict[str, dict[str, Any]] = {}
        self._messages: list[list[Any]] = []

    def outcome(self) -> Outcome:
        """Run the prompt and tell its client of it."""
        self._tell("execution_start", {})
        cached = [x for x in self.job.prompt if self._cached(x)]
        self._tell("execution_cached", {"nodes": cached})
        for node_id in self.job.outputs:
            self._schedule.add(node_id)
        failure = self._run_all()
        if failure is None:
            self._tell("execution_success", {})
        else:
            # An interruption concerns everybody if nobody in particular sent the prompt.
            everybody = failure.event == "execution_interrupted"
            self._tell(failure.event, failure.data, everybody=everybody)
        return Outcome(
            status="success" if failure is None else "error",
            messages=self._messages,
            outputs={k: v["output"] for k, v in self._ui.items()},
            meta={k: v["meta"] for k, v in self._ui.items()},
        )

    def _run_all(self) -> _Failure | None:
        while self._schedule:
            node_id = self._schedule.next()
            context = _Context(self, node_id)
            values: dict[str, Any] = {}
            try:
                done = self._step(context, values)
            except Interrupted:
                return _Failure("execution_interrupted", self._where(node_id))
            except Exception as error:  # noqa: BLE001 - whatever a node does, the server lives
                return _Failure("execution_error", self._failure_data(node_id, error, values))
            if done:
                self._schedule.done(node_id)
        return None

    def _step(self, context: _Context, values: dict[str, Any]) -> bool:
        """Run one node; False if it waits for nodes it expanded into."""
        node_id = context.node_id
        if cached := self._cached(node_id):
            self._resend(node_id, cached)
            self._broadcast_progress(self.progress.finish(node_id))
            return True
        if node_id in self._expanded:
            result = self._resolved(self._expanded.pop(node_id))
        else:
            self._broadcast_progress(self.progress.start(node_id))
            values.update(self._input_values(node_id))
            shown = self.graph.sent_node(node_id)
            self.hub.last_node = shown
            self._send("executing", {"node": node_id, "display_node": shown})
            result = self._result(context, values)
            if result.ui is not None:
                self._show(node_id, result.ui)
            if result.expand is not None:
                self._expand(node_id, result)
                return False
        entry = Cached(result.outputs, self._ui.get(node_id))
        self._results[node_id] = entry
        self.executor.cache.put(self._signatures.of(node_id), entry)
        self._broadcast_progress(self.progress.finish(node_id))
        self._executed.append(node_id)
        return True

    def _result(self, context: _Context, values: Mapping[str, Any]) -> NodeResult:
        spec = self._spec(context.node_id)
        for value in values.values():
            if isinstance(value, Blocked):
                self._report_block(context.node_id, value)
                return NodeResult(tuple(Blocked() for _ in spec.outputs))
        self.raise_if_interrupted()
        return spec.run(context, **values)

    def _input_values(self, node_id: str) -> dict[str, Any]:
        given = self.graph.nodes[node_id]["inputs"]
        values: dict[str, Any] = {}
        for item in self._spec(node_id).inputs:
            if item.name not in given:
                continue
            value = given[item.name]
            values[item.name] = self._linked(value) if isinstance(value, list) else value
        return values

    def _linked(self, link: list[Any]) -> Any:
        node_id, slot = link
        entry = self._results.get(node_id) or self._cached(node_id)
        assert entry is not None, f"node {node_id} has not run"
        self._results[node_id] = entry
        return entry.outputs[slot]

    def _expand(self, node_id: str, result: NodeResult) -> None:
        for new_id, node in (result.expand or {}).items():
            self.graph.add(new_id, node, node_id)
        for new_id in result.expand or {}:
            if self._is_output(new_id):
                self._schedule.add(new_id)
                self._schedule.wait_for(node_id, new_id)
        for value in result.outputs:
            if isinstance(value, Link):
                self._schedule.wait_for(node_id, value.node_id)
        self._expanded[node_id] = result

    def _resolved(self, result: NodeResult) -> NodeResult:
        outputs = tuple(
            self._linked([x.node_id, x.slot]) if isinstance(x, Link) else x for x in result.outputs
        )
        return replace(result, outputs=outputs, expand=None)

    def _show(self, node_id: str, output: Mapping[str, Any]) -> None:
        meta = {
            "node_id": node_id,
            "display_node": self.graph.sent_node(node_id),
            "parent_node": self.graph.parent_of(node_id),
            "real_node_id": self.graph.sent_node(node_id),
        }
        self._ui[node_id] = {"meta": meta, "output": dict(output)}
        self._send_executed(node_id, dict(output))

    def _resend(self, node_id: str, cached: Cached) -> None:
        """Tell of an output that was made earlier: the old files, which may be gone."""
        self._send_executed(node_id, cached.ui["output"] if cached.ui else None)
        if cached.ui:
            self._ui[node_id] = cached.ui

    def _send_executed(self, node_id: str, output: Any) -> None:
        shown = self.graph.sent_node(node_id)
        self._send("executed", {"node": node_id, "display_node": shown, "output": output})

    def _report_block(self, node_id: str, block: Blocked) -> None:
        """Say why a node is skipped. Not the end of the run, and not kept in the history."""
        if block.message is None:
            return
        data = {
            "node_id": node_id,
            "node_type": self.graph.nodes[node_id]["class_type"],
            "executed": list(self._executed),
            "exception_message": f"Execution Blocked: {block.message}",
            "exception_type": "ExecutionBlocked",
            "traceback": [],
            "current_inputs": [],
            "current_outputs": [],
        }
        self._send("execution_error", data)

    def _where(self, node_id: str) -> dict[str, Any]:
        sent = self.graph.sent_node(node_id)
        return {
            "node_id": sent,
            "node_type": self.job.prompt[sent]["class_type"],
            "executed": list(self._executed),
        }

    def _failure_data(
        self, node_id: str, error: Exception, values: Mapping[str, Any]
    ) -> dict[str, Any]:
        _log.info("Node %s of prompt %s raised", node_id, self.job.prompt_id, exc_info=error)
        return {
            **self._where(node_id),
            "exception_message": f"{error}\n",
            "exception_type": type_name(error),
            "traceback": traceback.format_tb(error.__traceback__),
            "current_inputs": {name: [_printable(value)] for name, value in values.items()},
            "current_outputs": list(self.job.prompt),
        }

    def _cached(self, node_id: str) -> Cached | None:
        return self.executor.cache.get(self._signatures.of(node_id))

    def _is_done(self, node_id: str) -> bool:
        return node_id in self._results or self._cached(node_id) is not None

    def _is_output(self, node_id: str) -> bool:
        return self._spec(node_id).output_node

    def _spec(self, node_id: str) -> NodeSpec:
        class_type: str = self.graph.nodes[node_id]["class_type"]
        return self.executor.nodes[class_type]

    def _tell(self, event: str, data: dict[str, Any], *, everybody: bool = False) -> None:
        """Send an event that the history keeps."""
        stamped = {
            "prompt_id": self.job.prompt_id,
            **data,
            "timestamp": int(self.executor.folders.faults.wall_s() * 1000),
        }
        if event == "execution_cached":
            stamped = {"nodes": data["nodes"], **stamped}
        self._messages.append([event, stamped])
        if everybody:
            self.hub.send(event, stamped, self.hub.client_id)
        else:
            self.hub.send_to_owner(event, stamped)

    def _send(self, event: str, data: Mapping[str, Any]) -> None:
        self.hub.send_to_owner(event, {**data, "prompt_id": self.job.prompt_id})

    def _broadcast_progress(self, data: Mapping[str, Any]) -> None:
        self.hub.send_graph(data)

    def raise_if_interrupted(self) -> None:
        """Stop here if somebody asked to."""
        if self.executor.queue.take_interrupt():
            raise Interrupted

    def tick(self, node_id: str, value: int, total: int, picture: tuple[bytes, str] | None) -> None:
        """Tell the client of a step, and show the picture in the form it understands."""
        client_id = self.hub.client_id
        self._broadcast_progress(self.progress.tick(node_id, value, total))
        metadata = self.hub.supports(client_id, "supports_preview_metadata")
        if picture and metadata:
            about = {"node_id": node_id, "prompt_id": self.job.prompt_id}
            about |= self.graph.identity(node_id)
            self.hub.send_bytes(events.preview_message_with_metadata(*picture, about), client_id)
        data = {"value": value, "max": total, "prompt_id": self.job.prompt_id, "node": node_id}
        self.hub.send("progress", data, client_id)
        if picture and not metadata:
            self.hub.send_bytes(events.preview_message(*picture), client_id)


class _Context:
    """The `NodeContext` of one node in one run."""

    def __init__(self, run: _Run, node_id: str) -> None:
        self._run = run
        self._throttle = Throttle()
        self._subgraphs = 0
        self.node_id = node_id

    @property
    def prompt(self) -> Mapping[str, Any]:
        return self._run.job.prompt

    @property
    def extra_pnginfo(self) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self._run.job.extra_data.get("extra_pnginfo")
        return found

    @property
    def folders(self) -> Folders:
        return self._run.executor.folders

    @property
    def memory(self) -> dict[str, Any]:
        class_type = self._run.graph.nodes[self.node_id]["class_type"]
        return self._run.executor.memories.setdefault((self.node_id, class_type), {})

    def progress(self, value: int, total: int, preview: Image.Image | None = None) -> None:
        self._tick(value, total, preview, "JPEG")

    def show_picture(self, value: int, total: int, picture: Image.Image) -> None:
        self._tick(value, total, picture, "PNG")

    def _tick(self, value: int, total: int, image: Image.Image | None, kind: str) -> None:
        self._run.raise_if_interrupted()
        value = min(value, total)
        if not self._throttle.passes(value, total, has_picture=image is not None):
            return
        size = events.PREVIEW_SIZE if kind == "JPEG" else None
        picture = (events.encode(image, kind, size), kind) if image is not None else None
        self._run.tick(self.node_id, value, total, picture)

    def say(self, text: str) -> None:
        self._run.hub.send_bytes(events.text_message(self.node_id, text), None)

    def subgraph(self) -> Subgraph:
        self._subgraphs += 1
        return Subgraph(f"{self.node_id}.0.{self._subgraphs - 1}.")


def _printable(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)
