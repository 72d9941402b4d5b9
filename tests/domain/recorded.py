"""What a real ComfyUI said, out of the recordings that the conformance tests replay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TRACES = Path(__file__).parents[1] / "conformance" / "traces"


def events(number: str) -> list[dict[str, Any]]:
    """Return the events of the recording whose name begins with `number`."""
    (path,) = TRACES.glob(f"{number}-*.json")
    return list(json.loads(path.read_text())["events"])


def texts(number: str, socket: str = "A") -> list[str]:
    """Return the text frames that a socket received."""
    return [
        json.dumps(each["msg"])
        for each in events(number)
        if each["kind"] == "ws_recv" and each["sock"] == socket
    ]


def prompts(number: str) -> list[str]:
    """Return the ids of the prompts that ComfyUI took, in order."""
    answers = [each.get("body") for each in events(number) if each["kind"] == "http_response"]
    return [x["prompt_id"] for x in answers if isinstance(x, dict) and "number" in x]


def history(number: str, prompt_id: str) -> dict[str, Any]:
    """Return the last history entry of a prompt."""
    answers = [each.get("body") for each in events(number) if each["kind"] == "http_response"]
    entries = [x[prompt_id] for x in answers if isinstance(x, dict) and x.get(prompt_id)]
    return dict(entries[-1])


def answers(number: str, path: str) -> list[Any]:
    """Return the bodies of the answers to a path."""
    found, asked = [], False
    for each in events(number):
        if each["kind"] == "http_request":
            asked = each["path"] == path
        elif each["kind"] == "http_response" and asked:
            found.append(each.get("body"))
    return found
