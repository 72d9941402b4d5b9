"""What a socket heard, told so that two runs of the same thing tell the same.

What may differ between two runs of a real ComfyUI is left out, and nothing else:
- `status`, apart from the first: every put, take and end makes one, and two that are close
  together may come before or after another prompt's events;
- how many steps of one node were told: ComfyUI leaves out those that follow too fast, so a
  run of `progress`, its `progress_state` and previews counts once;
- the order of branches, where a prompt has several outputs: ComfyUI keeps them in a set.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

OUTPUT_CLASSES = {"PreviewImage", "SaveImage", "SaveImageWebsocket", "TrSlowOut", "TrTextOut"}


@dataclass(frozen=True)
class Token:
    """One thing that happened."""

    kind: str
    prompt_id: str | None = None
    node: str | None = None
    more: tuple[Any, ...] = ()


@dataclass
class Story:
    """Turns the messages of one socket into tokens, as they come in."""

    #: Prompts whose branches may run in any order.
    branching: set[str]
    #: Live prompt ids by which recorded one they stand for.
    aliases: dict[str, str] = field(default_factory=dict)
    tokens: list[Token] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    _states: dict[str, dict[str, str]] = field(default_factory=dict)
    _ticks: set[Token] = field(default_factory=set)
    _running: str | None = None

    def add(self, event: dict[str, Any]) -> None:
        """Note one received message, in the form of the recordings."""
        if event["kind"] == "ws_recv_binary":
            self._tick(self._binary(event))
            return
        kind, data = event["msg"]["type"], event["msg"]["data"]
        if kind == "status":
            self.statuses.append(data["status"]["exec_info"]["queue_remaining"])
            if "sid" in data:
                self._event(Token("first status"))
        elif kind == "execution_start":
            self._running = self._id(data)
            self._states.pop(self._running, None)  # the same id may run twice
            self._event(Token(kind, self._id(data)))
        elif kind == "progress_state":
            self._progress_state(data)
        elif kind == "progress":
            self._tick(Token("progress", self._id(data), data["node"], (data["max"],)))
        elif kind == "executing" and "prompt_id" not in data:
            self._event(Token("executing, told anew", None, data["node"]))
        elif kind == "executing":
            self._event(Token(kind, self._id(data), data["node"], (data.get("display_node"),)))
        elif kind == "executed":
            shape = _shape(data["output"])
            self._event(Token(kind, self._id(data), data["node"], (data["display_node"], shape)))
        elif kind in ("execution_error", "execution_interrupted"):
            more = (data["node_type"], data.get("exception_type"), data.get("exception_message"))
            self._event(Token(kind, self._id(data), data["node_id"], more))
        elif kind == "execution_cached":
            self._event(Token(kind, self._id(data), None, tuple(sorted(data["nodes"]))))
        elif kind == "feature_flags":
            self._event(Token(kind))
        else:
            self._event(Token(kind, self._id(data)))

    def told(self) -> list[Token]:
        """The tokens, branches of one prompt sorted by node."""
        result: list[Token] = []
        branches: list[Token] = []
        for token in [*self.tokens, Token("end of story")]:
            if token.node is not None and token.prompt_id in self.branching:
                branches.append(token)
                continue
            result += sorted(branches, key=lambda x: str(x.node))
            branches = []
            result.append(token)
        return result[:-1]

    def _id(self, data: dict[str, Any]) -> str:
        return self.aliases.get(data["prompt_id"], data["prompt_id"])

    def _event(self, token: Token) -> None:
        self.tokens.append(token)
        self._ticks = set()

    def _tick(self, token: Token) -> None:
        if token not in self._ticks:
            self._ticks.add(token)
            self.tokens.append(token)

    def _progress_state(self, data: dict[str, Any]) -> None:
        prompt_id = self._id(data)
        before = self._states.get(prompt_id, {})
        now = {node_id: x["state"] for node_id, x in data["nodes"].items()}
        assert before.keys() <= now.keys(), "progress_state must name all nodes that started"
        self._states[prompt_id] = now
        for node_id, state in now.items():
            if before.get(node_id) != state:
                whole = data["nodes"][node_id]
                more = (whole["value"], whole["max"]) if state == "finished" else ()
                self._event(Token("progress_state", prompt_id, node_id, (state, *more)))

    def _binary(self, event: dict[str, Any]) -> Token:
        kind = f"binary {event['event_type']}"
        if event["event_type"] == 3:
            # It names no prompt. Where branches are sorted it must go with its node, though.
            prompt_id = self._running if self._running in self.branching else None
            return Token(kind, prompt_id, event["node_id"], (event["text"],))
        if event["event_type"] == 1:
            return Token(kind, None, None, (event["image_type"],))
        metadata = event["metadata"]
        more = tuple(metadata[x] for x in sorted(metadata) if x not in ("node_id", "prompt_id"))
        return Token(kind, self._id(metadata), metadata["node_id"], more)


def _shape(output: Any) -> Any:
    """Return the output with the names of files reduced to how they end."""
    if isinstance(output, dict):
        return tuple(
            (k, v.rpartition("_")[2] if k == "filename" else _shape(v))
            for k, v in sorted(output.items())
        )
    if isinstance(output, list):
        return tuple(_shape(x) for x in output)
    return output


def branching_prompts(events: list[dict[str, Any]]) -> set[str]:
    """The recorded prompts with more than one output node, by the id they were answered with."""
    found, outputs = set(), 0
    for event in events:
        if event["kind"] == "http_request":
            prompt = _sent_prompt(event)
            outputs = sum(x.get("class_type") in OUTPUT_CLASSES for x in prompt.values())
        elif event["kind"] == "http_response" and outputs > 1:
            body = event["body"]
            found |= (
                {body["prompt_id"]} if isinstance(body, dict) and "prompt_id" in body else set()
            )
    return found


def _sent_prompt(event: dict[str, Any]) -> dict[str, Any]:
    body = event.get("json")
    prompt = body.get("prompt") if isinstance(body, dict) else None
    nodes = prompt if isinstance(prompt, dict) else {}
    return {k: v for k, v in nodes.items() if isinstance(v, dict)}
